"""`python -m gnet nc HOST PORT`: standard input to a socket, and what comes back to standard output."""

from __future__ import annotations

import argparse
import errno
import os
import socket as _stdlib_socket
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import gevent
from gevent.socket import wait_read, wait_write

from gnet.commands import milliseconds, port_number
from gnet.commands.terminal import complain, fill_standard_streams, quiet_interrupts
from gnet.deadlines import NO_LIMIT, deadline
from gnet.dialing import dial
from gnet.errors import TimeoutError, raise_named
from gnet.options import (
    AF_UNIX,
    IPPROTO_IP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SOCK_STREAM,
    SocketFlag,
    SslHandshakeType,
)
from gnet.sockets import Socket, new_socket
from gnet.tls.contexts import SslContext, new_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["add_parser", "run"]

_T = TypeVar("_T")

_DESCRIPTION: Final = """\
Connect to a server; send it standard input, and write what it sends to standard output, byte for byte.

  python -m gnet nc localhost 7000                         type lines; Ctrl-D ends the input, Ctrl-C all
  printf 'PING\\r\\n' | python -m gnet nc localhost 6379     send, read the answer, go
  python -m gnet nc --tls example.org 443                  the same over TLS; the certificate must verify
  python -m gnet nc --udp localhost 53                     each line is a datagram
  python -m gnet nc unix:/run/app.sock                     a Unix socket
"""

_EPILOG: Final = """\
When the input ends, the server is told so, and this ends when the server does. Where it can not be told (UDP,
TLS 1.2), this ends when nothing has come for --wait milliseconds. A server that ends first is still sent the
input that is at hand.

Exit status: 0; 1 if the connection failed; 2 if the options are wrong; 130 after Ctrl-C; 141 if nobody reads
the output.
"""

_INPUT: Final = 0
_OUTPUT: Final = 1

# Bytes taken from the input, and from the socket, before they are passed on: what a pipe holds.
_CHUNK: Final = 64 * 1024

# Longer than any UDP datagram: a line beyond this can not be sent.
_LONGEST_LINE: Final = 64 * 1024

# How long to wait for answers after the end of the input, if the server can not be told of it.
_WAIT_MS: Final = 1000

# Seconds in which input is at hand, if it is.
_MOMENT: Final = 0.1

# What shells show for a program that SIGPIPE ended, as it ends those that are not in Python.
_SIGPIPE_STATUS: Final = 128 + 13


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m gnet`."""
    parser = subparsers.add_parser(
        "nc",
        help="send standard input to a server, and its answers to standard output",
        usage="python -m gnet nc HOST PORT [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("host", metavar="HOST", help="a name, an IP address, or unix:PATH")
    parser.add_argument("port", metavar="PORT", nargs="?", type=port_number, help="not with unix:PATH")
    parser.add_argument("--udp", action="store_true", help="send datagrams: a line each, its end included")
    parser.add_argument(
        "--timeout", type=milliseconds, default=10_000, metavar="MS", help="to connect; default: 10000"
    )
    parser.add_argument(
        "--wait",
        type=milliseconds,
        metavar="MS",
        help="after the end of the input, wait this long for more from the server; default: until it ends, "
        f"or {_WAIT_MS} where it can not be told",
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls", action="store_true", help="speak TLS; the certificate must be for HOST")
    tls.add_argument("--ca", metavar="FILE", help="trust these CAs, not certifi's")
    tls.add_argument("--servername", metavar="NAME", help="ask for and verify this name instead of HOST")


# ---------------------------------------------------------------------- the command


def run(given: argparse.Namespace) -> int:
    """Connect and pass bytes on until one side ends; give the exit status.

    Raises:
        ValueError, OSError: what is given can not be used. What the network does is a line and status 1.
    """
    fill_standard_streams()  # first: the hub opens descriptors, too
    _check(given)
    context = new_context(ca_file=given.ca or "") if given.tls else None
    try:
        with quiet_interrupts(), _connect(given, context) as socket:
            _Relay(socket, given.wait).run()
    except _OutputClosedError:
        return _SIGPIPE_STATUS
    except OSError as error:
        complain(error)
        return 1
    return 0


def _check(given: argparse.Namespace) -> None:
    if given.host.startswith("unix:"):
        if given.port is not None:
            raise ValueError("unix:PATH has no port")
        if given.udp:
            raise ValueError("--udp is not for Unix sockets")
        if given.tls and not given.servername:
            raise ValueError(
                "--tls needs --servername on a Unix socket: the name that the certificate is for"
            )
    elif given.port is None:
        raise ValueError("expected HOST PORT (or unix:PATH)")
    if given.udp and given.tls:
        raise ValueError("--udp and --tls exclude each other")
    if not given.tls:
        for option in ("ca", "servername"):
            if getattr(given, option) is not None:
                raise ValueError(f"--{option} needs --tls")


def _connect(given: argparse.Namespace, context: SslContext | None) -> Socket:
    """Give a connected socket, the handshake of TLS included."""
    where = given.host if given.port is None else f"{given.host} port {given.port}"
    try:
        with deadline(given.timeout):
            socket = _dial(given)
            if context is not None:
                name = given.servername or given.host
                try:
                    context.wrap_connected_socket(socket, SslHandshakeType.AS_CLIENT, name)
                except BaseException:
                    socket.close(timeout=0)
                    raise
    except TimeoutError:
        raise TimeoutError(f"{where}: not connected within {given.timeout:g} ms") from None
    return socket


def _dial(given: argparse.Namespace) -> Socket:
    if not given.host.startswith("unix:"):
        return dial(given.host, given.port, IPPROTO_UDP if given.udp else IPPROTO_TCP)
    socket = new_socket(AF_UNIX, SOCK_STREAM, IPPROTO_IP)
    try:
        socket.connect_unix(given.host.removeprefix("unix:"))
    except BaseException:
        socket.close(timeout=0)
        raise
    return socket


# ---------------------------------------------------------------------- both directions


class _OutputClosedError(OSError):
    """Nobody reads the output any more."""


class _Relay:
    """Passes bytes on, one chunk at a time in each direction, so that a slow end slows the other one.

    Each direction is a greenlet. The descriptors of the standard streams stay as they are: whoever
    else has them would find them non-blocking, too. So the input is waited for and then read, and the
    output is written, in a thread.
    """

    def __init__(self, socket: Socket, wait: float | None) -> None:
        """Prepare.

        Args:
            wait: milliseconds without a byte from the peer that end this once the input has ended.
        """
        self._socket = socket
        self._is_stream = (
            socket.get_sock_opt(_stdlib_socket.SO_TYPE, _stdlib_socket.SOL_SOCKET) == SOCK_STREAM
        )
        # Below TLS 1.3 the end of one direction is the end of both (RFC 8446, section 6.1).
        self._can_end = self._is_stream and (
            not socket.is_ssl() or socket.ssl_handle.get_protocol_version_name() == "TLSv1.3"
        )
        self._wait = wait
        self._waits_for_input = False
        self._peer_ended = False
        self._received = 0  # chunks, and those written
        self._is_writing = False

    def run(self) -> None:
        """Go on until the peer ends, or the input has ended and answers are not to be waited for any longer.

        Raises:
            OSError: the connection, or a standard stream, failed. What had arrived before is written.
        """
        sending = gevent.spawn(_outcome, self._send_input)
        receiving = gevent.spawn(_outcome, self._write_output)
        try:
            gevent.wait([sending, receiving], count=1)
            if sending.ready():
                self._await_answers(receiving, has_failed=sending.get() is not None)
            elif receiving.get() is None:
                self._peer_ended = True
                if not self._waits_for_input or _input_comes(_MOMENT):
                    sending.join()
            outcomes = [each.get() for each in (sending, receiving) if each.ready()]
        finally:
            gevent.killall([sending, receiving])
        for error in outcomes:  # a peer that is gone may be met by both: what was sent tells more
            if error is not None:
                raise error

    def _await_answers(self, receiving: gevent.Greenlet[..., OSError | None], has_failed: bool) -> None:
        """Wait for the end of what the peer sends, or until it has been silent for long enough."""
        limit = self._wait
        if limit is None:
            limit = NO_LIMIT if self._can_end and not has_failed else _WAIT_MS
        while not receiving.ready():
            seen = self._received
            receiving.join(None if limit == NO_LIMIT else limit / 1000)
            if self._received == seen and not self._is_writing:
                return

    # ------------------------------------------------------------------ from the input

    def _send_input(self) -> None:
        for data in self._chunks() if self._is_stream else _lines(self._chunks()):
            self._socket.send(data)
        if self._can_end:
            self._socket.shutdown(_stdlib_socket.SHUT_WR)

    def _chunks(self) -> Iterator[bytes]:
        while self._wait_for_input():
            try:
                data = _in_thread(partial(os.read, _INPUT, _CHUNK))
            except BlockingIOError:  # somebody has made it non-blocking, and taken what was there
                continue
            except OSError as error:
                raise_named(error, "standard input")
            if not data:
                return
            yield data

    def _wait_for_input(self) -> bool:
        """Wait until a read would not; False if nothing is at hand for a peer that has ended."""
        self._waits_for_input = True
        try:
            return _input_comes(_MOMENT if self._peer_ended else None)
        finally:
            self._waits_for_input = False

    # ------------------------------------------------------------------ to the output

    def _write_output(self) -> None:
        # Without SAFE_DISCONN: an output that was cut short must not look whole.
        while (data := self._socket.recv_some(_CHUNK, flags=SocketFlag(0))) or not self._is_stream:
            self._received += 1
            self._is_writing = True
            _write(data)
            self._is_writing = False


def _input_comes(within: float | None) -> bool:
    """Wait, so many seconds, until the input can be read; tell whether it can."""
    try:
        wait_read(_INPUT, within, TimeoutError())
    except TimeoutError:
        return False
    return True


def _outcome(action: Callable[[], _T]) -> _T | OSError:
    """Give the result of an action, or its error: gevent prints those that greenlets and threads raise."""
    try:
        return action()
    except OSError as error:
        return error


def _in_thread(action: Callable[[], _T]) -> _T:
    """Have a thread do what may block."""
    result: _T | OSError = gevent.get_hub().threadpool.apply(_outcome, (action,))
    if isinstance(result, OSError):
        raise result
    return result


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Give lines, their ends included, and an unterminated last one."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(rest) > _LONGEST_LINE:
            raise OSError(errno.EMSGSIZE, f"standard input: a line of more than {_LONGEST_LINE} bytes")
    if rest:
        yield rest


def _write(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[_in_thread(partial(os.write, _OUTPUT, rest)) :]
        except BlockingIOError:  # somebody has made it non-blocking
            wait_write(_OUTPUT)
        except BrokenPipeError as error:
            raise _OutputClosedError(error.errno, "nobody reads the output") from error
        except OSError as error:
            raise_named(error, "standard output")
