"""The peer "trio": `receive_some` and a buffer of its own, for trio has no `readline`."""

from __future__ import annotations

import ssl
from functools import partial

import trio

from loadtests.compare.peers.shared import LineBuffer, announce, options, server_context


async def serve(answer: bytes, stream: trio.abc.Stream) -> None:
    """The answers to all lines of a chunk are joined."""
    buffer = LineBuffer()
    try:
        async with stream:
            async for data in stream:
                if lines := buffer.feed(bytes(data)):
                    await stream.send_all(b"".join([answer for _line in lines]))
    except (trio.BrokenResourceError, ValueError):
        pass  # the client went away, or its line has no end


async def main(answer: bytes, context: ssl.SSLContext | None) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    announce(listeners[0].socket.getsockname()[1])
    handler = partial(serve, answer)
    if context is None:
        await trio.serve_listeners(handler, listeners)
    else:
        # https_compatible: as all others here, it does not wait for the client's goodbye.
        over_tls = [trio.SSLListener(listener, context, https_compatible=True) for listener in listeners]
        await trio.serve_listeners(handler, over_tls)


if __name__ == "__main__":
    given = options()
    trio.run(main, given.answer, server_context(given))
