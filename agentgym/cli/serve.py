"""``serve`` environments over HTTP, WebSocket and MCP."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.episode import EpisodeStore
from agentgym.errors import MissingExtra, UsageError
from agentgym.policies import resolve


class ServeConfig(Struct, forbid_unknown_fields=True):
    """Environments for programs elsewhere. Whoever has the token may make them with any option; a session's own key plays that session alone."""

    envs: Annotated[list[str], Meta(description="environments, with or without version")]
    host: Annotated[str, Meta(description="interface to listen on; anything but the loopback wants --token or AGENTGYM_TOKEN")] = "127.0.0.1"
    port: Annotated[int, Meta(description="port; 0: any", ge=0, le=65535)] = 8765
    token: Annotated[str, Meta(description="bearer token; default AGENTGYM_TOKEN, else a fresh one that is printed")] = ""
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable; clients cannot change them")] = {}
    origin: Annotated[list[str], Meta(description="a web page's origin that may use the server, repeatable")] = []
    with_oracle: Annotated[bool, Meta(description="tell solutions to who has the token")] = False
    policy: Annotated[
        str, Meta(description="also serve this model, recorded by session, in the dialects of OpenAI and Anthropic: hf:PATH, openai:MODEL@URL")
    ] = ""
    temperature: Annotated[float, Meta(description="sampling temperature of --policy", ge=0)] = 1.0
    max_tokens: Annotated[int, Meta(description="longest answer of --policy in tokens", ge=1)] = 1024
    out: Annotated[str, Meta(description="folder for the episodes that --policy's sessions come to")] = ""
    plays: Annotated[bool, Meta(description="play whole attempts by policies made here, as the workers of agentgym eval --workers do")] = False
    sessions: Annotated[int, Meta(description="sessions held at once", ge=1)] = 4096
    idle: Annotated[float, Meta(description="seconds after which an idle session is ended", gt=0)] = 1800.0


def serve(config: ServeConfig, screen: Screen) -> Answer:
    """Serve until interrupted. The address and the token are told as one JSON line. Raises ``MissingExtra`` without a server."""
    if not config.envs:
        raise UsageError(f"agentgym serve needs ENVS; e.g. {SERVE.example}")
    try:
        import uvicorn

        from agentgym.serving.app import LOOPBACK, Server, alive, settings
        from agentgym.serving.recorder import Recorder
        from agentgym.serving.sessions import Bounds, Sessions
    except ImportError as error:
        raise MissingExtra(str(error.name), "pip install 'agentgym-core[serve]'") from None
    token = config.token or os.environ.get("AGENTGYM_TOKEN", "")
    local = config.host in ("127.0.0.1", "localhost", "::1")
    if not local and len(token) < 16:
        raise UsageError(f"to listen on {config.host}, say a token of 16 characters or more with --token or AGENTGYM_TOKEN")
    sessions = Sessions(config.envs, options=config.option, bounds=Bounds(config.sessions, config.idle), oracle=config.with_oracle, plays=config.plays)
    if config.out and not config.policy:
        raise UsageError("--out keeps what --policy says; without a policy there is nothing to keep")
    recorder = None
    if config.policy:
        store = EpisodeStore(Path(config.out) / "episodes.jsonl") if config.out else None
        recorder = Recorder(resolve(config.policy, temperature=config.temperature, max_tokens=config.max_tokens), store)
    server = Server(sessions, token, origins=tuple(config.origin), hosts=LOOPBACK if local else (), recorder=recorder)
    try:
        listening = socket.create_server((config.host, config.port), backlog=4096)
    except OSError as error:
        raise UsageError(f"cannot listen on {config.host}:{config.port}: {error.strerror}") from None
    alive(listening)
    url = f"http://{config.host}:{listening.getsockname()[1]}"
    told = {"url": url, "token": server.token, "environments": sessions.envs}
    print(msgspec.json.encode(told).decode(), flush=True)
    print(f"agentgym.make({f'{sessions.envs[0]}@{url}'!r})   (Ctrl-C ends it)", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(server.app(), **settings(sessions.bounds.message_bytes))).run(sockets=[listening])
    return Answer({"sessions": len(sessions.open)}, "")


SERVE = Command("serve", "Serve environments over HTTP, WebSocket and MCP.", "agentgym serve tools/desk text/world", ServeConfig, serve, ("envs",))
