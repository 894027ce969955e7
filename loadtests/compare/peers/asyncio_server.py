"""The peers "asyncio" and "uvloop" (`--uvloop`): streams as documented, or with `--protocol`."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from typing import Any, cast

from loadtests.compare.peers.shared import LineBuffer, announce, options, server_context


class LineProtocol(asyncio.Protocol):
    """The answers to all lines of a chunk are one write; a client that does not read them is not read."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = LineBuffer()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            lines = self._buffer.feed(data)
        except ValueError:
            self._transport.abort()
            return
        if lines:
            self._transport.write(b"".join([self._answer for _line in lines]))

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()


async def main(answer: bytes, context: ssl.SSLContext | None, with_protocol: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client went away, or its line has no end
        finally:
            writer.close()

    where: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "backlog": 1024, "ssl": context}
    if with_protocol:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: LineProtocol(answer), **where)
    else:
        server = await asyncio.start_server(serve, **where)
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    given = options("--uvloop", "--protocol")
    loop = (importlib.import_module("uvloop") if given.uvloop else asyncio).new_event_loop()
    loop.run_until_complete(main(given.answer, server_context(given), given.protocol))
