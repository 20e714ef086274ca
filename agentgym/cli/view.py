"""``view`` a run in a browser tab, or in this terminal."""

from __future__ import annotations

import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import MissingExtra, UsageError


class ViewConfig(Struct, forbid_unknown_fields=True):
    """A run to look at, also while it is running."""

    folder: Annotated[str, Meta(description="run folder")]
    port: Annotated[int, Meta(description="port on the loopback interface; 0: any", ge=0, le=65535)] = 0
    open: Annotated[bool, Meta(description="open a browser tab")] = False
    tui: Annotated[bool, Meta(description="look at it in this terminal")] = False


def view(config: ViewConfig, screen: Screen) -> Answer:
    """Serve until interrupted. Raises ``UsageError`` where there is no run, ``MissingExtra`` without a server."""
    if config.tui:
        return _terminal(config)
    try:
        import uvicorn

        from agentgym.view.app import Viewer
    except ImportError as error:
        raise MissingExtra(str(error.name), "pip install 'agentgym-core[view]'") from None
    viewer = Viewer(Path(config.folder))
    listening = socket.create_server(("127.0.0.1", config.port))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited: an answer in two parts would wait 40 ms for an acknowledgement
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/?token={viewer.token}"
    print(f"open {address}   (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if config.open:
        threading.Timer(0.5, webbrowser.open, (address,)).start()
    uvicorn.Server(uvicorn.Config(viewer.app(), log_level="warning", access_log=False, lifespan="off")).run(sockets=[listening])
    return Answer({"folder": config.folder, "episodes": len(viewer.index.rows)}, "")


def _terminal(config: ViewConfig) -> Answer:
    try:
        from agentgym.view.terminal import Terminal
    except ImportError as error:
        raise MissingExtra(str(error.name), "pip install 'agentgym-core[view]'") from None
    if not sys.stdout.isatty():
        raise UsageError("--tui needs a terminal; agentgym view DIR serves a page instead")
    app = Terminal(Path(config.folder))
    app.run()
    return Answer({"folder": config.folder, "episodes": len(app.index.rows)}, "")


VIEW = Command("view", "Look at a run in a browser tab, or in the terminal.", "agentgym view runs/oracle", ViewConfig, view, ("folder",))
