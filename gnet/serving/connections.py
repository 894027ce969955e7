"""One connection of a server, from its acceptance to its end.

A connection passes, in its own greenlet: the PROXY header, if one is expected; the TLS handshake, if there is
one, which holds a place of `max_handshakes` and none of the pool; a place in the pool; the handler; the end.
Whatever goes wrong on the way ends this connection only.
"""

from __future__ import annotations

import _socket
import dis
import logging
import signal
import traceback
import weakref
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent

from gnet.addresses import describe_sock_addr, sock_addr_text
from gnet.deadlines import Deadline
from gnet.errors import ClosedError, SslError
from gnet.options import SslHandshakeType
from gnet.proxy_protocol import ProxyHeaderError, parse_header
from gnet.serving.clients import ClientSocket
from gnet.serving.logs import escaped
from gnet.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from greenlet import greenlet

    from gnet.proxy_protocol import ProxyVersions
    from gnet.serving.admission import Admission
    from gnet.serving.logs import PeerLog
    from gnet.serving.statistics import Statistics
    from gnet.serving.watchdog import Watchdog
    from gnet.sockets import Socket
    from gnet.tls.contexts import SslContext
    from gnet.tls.transport import TlsTransport
    from gnet.transports import PlainTransport

__all__ = ["FIRST_BYTE_IN_DRAIN", "Connection", "Terms", "drop_input", "turn_away"]

_log = logging.getLogger("gnet.server")

# After the handler: how long, in milliseconds, and how much input is read and dropped, so that the kernel
# does not answer it with a reset which could destroy the last answer.
_LINGER: Final = 500
_LINGER_BYTES: Final = 1024 * 1024

# In a drain: seconds for the first byte of connections that have sent nothing yet.
FIRST_BYTE_IN_DRAIN: Final = 0.5

_DROPPED_AT_ONCE: Final = 65536


@dataclass(slots=True)
class Terms:
    """How a server serves: the same for all of its connections; see `Server` for what each means."""

    handler: Callable[[Socket, str], object]
    ssl_context: SslContext | None
    """For new connections: a reload puts another one here."""
    handshake_timeout: float
    proxy_protocol: ProxyVersions | None
    coalesce: bool
    statistics: Statistics
    watchdog: Watchdog
    log_peer: PeerLog

    @property
    def has_start(self) -> bool:
        """Whether there is something before the handler: a PROXY header, a TLS handshake."""
        return self.ssl_context is not None or self.proxy_protocol is not None


class Connection:
    """A connection and what the server knows of it."""

    __slots__ = (
        "__weakref__",
        "_released",
        "accepted_at",
        "address_key",
        "admission",
        "client",
        "greenlet",
        "has_input",
        "has_slot",
        "has_start_permit",
        "number",
        "peer",
        "state",
        "transport",
        "watch",
    )

    def __init__(
        self, admission: Admission, transport: PlainTransport, peer: Any, number: int, address_key: object
    ) -> None:
        self.admission = admission
        self.transport: PlainTransport | TlsTransport = transport
        self.peer = peer
        self.number = number
        self.address_key = address_key
        """What `max_per_address` counts it by."""
        self.accepted_at = monotonic()
        self.state = "accepted"
        self.client: ClientSocket | None = None
        self._released: weakref.ref[ClientSocket] | None = None  # in other hands, which may drop it
        self.watch: Watch | None = None
        self.greenlet: greenlet | None = None
        self.has_input = False  # something came, before there was a handler for it
        self.has_slot = False  # a place in the pool
        self.has_start_permit = False  # a place among those that are not ready for a handler yet

    # ------------------------------------------------------------------ the way

    def run(self) -> None:
        """Go all the way; the body of a greenlet, which raises nothing."""
        admission = self.admission
        self.greenlet = gevent.getcurrent()
        try:
            # It may have been reset before its turn came.
            if not self.transport.closed and (not self.has_start_permit or self._start()):
                self._serve()
        except BaseException as error:  # a kill, Ctrl-C, or a mistake of gnet's
            if isinstance(error, KeyboardInterrupt) and _is_from_a_signal(error):
                _interrupt_main(error)
            elif not isinstance(error, gevent.GreenletExit):
                with suppress(Exception):
                    _log.error("%s: %s", self.name, escaped(traceback.format_exc()))
        finally:
            admission.release_start(self)
            admission.release_slot(self)
            self.greenlet = None
            client = self.client
            if client is not None:
                if not client.closed:
                    client.abort()
            elif self._released is None:
                self.transport.close()
                admission.forget(self)

    @property
    def name(self) -> str:
        """The peer, for messages."""
        return describe_sock_addr(self.peer) if self.peer else "a Unix client"

    def _start(self) -> bool:
        """Read the PROXY header and make the TLS handshake; False if the connection is not worth more."""
        admission = self.admission
        terms = admission.terms
        deadline = Deadline(terms.handshake_timeout)
        try:
            if terms.proxy_protocol is not None and not self._read_proxy_header(deadline):
                return False
            if terms.ssl_context is not None and not self._make_handshake(deadline):
                return False
        finally:
            deadline.close()
        self.state = "waiting for a slot"
        admission.acquire_slot(self)
        admission.release_start(self)
        return True

    def _read_proxy_header(self, deadline: Deadline) -> bool:
        """Read the PROXY header, and not a byte of what comes behind it."""
        self.state = "PROXY header"
        terms = self.admission.terms
        plain = self.transport.plain
        versions = terms.proxy_protocol
        assert versions is not None
        seen = b""
        try:
            while True:
                header = parse_header(seen, versions)
                if header is not None:
                    break
                # What is behind the header is for others: look, and take what is known to belong to it.
                data = plain.peek(1 if len(seen) < 16 or seen[:1] == b"P" else _header_rest(seen))
                if data is None:
                    deadline.arm()
                    plain.wait_readable()
                    if plain.closed:
                        return False
                    self.has_input = True
                elif data:
                    seen += plain.receive(len(data)) or b""
                else:
                    raise ProxyHeaderError(f"the stream ended after {len(seen)} bytes")
            if header.source is not None:
                self.peer = plain.peer = header.source
                if not self.admission.count_address(self):
                    return False
        except ProxyHeaderError as error:
            reason = str(error)
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            terms.statistics.proxy_timeouts += 1
            reason = f"not complete within {deadline.milliseconds:g} ms ({len(seen)} bytes)"
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return True
        terms.statistics.proxy_failures += 1
        terms.log_peer("proxy", f"{self.name}: PROXY header: {reason}")
        return False

    def _make_handshake(self, deadline: Deadline) -> bool:
        self.state = "TLS handshake"
        terms = self.admission.terms
        plain = self.transport.plain
        context = terms.ssl_context
        assert context is not None
        try:
            tls = self.transport = context.wrap_transport(plain, SslHandshakeType.AS_SERVER, "")
            while not tls.handshake():
                deadline.arm()
                tls.wait_readable()
                if tls.closed:
                    return False
                self.has_input = True
            terms.statistics.handshakes += 1
            return True
        except SslError as error:
            reason = error.reason or "the connection broke"
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            reason = "timeout"
        except OSError as error:
            reason = error.strerror or "the connection broke"
        terms.statistics.handshake_failures[reason] += 1
        terms.log_peer("handshake", f"{self.name}: TLS handshake: {reason}")
        if reason != "timeout" and not plain.closed:
            with suppress(OSError):  # the alert is out: unread input must not destroy it
                plain.socket.shutdown(_socket.SHUT_WR)
                drop_input(self.transport.plain)
        return False

    def _serve(self) -> None:
        admission = self.admission
        terms = admission.terms
        watch = self.watch = Watch(self._outgoing)
        client = self.client = ClientSocket.serve(
            self.transport,
            watch,
            self._closed,
            admission.look_again,
            terms.coalesce,
            terms.handshake_timeout,
        )
        self.state = "handler"
        if admission.draining:
            self.drain()
            admission.later(FIRST_BYTE_IN_DRAIN, self.end_silent)
        terms.watchdog.add(self, watch)
        peers_fault = False
        try:
            terms.handler(client, self.address)
        except BaseException as raised:
            peers_fault = self._judge(raised)
        if client.released:
            self.state = "released"
            self._released = weakref.ref(client)
            self.client = None
            admission.release_slot(self)
            admission.look_again()
            return
        self.state = "ending"
        self._end(client, peers_fault)

    def _outgoing(self) -> int:
        client = self.get_client()
        return client.outgoing() if client is not None else 0

    @property
    def address(self) -> str:
        """The peer's address as a handler gets it."""
        return sock_addr_text(self.peer)

    # ------------------------------------------------------------------ errors

    def _judge(self, error: BaseException) -> bool:
        """Count and report what a handler raised; True if it is the peer's fault."""
        terms = self.admission.terms
        if isinstance(error, KeyboardInterrupt) and _is_from_a_signal(error):
            _interrupt_main(error)
            return False
        if self.admission.draining and isinstance(error, (gevent.GreenletExit, ClosedError)):
            return False  # the end of the drain
        if self._is_the_peers(error):
            terms.statistics.peer_errors += 1
            terms.log_peer("peer", str(error))  # which names the peer
            return True
        terms.statistics.handler_errors += 1
        text = "".join(traceback.format_exception(error))
        with suppress(Exception):  # a handler of the logging that fails must not end the server
            # Indented: no line of it can pass for one of the log.
            shown = escaped(text.rstrip("\n")).replace("\n", "\n  ")
            _log.error("%s: the handler raised %s\n  %s", self.name, type(error).__name__, shown)
        return False

    def _is_the_peers(self, error: BaseException) -> bool:
        """Whether an error comes out of a call of this connection's socket."""
        if not isinstance(error, OSError):
            return False
        client = self.client
        assert client is not None
        if isinstance(error, ClosedError):
            return False  # the handler closed it, and went on
        own = (client, *client.parts())
        step: TracebackType | None = error.__traceback__
        while step is not None:
            frame = step.tb_frame
            if any(frame.f_locals.get("self") is part for part in own):
                return True
            step = step.tb_next
        # One that came by way of another greenlet has no frames; but it names the peer, as all do.
        return f" {client.peer_name}" in str(error)

    # ------------------------------------------------------------------ the end

    def _end(self, client: ClientSocket, peers_fault: bool) -> None:
        """Flush, end the stream, drop what the peer still sends, close."""
        if client.closed:
            return
        if peers_fault or client.is_refused():
            client.close(timeout=0)
            return
        try:
            client.send_rest()  # within the watchdog's limit for each wait without progress
            self.admission.release_slot(self)
            # If the peer went first, nothing of it is unread.
            if not client.is_at_end() and client.turn_out_reader():
                client.end_writes()
                drop_input(client.plain)
        except OSError:
            pass  # there is nobody left to send to
        client.close()

    def refuse(self, text: bytes) -> None:
        """End a connection that has a PROXY header and is one too many: with a word, or with a reset."""
        plain = self.transport.plain
        if turn_away(plain, text, self.admission.terms):
            drop_input(plain)

    def _closed(self) -> None:
        """The descriptor was given up, by the end above or by whoever has a released client."""
        terms = self.admission.terms
        terms.watchdog.remove(self)
        if self.watch is not None:
            terms.statistics.add(self.watch)
            self.watch.end()
        self.admission.forget(self)

    def drain(self) -> None:
        """Begin to drain: between two messages the stream ends at once; the others end there later."""
        client, watch = self.client, self.watch
        if client is None or watch is None or client.closed or client.released:
            return
        watch.on_pause = client.end_reads
        if watch.reads_waiter is not None and watch.between_messages and watch.bytes_in:
            client.end_reads()

    @property
    def is_released(self) -> bool:
        """Whether it is in other hands than a handler's."""
        return self._released is not None or (self.client is not None and self.client.released)

    def get_client(self) -> ClientSocket | None:
        """Give the socket, if there is one; a released one may be gone."""
        return self._released() if self._released is not None else self.client

    def end_silent(self) -> None:
        """In a drain: end the stream of a connection that has not sent anything."""
        client, watch = self.client, self.watch
        if client is None or watch is None:
            if not self.has_input and self._released is None:
                self.transport.close(reset=True)
        elif not client.closed and not watch.bytes_in:
            client.end_reads()

    def reset(self) -> None:
        """End it now, whatever its handler does."""
        client = self.get_client()
        if client is not None:
            client.abort()
        else:
            self.transport.close(reset=True)
        greenlet = self.greenlet
        if greenlet is not None:
            gevent.kill(greenlet)


def turn_away(plain: PlainTransport, text: bytes, terms: Terms) -> bool:
    """Tell a client that it is one too many; False if there is no way to say it, and it was reset."""
    if not text or terms.ssl_context is not None:  # in clear it would be no TLS
        plain.close(reset=True)
        return False
    with suppress(OSError):
        plain.send(text)  # it fits the buffer of a new connection
        plain.end_writes()
    return True


def drop_input(plain: PlainTransport) -> None:
    """Read and drop what comes, up to the end of the stream and within bounds."""
    deadline = Deadline(_LINGER)
    dropped = 0
    try:
        while dropped < _LINGER_BYTES and not plain.closed:
            data = plain.receive(_DROPPED_AT_ONCE)
            if data is None:
                deadline.arm()
                plain.wait_readable()
            elif data:
                dropped += len(data)
            else:
                return
    except gevent.Timeout as expired:
        if not deadline.owns(expired):
            raise
    except OSError:
        pass  # a reset: there is nobody left to lose anything
    finally:
        deadline.close()


def _header_rest(seen: bytes) -> int:
    """Give how many bytes of a version 2 header are missing behind its first 16."""
    return max(1, 16 + int.from_bytes(seen[14:16], "big") - len(seen))


def _is_from_a_signal(error: KeyboardInterrupt) -> bool:
    """Whether Ctrl-C interrupted the handler, and not a `raise` in it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return True
    operation = dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]]
    return operation not in ("RAISE_VARARGS", "RERAISE")


def _interrupt_main(error: BaseException) -> None:
    """Take Ctrl-C out of the handler that it happened to interrupt, to the main greenlet."""
    hub: Any = gevent.get_hub()
    hub.loop.run_callback(hub.handle_system_error, type(error), error)
