"""The peers "asyncio" and "uvloop" (`--uvloop`): `+PONG` to every line, on asyncio streams.

As its documentation writes it. Over TLS with `--tls-cert` and `--tls-key`.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
from typing import Any


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readline():
            writer.write(b"+PONG\r\n")
            await writer.drain()
    except ConnectionError:
        pass  # the client went away
    finally:
        writer.close()


async def main(context: ssl.SSLContext | None) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, ssl=context)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def new_loop(uvloop: bool) -> Any:
    if not uvloop:
        return asyncio.new_event_loop()
    import importlib

    return importlib.import_module("uvloop").new_event_loop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    given = parser.parse_args()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if given.tls_cert else None
    if tls is not None:
        tls.load_cert_chain(given.tls_cert, given.tls_key)
    new_loop(given.uvloop).run_until_complete(main(tls))
