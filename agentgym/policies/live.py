"""A person at a browser tab: what is on the screen, live, and clicks and keys as actions. Loopback only, behind a token."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread

from agentgym.core import AgentEnv, Completion, Conversation
from agentgym.messages import text_of
from agentgym.picture import png
from agentgym.policies import no_argument

PAGE = Path(__file__).with_name("live.html")
MOST_ACTION = 1 << 16
NAMES = {"click": ("click_at",), "double": ("double_click_at",), "right": ("right_click_at",), "type": ("type", "type_text"), "key": ("key", "press")}
"""What a page's hand can do, and the tools that do it, by name: whichever of them an environment has."""


class Live:
    """One episode in a browser tab. The address, with its token, is printed; nothing else is answered."""

    name = "human"

    def __init__(self, argument: str = "", **settings: Any) -> None:
        no_argument("live", argument)
        self._token = secrets.token_urlsafe(16)
        self._state: dict[str, Any] = {"turn": 0, "text": "", "tools": {}, "picture": False, "over": False}
        self._png = b""
        self._asked = threading.Condition()
        self._action: str | None = None
        self._server: ThreadingHTTPServer | None = None

    def attach(self, env: AgentEnv) -> Live:
        """Open the page for the episode that ``env`` has just begun."""
        self._state["tools"] = {verb: next((n for n in names if n in env.tools), "") for verb, names in NAMES.items()}
        if self._server is None:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            threading.Thread(target=self._server.serve_forever, name="agentgym-live", daemon=True).start()
            print(f"open {self.address}", file=sys.stderr, flush=True)
        return self

    @property
    def address(self) -> str:
        """Where the page is."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/?token={self._token}"

    async def act(self, conversation: Conversation) -> Completion:
        """Show what is new, and wait for an action from the page. An empty one, said by its button, ends the episode (finish ``abort``)."""
        said = [m for m in conversation.messages if m["role"] != "assistant"]
        new = said if self._state["turn"] == 0 else said[-1:]
        with self._asked:
            if conversation.images:
                self._png = png(conversation.images[-1])
            self._state |= {"turn": self._state["turn"] + 1, "text": text_of(new), "picture": bool(conversation.images)}
            self._asked.notify_all()
        action = await anyio.to_thread.run_sync(self._wait, abandon_on_cancel=True)
        return Completion(action, finish="stop" if action else "abort")

    def _wait(self) -> str:
        with self._asked:
            self._asked.wait_for(lambda: self._action is not None)
            action, self._action = self._action, None
            return action or ""

    # What the page asks for

    def state(self, after: int) -> bytes:
        """What is to be seen, once there is something after turn ``after`` (or half a minute has passed)."""
        with self._asked:
            self._asked.wait_for(lambda: self._state["turn"] > after, 30)
            return json.dumps(self._state).encode()

    def picture(self) -> bytes:
        """The screen."""
        return self._png

    def take(self, action: str) -> None:
        """An action from the page."""
        with self._asked:
            self._action = action[:MOST_ACTION]
            self._asked.notify_all()

    def allowed(self, host: str, token: str) -> bool:
        """Whether a request is from the page itself: by the token, and addressed to this machine."""
        return host.partition(":")[0] in ("127.0.0.1", "localhost") and secrets.compare_digest(token.encode(), self._token.encode())


def _handler(live: Live) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def _allowed(self) -> bool:
            token = self.path.partition("token=")[2].partition("&")[0]
            if live.allowed(self.headers.get("Host", ""), token):
                return True
            self.send_error(403)
            return False

        def _send(self, kind: str, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:  # the library's name
            if not self._allowed():
                return
            if self.path.startswith("/state"):
                after = self.path.partition("after=")[2].partition("&")[0]
                self._send("application/json", live.state(int(after) if after.isdigit() else 0))
            elif self.path.startswith("/screen"):
                self._send("image/png", live.picture())
            else:
                self._send("text/html; charset=utf-8", PAGE.read_bytes())

        def do_POST(self) -> None:
            if self._allowed():
                live.take(self.rfile.read(min(MOST_ACTION, int(self.headers.get("Content-Length") or 0))).decode("utf-8", "replace"))
                self._send("text/plain", b"")

    return Handler
