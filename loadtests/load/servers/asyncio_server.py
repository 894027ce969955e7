"""The same server on asyncio's streams; datagrams with `--udp`."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

from loadtests.compare.peers.shared import announce, options, server_context
from loadtests.load.servers.lines import LIMIT, answer_to


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while (line := await reader.readline()).endswith(b"\n"):
            writer.write(answer_to(line.removesuffix(b"\n").removesuffix(b"\r")) + b"\r\n")
            await writer.drain()
    except (ConnectionError, ValueError):
        pass  # the client went away, or its line is too long
    finally:
        writer.close()


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(data, address)


async def main(is_udp: bool, context: ssl.SSLContext | None) -> None:
    if is_udp:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        announce(transport.get_extra_info("sockname")[1])
        await asyncio.Event().wait()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, ssl=context, limit=LIMIT + 1)
    announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    given = options("--udp")
    asyncio.run(main(given.udp, server_context(given)))
