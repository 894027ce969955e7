"""Who is let in: the connections of a server, the places they hold, and the loop that accepts.

A connection that has nothing before its handler holds a place in the pool from the beginning. One with a
PROXY header or a TLS handshake holds a place among those that start, until it gets its place in the pool.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import traceback
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Literal

import gevent
from gevent.event import Event
from gevent.monkey import get_original

from gnet.serving.connections import Connection, Terms, drop_input, turn_away

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gnet.serving.listeners import Listener
    from gnet.transports import PlainTransport

__all__ = ["Acceptor", "Admission", "Limits", "address_key"]

# In a patched process the module's own is gevent's, which closes in a later turn of the loop.
_close: Final = get_original("os", "close")

# Connections accepted without a visit to the loop.
_ACCEPTED_AT_ONCE: Final = 64

# When accept fails for want of descriptors or memory: seconds to the next try.
_PAUSE_SECONDS: Final = 0.05

# Clients over the limit whose input is waited for after they were told so, at the same time.
_MOST_REFUSALS: Final = 64

_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
_OUT_OF_MEMORY: Final = frozenset({errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a server takes, and from whom; see `Server` for what each means."""

    max_connections: int
    pool_size: int
    max_per_address: int | None
    max_handshakes: int
    overflow: Literal["backlog", "reset"] | bytes
    proxy_trusted: list[Any]

    @property
    def overflow_text(self) -> bytes:
        """What to tell who is over the limits; empty: nothing."""
        return self.overflow if isinstance(self.overflow, bytes) else b""


class Admission:
    """The connections of a server and the places they hold, within its limits."""

    def __init__(self, terms: Terms, limits: Limits) -> None:
        self.terms = terms
        self.limits = limits
        self.connections: dict[int, Connection] = {}
        """By their numbers, the oldest first."""
        self.running = 0
        """Places of the pool that are taken."""
        self.starting = 0
        """Connections before their place in the pool."""
        self.slot_queue: deque[tuple[Connection, Event]] = deque()
        """Who waits for a place in the pool."""
        self.per_address: Counter[object] = Counter()
        """Connections by what `address_key` gives for them."""
        self.room = Event()
        """Something ended: there may be room for others."""
        self.draining = False
        """Whether the server was told to stop."""
        self._closed = False
        self._numbers = itertools.count(1)
        self._refusing = 0
        self._nobody = Event()  # no connection that a drain waits for
        self._timers: list[gevent.Greenlet[..., None]] = []

    # ------------------------------------------------------------------ for new connections

    def has_room(self) -> bool:
        """Whether a new connection would be taken in now, as far as it is not a matter of its address."""
        limits = self.limits
        if len(self.connections) >= limits.max_connections:
            return False
        if self.terms.has_start:
            return self.starting < limits.max_handshakes
        return self.running < limits.pool_size

    def admit(self, transport: PlainTransport, peer: Any) -> None:
        """Take a new connection in, or refuse it."""
        terms, limits = self.terms, self.limits
        statistics = terms.statistics
        statistics.accepted += 1
        key: object = None
        if isinstance(peer, tuple):
            if peer[0].startswith("::ffff:") and "." in peer[0]:
                peer = transport.peer = (peer[0][7:], peer[1])
            if limits.max_per_address is not None:
                key = address_key(peer[0])
        if terms.proxy_protocol is not None and not self._is_trusted(peer):
            self._refuse(transport, "untrusted proxy", b"")
            return
        if terms.proxy_protocol is not None:
            key = None  # its header says by whose address it counts
        elif key is not None and not self._count(key):
            self._refuse(transport, "per address", limits.overflow_text)
            return
        if not self.has_room():
            self._uncount(key)
            self._refuse(transport, "busy", limits.overflow_text)
            return
        connections = self.connections
        number = next(self._numbers)
        try:
            connection = connections[number] = Connection(self, transport, peer, number, key)
            gevent.spawn_raw(connection.run)
        except BaseException:  # MemoryError
            transport.close(reset=True)
            connections.pop(number, None)
            self._uncount(key)
            raise
        if len(connections) > statistics.peak:
            statistics.peak = len(connections)
        if terms.has_start:
            self.starting += 1
            connection.has_start_permit = True
        else:
            self.running += 1
            connection.has_slot = True

    def _is_trusted(self, peer: Any) -> bool:
        if not isinstance(peer, tuple):
            return True  # of a Unix socket: who may connect is a matter of its permissions
        address: Any = ip_address(peer[0].partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.limits.proxy_trusted)

    def _refuse(self, transport: PlainTransport, reason: str, text: bytes) -> None:
        """Close a connection that is one too many: with a word, or with a reset."""
        terms = self.terms
        terms.statistics.rejected[reason] += 1
        terms.statistics.closed += 1
        terms.log_peer(reason, f"{transport.describe()}: refused: {reason}")
        try:
            if not turn_away(transport, text, terms):
                return
        except BaseException:
            transport.close(reset=True)
            raise
        if self._refusing >= _MOST_REFUSALS:
            transport.close()  # without waiting for what the client may still send
        else:
            self._refusing += 1
            gevent.spawn_raw(self._drop_refused, transport)

    def _drop_refused(self, transport: PlainTransport) -> None:
        try:
            drop_input(transport)
        finally:
            transport.close()
            self._refusing -= 1

    # ------------------------------------------------------------------ for those that are in

    def acquire_slot(self, connection: Connection) -> None:
        """Take a place in the pool, waiting for one in the order in which connections came."""
        if self.running < self.limits.pool_size:
            self.running += 1
        else:
            mine = Event()
            entry = (connection, mine)
            self.slot_queue.append(entry)
            try:
                mine.wait()
            except BaseException:
                if mine.is_set():
                    connection.has_slot = True  # to be given back at once
                else:
                    self.slot_queue.remove(entry)
                raise
        connection.has_slot = True

    def release_slot(self, connection: Connection) -> None:
        """Give the place in the pool to whoever waits for one. Idempotent."""
        if not connection.has_slot:
            return
        connection.has_slot = False
        if self.slot_queue:
            self.slot_queue.popleft()[1].set()
        else:
            self.running -= 1
            self.room.set()

    def release_start(self, connection: Connection) -> None:
        """Give back the place among those that are not ready yet. Idempotent."""
        if connection.has_start_permit:
            connection.has_start_permit = False
            self.starting -= 1
            self.room.set()

    def forget(self, connection: Connection) -> None:
        """Count a connection out: its descriptor is closed."""
        if self.connections.pop(connection.number, None) is not None:
            self.terms.statistics.closed += 1
            self._uncount(connection.address_key)
            self.room.set()
            if self.draining:
                self._nobody.set()
                if self._closed and not self.connections:
                    self.terms.watchdog.close()

    def count_address(self, connection: Connection) -> bool:
        """Count a connection by the address that a proxy gave; False if there are too many of it."""
        peer = connection.peer
        if self.limits.max_per_address is None or not isinstance(peer, tuple):
            return True
        key = address_key(peer[0])
        if not self._count(key):
            self.terms.statistics.rejected["per address"] += 1
            self.terms.log_peer("per address", f"{connection.name}: refused: per address")
            connection.refuse(self.limits.overflow_text)
            return False
        connection.address_key = key
        return True

    def _count(self, key: object) -> bool:
        limit = self.limits.max_per_address
        if limit is not None and self.per_address[key] >= limit:
            return False
        self.per_address[key] += 1
        return True

    def _uncount(self, key: object) -> None:
        if key is not None:
            self.per_address[key] -= 1
            if not self.per_address[key]:
                del self.per_address[key]

    # ------------------------------------------------------------------ in a drain

    def wait_for_none(self) -> None:
        """Wait until no connection is left but released ones."""
        while any(not each.is_released for each in self.connections.values()):
            self._nobody.clear()
            self._nobody.wait()

    def look_again(self) -> None:
        """Have a drain look for whom it still waits."""
        self._nobody.set()

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function later, unless this is closed by then."""
        self._timers.append(gevent.spawn_later(seconds, function))

    def close(self) -> None:
        """End the timers, and the watch over deadlines with the last connection."""
        self.draining = self._closed = True
        if not self.connections:  # else released ones, whose deadlines hold on
            self.terms.watchdog.close()
        for timer in self._timers:
            timer.kill(block=False)
        self._timers.clear()


class Acceptor:
    """Accepts connections for an `Admission`, with a greenlet for each listener."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.spare: int | None = None
        """A descriptor to use when there are no others: to reset a client instead of leaving it waiting."""
        self.greenlets: list[gevent.Greenlet[..., None]] = []
        self._ends_at_none = False  # the loops end when nobody is queued

    def start(self, listeners: Iterable[Listener]) -> None:
        """Accept from now on.

        Raises:
            OSError: there is no descriptor left to keep one for later.
        """
        self._open_spare()
        for listener in listeners:
            self.greenlets.append(gevent.spawn(self.accept, listener))

    def finish(self, listeners: Iterable[Listener]) -> None:
        """Accept who is queued, and end; wait for that."""
        self._ends_at_none = True
        for listener in listeners:
            listener.transport.wake_reader()
        gevent.joinall(self.greenlets)

    def stop(self) -> None:
        """Accept nobody any more. Idempotent."""
        for greenlet in self.greenlets:
            greenlet.kill(block=False)
        self.greenlets.clear()

    def close(self) -> None:
        """Give the spare descriptor back. Idempotent."""
        if self.spare is not None:
            _close(self.spare)
            self.spare = None

    def accept(self, listener: Listener) -> None:
        """Accept connections until the server stops; the body of a greenlet."""
        terms = self.admission.terms
        while not listener.transport.closed:
            try:
                self._accept_from(listener.transport)
                return
            except Exception as error:  # MemoryError, or a mistake of gnet's: the next one may fare better
                terms.statistics.accept_errors += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{place.name}, line {place.lineno}"
                terms.log_peer("accept", f"accept: {error!r} in {where}", logging.ERROR)
                gevent.sleep(_PAUSE_SECONDS)

    def _accept_from(self, transport: PlainTransport) -> None:
        admission = self.admission
        waits_in_backlog = admission.limits.overflow == "backlog"
        since_visit = 0
        while True:
            while waits_in_backlog and not admission.has_room():
                admission.room.clear()
                admission.room.wait()
            try:
                accepted = transport.accept()
                if accepted is not None:
                    admission.admit(*accepted)
            except OSError as error:
                if transport.closed:
                    return
                self._accept_failed(error, transport)
                continue
            if accepted is None:
                if self._ends_at_none:
                    return
                since_visit = 0
                transport.wait_readable()
                if transport.closed:
                    return
                continue
            since_visit += 1
            if since_visit >= _ACCEPTED_AT_ONCE:
                since_visit = 0
                transport.yield_to_loop()

    def _accept_failed(self, error: OSError, transport: PlainTransport) -> None:
        """Wait, or shed a client, when a connection could not be accepted."""
        terms = self.admission.terms
        statistics, reason = terms.statistics, f"accept: {error.strerror}"
        transport.failure = None
        statistics.accept_errors += 1
        if error.errno in _OUT_OF_DESCRIPTORS and self.spare is not None:
            if self._shed(transport):
                terms.log_peer("accept", f"{reason}; new clients are reset", logging.WARNING)
            elif self.admission.draining:
                transport.close()  # nobody is queued: the loop ends
            else:
                # Linux takes the descriptor before it looks at the queue: nobody was there.
                statistics.accept_errors -= 1
                transport.wait_readable()
        elif self.admission.draining:
            transport.close()
        elif error.errno in _OUT_OF_DESCRIPTORS or error.errno in _OUT_OF_MEMORY:
            terms.log_peer("accept", reason, logging.WARNING)
            with suppress(OSError):
                self._open_spare()
            gevent.sleep(_PAUSE_SECONDS)
        elif error.errno in (errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM):
            statistics.aborted += 1  # of that connection only, which is gone
            transport.yield_to_loop()
        else:
            terms.log_peer("accept", reason, logging.ERROR)
            gevent.sleep(_PAUSE_SECONDS)

    def _shed(self, transport: PlainTransport) -> bool:
        """Reset the next client with the descriptor that was kept for this; False if nobody waits."""
        self.close()
        accepted = None
        with suppress(OSError):
            accepted = transport.accept()
        transport.failure = None
        if accepted is not None:
            accepted[0].close(reset=True)
            self.admission.terms.statistics.rejected["descriptors"] += 1
        with suppress(OSError):
            self._open_spare()
        if self.spare is None:
            gevent.sleep(_PAUSE_SECONDS)
        else:
            transport.yield_to_loop()
        return accepted is not None

    def _open_spare(self) -> None:
        if self.spare is None:
            self.spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def address_key(host: str) -> object:
    """Give what `max_per_address` counts by: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in host:
        return host
    address: Any = ip_address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8]
