"""One connection of a client: a WebSocket over a plain socket, used from a thread or from any event loop, with no thread of its own."""

from __future__ import annotations

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from agentgym.errors import SandboxFault, Unauthorised
from agentgym.serving import protocol as p

CONNECT_S = 10.0
CHUNK = 1 << 18


class Lost(SandboxFault):
    """Raised when the server cannot be reached, or has gone: a fault of nobody at play."""


class Wire:
    """A connection to ``url`` (``http://HOST:PORT`` or ``https://``), made at once.

    Raises:
        Lost: there is no server.
        Unauthorised: it does not take the token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url, parts = url, urlsplit(url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        try:
            self._socket = socket.create_connection((parts.hostname or "", port), CONNECT_S)
            if secure:
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=parts.hostname)
        except OSError as error:
            raise Lost(f"no server answers at {url}: {error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._secure = secure
        uri = parse_uri(f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path.rstrip('/')}/ws")
        self._protocol = ClientProtocol(uri, max_size=None)
        hello = self._protocol.connect()
        hello.headers["Authorization"] = f"Bearer {token}"
        self._protocol.send_request(hello)
        self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._take(self._receive())
        if self._protocol.handshake_exc is not None:
            self._socket.close()
            raise Unauthorised(f"{url} refuses: is AGENTGYM_TOKEN its token?")
        self._protocol.events_received()
        self._parts: list[bytes] = []
        self._socket.settimeout(None)

    def ask(self, request: p.Request, answer: Any) -> Any:
        """The answer to a request, as a thing of that type; the calling thread waits.

        Raises:
            AgentGymError: it was refused, for the reason that the error tells.
            Lost: the server has gone.
        """
        try:
            self._send(request)
            while (data := self._whole()) is None:
                self._take(self._receive())
        except BaseException:
            self.close()  # the answer may still come: nobody must take it for another's
            raise
        return _read(data, answer)

    async def aask(self, request: p.Request, answer: Any) -> Any:
        """The same, on any event loop."""
        if self._secure:  # what a TLS socket holds, no selector sees
            return await anyio.to_thread.run_sync(self.ask, request, answer)
        try:
            self._send(request)
            while (data := self._whole()) is None:
                await anyio.wait_readable(self._socket)
                self._take(self._receive())
        except BaseException:
            self.close()
            raise
        return _read(data, answer)

    def close(self) -> None:
        """Close the connection, and with it its sessions; idempotent."""
        self._socket.close()

    def _send(self, request: p.Request) -> None:
        try:
            self._protocol.send_text(p.encode(request))
        except WebSocketException as error:
            raise self._lost(error) from None
        self._flush()

    def _lost(self, error: Exception) -> Lost:
        self.close()
        return Lost(f"the connection to {self.url} is lost: {error or type(error).__name__}")

    def _flush(self) -> None:
        try:
            for data in self._protocol.data_to_send():
                self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(CHUNK)
        except OSError as error:
            raise self._lost(error) from None

    def _take(self, data: bytes) -> None:
        if not data:
            self.close()
            raise Lost(f"the server at {self.url} has gone")
        self._protocol.receive_data(data)
        self._flush()

    def _whole(self) -> bytes | None:
        """A whole message, if there is one."""
        for frame in self._protocol.events_received():
            if not isinstance(frame, Frame) or frame.opcode is Opcode.CLOSE:
                self.close()
                raise Lost(f"the server at {self.url} closed the connection")
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(bytes(frame.data))
                if frame.fin:
                    data, self._parts = b"".join(self._parts), []
                    return data
        return None


def _read(data: bytes, answer: Any) -> Any:
    if data.startswith(b'{"error":'):
        raise p.raised(msgspec.json.decode(data, type=p.Refused))
    return msgspec.json.decode(data, type=answer)
