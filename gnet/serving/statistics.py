"""What a server counts, what it shows of that, and how the numbers of several workers add up."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gnet.options import IPPROTO_TCP
from gnet.watching import Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gnet.serving.listeners import Listener
    from gnet.watching import Watch

__all__ = ["COUNTERS", "GAUGES", "LABELS", "Statistics", "Stats", "accept_queue", "counters_of", "sum_stats"]

Stats: TypeAlias = "dict[str, int | dict[str, int] | None]"
"""What `Server.stats()` gives: the keys of `COUNTERS` and of `GAUGES`, in their order."""

COUNTERS: Final = {
    "accepted": "Connections taken from the kernel, refused ones included.",
    "rejected": "Connections refused, by reason.",
    "handshakes": "TLS handshakes completed.",
    "handshake_failures": "TLS handshakes that failed, by reason.",
    "proxy_failures": "PROXY headers that were missing, wrong or late.",
    "timeouts": "Waits that a deadline ended, by kind.",
    "handler_errors": "Handlers that raised an error of their own.",
    "peer_errors": "Handlers that an error of their client's connection ended.",
    "bytes_in": "Bytes received from clients, without the framing of TLS.",
    "bytes_out": "Bytes sent to clients, without the framing of TLS.",
    "lines_in": "Line ends received.",
    "lines_out": "Line ends sent.",
    "accept_errors": "Failed accepts, for want of descriptors or memory among others.",
    "aborted": "Connections that were gone before they were accepted.",
    "drain_resets": "Connections reset because a drain took too long.",
}
"""What only grows, with what it means."""

GAUGES: Final = {
    "active": "Connections now.",
    "peak": "The most connections at once.",
    "pool_size": "Handlers that may run at once.",
    "pool_used": "Places of the pool that are taken.",
    "waiting_for_slot": "Connections that are ready and wait for a place in the pool.",
    "starting": "Connections in their PROXY header, TLS handshake or wait for a place.",
    "accept_queue": "Connections in the kernel that wait to be accepted.",
    "accept_queue_limit": "Connections that the kernel lets wait.",
    "draining": "1 once the server was told to stop.",
}
"""What goes up and down, with what it means."""

LABELS: Final = {"rejected": "reason", "handshake_failures": "reason", "timeouts": "kind"}
"""The keys whose values are dicts, with what those are by."""

# Of the kernel, not of the process: workers that share a listener all see the same queue.
_SHARED: Final = frozenset({"accept_queue", "accept_queue_limit"})

# Peers choose why a handshake fails (an alert is a byte of theirs): so many reasons are told apart.
_MOST_REASONS: Final = 32
_OTHER: Final = "other"

# struct tcp_info of linux/tcp.h: 8 bytes, then numbers of 32 bits. Of a listening socket, tcpi_unacked is
# the length of the accept queue and tcpi_sacked its limit (tcp_get_info in net/ipv4/tcp.c).
_TCP_INFO: Final = 11
_QUEUE_AT: Final = 24
_QUEUE: Final = struct.Struct("=II")


class _Reasons(Counter[str]):
    """Counts by reason; once there are many reasons, all new ones are one."""

    def __setitem__(self, reason: str, count: int) -> None:
        if reason not in self and len(self) >= _MOST_REASONS:
            count += self[_OTHER]
            reason = _OTHER
        super().__setitem__(reason, count)


class Statistics:
    """The counters of one server. They only grow."""

    def __init__(self) -> None:
        self.accepted = 0
        self.closed = 0
        self.peak = 0
        self.rejected: Counter[str] = _Reasons()
        self.accept_errors = 0
        self.aborted = 0
        self.handshakes = 0
        self.handshake_failures: Counter[str] = _Reasons()
        self.proxy_failures = 0
        self.proxy_timeouts = 0  # those of the failures that were late
        self.timeouts: dict[Wait, int] = dict.fromkeys(Wait, 0)
        self.handler_errors = 0
        self.peer_errors = 0
        self.drain_resets = 0
        # Of connections that are gone; those that live have their own counts.
        self.bytes_in = self.bytes_out = self.lines_in = self.lines_out = 0

    def add(self, watch: Watch) -> None:
        """Take over the counts of a connection that is gone."""
        self.bytes_in += watch.bytes_in
        self.bytes_out += watch.bytes_out
        self.lines_in += watch.lines_in
        self.lines_out += watch.lines_out

    def snapshot(
        self,
        watches: Iterable[Watch | None],
        listeners: Iterable[Listener],
        *,
        active: int,
        pool_size: int,
        pool_used: int,
        waiting_for_slot: int,
        starting: int,
        draining: bool,
    ) -> Stats:
        """Give everything as it is now, as plain values that are the caller's.

        Args:
            watches: of the connections that live; `None` for those that have no handler yet.
            listeners: whose accept queues to ask for.
            active, pool_size, pool_used, waiting_for_slot, starting, draining: see `GAUGES`.
        """
        bytes_in, bytes_out = self.bytes_in, self.bytes_out
        lines_in, lines_out = self.lines_in, self.lines_out
        for watch in watches:
            if watch is not None:
                bytes_in += watch.bytes_in
                bytes_out += watch.bytes_out
                lines_in += watch.lines_in
                lines_out += watch.lines_out
        timeouts = {wait.value: count for wait, count in self.timeouts.items()}
        timeouts["handshake"] = self.handshake_failures["timeout"]
        timeouts["proxy"] = self.proxy_timeouts
        queued, queue_limit = accept_queue(listeners)
        return {
            "accepted": self.accepted,
            "rejected": dict(self.rejected),
            "handshakes": self.handshakes,
            "handshake_failures": dict(self.handshake_failures),
            "proxy_failures": self.proxy_failures,
            "timeouts": timeouts,
            "handler_errors": self.handler_errors,
            "peer_errors": self.peer_errors,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "lines_in": lines_in,
            "lines_out": lines_out,
            "accept_errors": self.accept_errors,
            "aborted": self.aborted,
            "drain_resets": self.drain_resets,
            "active": active,
            "peak": self.peak,
            "pool_size": pool_size,
            "pool_used": pool_used,
            "waiting_for_slot": waiting_for_slot,
            "starting": starting,
            "accept_queue": queued,
            "accept_queue_limit": queue_limit,
            "draining": int(draining),
        }


def accept_queue(listeners: Iterable[Listener]) -> tuple[int | None, int | None]:
    """Give how many connections the kernel has for the listeners, and how many it lets wait.

    `None` where the system does not tell: of Unix sockets, of closed ones, and on other systems than Linux.
    """
    lengths, limits = [], []
    for listener in listeners:
        transport: Any = listener.transport
        if sys.platform != "linux" or transport.closed:
            continue
        try:
            info = transport.socket.getsockopt(IPPROTO_TCP, _TCP_INFO, _QUEUE_AT + _QUEUE.size)
        except OSError:
            continue  # of a Unix socket
        length, limit = _QUEUE.unpack_from(info, _QUEUE_AT)
        lengths.append(length)
        limits.append(limit)
    return (sum(lengths), sum(limits)) if lengths else (None, None)


def counters_of(stats: Stats) -> Stats:
    """Give the part that stays true when the process is gone: for the sum of all there were."""
    return {key: value for key, value in stats.items() if key in COUNTERS}


def sum_stats(many: Iterable[Stats]) -> Stats:
    """Add up what several workers say.

    Accept queues are not added: the workers share them, and the longest that any of them saw stands for all.
    `peak` is an upper bound, as the workers need not have had theirs at the same time. `draining` becomes
    the number of workers that drain. A key that only some have (two versions, during a reload) is kept.
    """
    total: Stats = {}
    for stats in many:
        for key, value in stats.items():
            before = total.get(key)
            if isinstance(value, dict):
                reasons = _Reasons(before if isinstance(before, dict) else {})
                for reason, count in value.items():
                    reasons[reason] += count
                total[key] = dict(reasons)
            elif value is None or not isinstance(before, int):
                total[key] = before if value is None else value
            else:
                total[key] = max(before, value) if key in _SHARED else before + value
    return total
