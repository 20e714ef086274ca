"""A chat endpoint that answers every request after a fixed time with a valid score: as little work per request as can be."""

import asyncio
import json
import sys

DELAY = float(sys.argv[1]) if len(sys.argv) > 1 else 0.05
CONTENT = json.dumps({"critique": "fine", "score": 7, "quotes": []})
BODY = json.dumps({"choices": [{"message": {"content": CONTENT}, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY


class Stub(asyncio.Protocol):
    """Reads requests by their length alone; one at a time on a connection, as clients without pipelining send them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.held = transport, b""

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, found, rest = self.held.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
        if len(rest) >= length:
            self.held = rest[length:]
            asyncio.get_running_loop().call_later(DELAY, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(REPLY)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
