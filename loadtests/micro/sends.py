"""Microseconds of a `send`: an answer of 7 bytes, one of many in a pipeline (coalesced), 64 KiB.

Both ends are in this process, on a socket pair; what the kernel holds is read and dropped by the other end
between two batches, outside the timing. What is counted is the CPU time of this thread. gevent's coalescing
is a `makefile("wb")` that is flushed once a batch, gnet's the `coalesce` of a socket whose input waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gnet
from loadtests.micro import ends
from loadtests.micro.rows import Row

BENCH = "send"
TLS_BENCH = "send over TLS"
ANSWER = b"+PONG\r\n"
BLOCK = bytes(65536)
SMALL_CALLS, LARGE_CALLS = 20_000, 1_000

# Sends between two visits of the drain: what a socket pair holds of each size without a wait. One of 64 KiB
# is the most of those.
SMALL_BATCH, LARGE_BATCH = 64, 1

Sends = tuple[Callable[[bytes], object], Callable[[], object]]
"""What sends, and what is called at the end of a batch."""


def _nothing() -> None:
    pass


def _gnet_send(client: gnet.Socket, _peer: gnet.Socket) -> Sends:
    client.coalesce = True  # as on accepted sockets; no input waits, so it does not act
    return client.send, _nothing


def _gnet_coalesced(client: gnet.Socket, peer: gnet.Socket) -> Sends:
    peer.send(b"one\ntwo\n")
    client.coalesce = True
    client.read_line()  # the other one waits in the buffer from now on
    return client.send, client.flush


def _gevent_sendall(client: Any, _peer: Any) -> Sends:
    return client.sendall, _nothing


def _gevent_makefile(client: Any, _peer: Any) -> Sends:
    file = client.makefile("wb")
    return file.write, file.flush


def microseconds_per_send(
    open_sends: Callable[[Any, Any], Sends], is_gnet: bool, tls: bool, data: bytes, calls: int, batch: int
) -> float:
    """CPU time of one of `calls` sends."""
    client: Any
    peer: Any
    client, peer = (ends.gnet_pair if is_gnet else ends.gevent_pair)(tls)
    send, end_batch = open_sends(client, peer)
    spent = 0
    batches = max(1, calls // batch)
    for turn in range(batches + 1):
        before = time.thread_time_ns()
        for _ in range(batch):
            send(data)
        end_batch()
        after = time.thread_time_ns()
        if turn:  # the first one warms up
            spent += after - before
        ends.drop_input(peer.fileno())
    ends.close_all(client, peer)
    return spent / (batches * batch) / 1000


def rows(scale: float, tls: bool) -> list[Row]:
    """A row for each kind of send.

    Args:
        scale: of the number of calls in each sample.
    """
    plain = {"gnet send()": _gnet_send, "gevent sendall()": _gevent_sendall}
    coalesced = {"gnet send(), coalesced": _gnet_coalesced, "gevent makefile write()": _gevent_makefile}
    small, large = (SMALL_CALLS, SMALL_BATCH), (LARGE_CALLS, LARGE_BATCH)
    return [
        Row(
            bench=TLS_BENCH if tls else BENCH,
            name=name,
            unit="µs per send",
            yardstick=[*subjects][-1],
            subjects={
                subject: partial(
                    microseconds_per_send,
                    *(open_sends, subject.startswith("gnet"), tls, data, max(1, int(calls * scale)), batch),
                )
                for subject, open_sends in subjects.items()
            },
        )
        for name, data, (calls, batch), subjects in (
            ("7 bytes", ANSWER, small, plain),
            ("7 bytes, 64 coalesced", ANSWER, small, coalesced),
            ("64 KiB", BLOCK, large, plain),
        )
    ]
