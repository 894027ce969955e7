"""A TCP peer that follows a script, as a greenlet: it accepts one connection and takes its steps.

The steps are those of `data/nim_stream.jsonl.gz`:

    ["send", hex]    ["sleep", ms]    ["fin"]    ["rst"]    ["close"]
    ["mark"]         let the client's next `wait_for_mark` go on
    ["need", n]      receive until n bytes in all have come
    ["drain"]        receive until the end of the stream

A mark comes when the client's kernel has all that was sent before, an end or a reset included: a
client that waited for it need not sleep to be sure of what it will find. On Linux only: TCP_INFO and
TIOCOUTQ tell.
"""

from __future__ import annotations

import fcntl
import socket as stdlib_socket  # for its constants
import struct
import sys
import termios
import time
from types import TracebackType
from typing import Any, Final, Self

import gevent
import gevent.socket
from gevent.event import Event
from gevent.lock import Semaphore

import gnet

# States of a TCP connection (Linux's include/net/tcp_states.h).
_CLOSE: Final = 7
_AFTER_END: Final = {6, _CLOSE, 8, 9, 11}  # TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING

_PAUSE_SECONDS: Final = 0.001
_LIMIT_SECONDS: Final = 10


class ScriptedPeer:
    """Listens on loopback from the start; `play` begins the script. A context manager."""

    def __init__(self, script: list[list[Any]]) -> None:
        self.received = bytearray()
        self._script = script
        self._listener = gevent.socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1)
        self.port: int = self._listener.getsockname()[1]
        self._connection: Any = None
        self._client: gnet.Socket | None = None
        self._now = 0.0  # by the script, which a late process does not change
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._marks = Semaphore(0)
        self._client_is_done = Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
        if self._connection is not None:
            self._connection.close()
        self._listener.close()

    def play(self, client: gnet.Socket) -> None:
        """Accept the connection that `client` has made and begin."""
        self._client = client
        self._now = time.monotonic()
        self._greenlet = gevent.spawn(self._play)

    def wait_for_mark(self) -> None:
        """Wait until the script has reached its next mark."""
        assert self._marks.acquire(timeout=_LIMIT_SECONDS), "the peer does not come to its next mark"

    def finish(self) -> None:
        """Wait for the end of the script, now that the client is closed; raise what went wrong in it."""
        assert self._greenlet is not None
        self._client_is_done.set()
        self._greenlet.get(timeout=_LIMIT_SECONDS)

    def _play(self) -> None:
        assert self._client is not None
        self._connection, _ = self._listener.accept()
        self._connection.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        try:
            self._take_steps()
        except OSError:
            if not self._client.closed:  # else it left data unread, and its kernel sent a reset
                raise
        self._client_is_done.wait()  # until then the stream goes on, unless the script ended it

    def _take_steps(self) -> None:
        for position, (kind, *arguments) in enumerate(self._script):
            if kind == "send":
                self._connection.sendall(bytes.fromhex(arguments[0]))
            elif kind == "sleep":
                self._now += arguments[0] / 1000
                self._sleep_until(self._now)
            elif kind == "mark":
                self._wait_until_delivered({step[0] for step in self._script[:position]})
                self._marks.release()
            elif kind == "need":
                self._receive(arguments[0])
            elif kind == "drain":
                self._receive(sys.maxsize)
            elif kind == "fin":
                self._connection.shutdown(stdlib_socket.SHUT_WR)
            else:
                if kind == "rst":
                    linger = struct.pack("ii", 1, 0)
                    self._connection.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
                self._connection.close()

    def _receive(self, total: int) -> None:
        while len(self.received) < total:
            data = self._connection.recv(65536)
            if not data:
                break
            self.received += data
        self._now = time.monotonic()

    def _sleep_until(self, moment: float) -> None:
        # The loop's own idea of "now" may be older than the process was kept from running.
        gevent.get_hub().loop.update_now()
        gevent.sleep(max(0, moment - time.monotonic()))

    def _wait_until_delivered(self, done: set[str]) -> None:
        """Wait until all that the steps `done` sent has arrived in the client's kernel."""
        assert self._client is not None
        with gevent.Timeout(_LIMIT_SECONDS, AssertionError("what the peer sent does not arrive")):
            while not self._client.closed:
                info = self._client.get_sock_opt(stdlib_socket.TCP_INFO, level=stdlib_socket.IPPROTO_TCP)
                state = info.to_bytes(4, sys.byteorder)[0]
                if "rst" in done:
                    delivered = state == _CLOSE
                elif done & {"fin", "close"}:
                    delivered = state in _AFTER_END
                else:
                    unacknowledged = fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, bytes(4))
                    delivered = not any(unacknowledged)
                if delivered:
                    break
                gevent.sleep(_PAUSE_SECONDS)
