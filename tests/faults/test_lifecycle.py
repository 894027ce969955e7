"""Closing, dropping, forgetting: rows F6–F8, F10, F12–F14 of the fault catalogue.

A row is the name that a test begins with. What ends a process, or would spoil the one that runs the tests,
runs in a child; those tests say themselves whether the child is a patched process or a plain one.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import stat
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess
from gevent.monkey import get_original

import gnet
from tests.faults.peers import GUARD, black_hole, connection, listener, receive_exactly, reset, wait_until

ROOT: Final = Path(__file__).parents[2]


# Processes of their own


PATCH: Final = "from gevent import monkey\nmonkey.patch_all()\n"

PRELUDE: Final = """
import gc, os, sys
import gevent
from gevent import socket
from gevent.monkey import get_original
import gnet

def listener():
    server = gnet.new_socket()
    server.bind_addr(address="127.0.0.1")
    server.listen()
    return server

def connection():
    with listener() as server:
        peer = socket.create_connection(server.get_local_addr())
        return server.accept(timeout=15_000), peer
"""

BOTH_KINDS: Final = pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])


def run_program(program: str, *arguments: str, patched: bool = False, options: tuple[str, ...] = ()) -> Any:
    """Run a program, which has the functions above, to its end, as a patched process or a plain one."""
    text = (PATCH if patched else "") + PRELUDE + program
    return subprocess.run(
        [sys.executable, *options, "-c", text, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * GUARD / 1000,
        check=False,
    )


# F6: closed sockets

CALLS: dict[str, Callable[[gnet.Socket], Any]] = {
    "accept": lambda closed: closed.accept(),
    "accept_addr": lambda closed: closed.accept_addr(),
    "bind_addr": lambda closed: closed.bind_addr(),
    "bind_unix": lambda closed: closed.bind_unix("\0gnet"),
    "connect": lambda closed: closed.connect("127.0.0.1", 1),
    "connect_unix": lambda closed: closed.connect_unix("\0gnet"),
    "detach": lambda closed: closed.detach(),
    "do_handshake": lambda closed: closed.do_handshake(),
    "flush": lambda closed: closed.flush(),
    "get_local_addr": lambda closed: closed.get_local_addr(),
    "get_peer_addr": lambda closed: closed.get_peer_addr(),
    "get_sock_opt": lambda closed: closed.get_sock_opt(gnet.SOBool.KEEP_ALIVE),
    "get_socket_error": lambda closed: closed.get_socket_error(),
    "lines": lambda closed: next(closed.lines()),
    "listen": lambda closed: closed.listen(),
    "peek": lambda closed: closed.peek(1),
    "read_line": lambda closed: closed.read_line(),
    "recv": lambda closed: closed.recv(1),
    "recv_exactly": lambda closed: closed.recv_exactly(1),
    "recv_from": lambda closed: closed.recv_from(1),
    "recv_into": lambda closed: closed.recv_into(bytearray(1)),
    "recv_line": lambda closed: closed.recv_line(),
    "recv_some": lambda closed: closed.recv_some(1),
    "recv_until": lambda closed: closed.recv_until(b"\n"),
    "send": lambda closed: closed.send(b"data"),
    "send_to": lambda closed: closed.send_to("127.0.0.1", 1, b"data"),
    "set_keepalive": lambda closed: closed.set_keepalive(1000, 1000, 1),
    "set_sock_opt": lambda closed: closed.set_sock_opt(gnet.SOBool.KEEP_ALIVE, True),
    "set_user_timeout": lambda closed: closed.set_user_timeout(1000),
    "shutdown": lambda closed: closed.shutdown(socket.SHUT_RDWR),
    "skip": lambda closed: closed.skip(1),
    "socket_error": lambda closed: closed.socket_error(),
    "try_accept": lambda closed: closed.try_accept(),
    "read_lines": lambda closed: closed.read_lines(),
    "try_read_line": lambda closed: closed.try_read_line(),
    "try_send": lambda closed: closed.try_send(b"data"),
}

# The same calls where nothing would have to be done.
EMPTY_CALLS: dict[str, Callable[[gnet.Socket], Any]] = {
    "accept": lambda closed: closed.accept(timeout=0),
    "iteration": lambda closed: next(iter(closed)),
    "peek": lambda closed: closed.peek(0),
    "read_line": lambda closed: closed.read_line(0),
    "read_line of 0": lambda closed: closed.read_line(max_length=0),
    "recv": lambda closed: closed.recv(0),
    "recv_exactly": lambda closed: closed.recv_exactly(0),
    "recv_into": lambda closed: closed.recv_into(bytearray()),
    "send": lambda closed: closed.send(b""),
    "&=": lambda closed: closed.__iand__(b""),
    "skip": lambda closed: closed.skip(0),
    "try_read_line of 0": lambda closed: closed.try_read_line(0),
    "try_send": lambda closed: closed.try_send(b""),
}

# What a closed socket still answers.
HARMLESS: Final = {"adopt", "close", "closed", "coalesce", "fileno", "from_transport", "get_fd"} | {
    "has_data_buffered",
    "is_ssl",
    "timeout",
}

# What is about TLS: a plain socket refuses it, closed or not. The last two are for other modules of gnet.
ABOUT_TLS: Final = {
    *("alpn_protocol", "get_peer_certificates", "get_psk_identity", "got_handshake", "ssl_handle"),
    *("become_tls", "finish_handshake"),
}

NEED_UNIX: Final = {"bind_unix", "connect_unix"}
NEED_DATAGRAMS: Final = {"recv_from", "send_to"}
NEED_A_STREAM: Final = {
    *("accept", "accept_addr", "lines", "read_line", "read_lines", "recv_exactly", "recv_line", "recv_until"),
    *("skip", "try_accept", "try_read_line"),
}


def new_datagram_socket() -> gnet.Socket:
    return gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)


def socket_for(call: str) -> gnet.Socket:
    if call in NEED_DATAGRAMS:
        return new_datagram_socket()
    if call in NEED_UNIX:
        return gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0)
    return gnet.new_socket()


def test_f6_every_public_name_of_a_socket_is_tried_closed() -> None:
    public = {name for name in dir(gnet.Socket) if not name.startswith("_")}
    assert public == CALLS.keys() | HARMLESS | ABOUT_TLS


@pytest.mark.parametrize("name", CALLS)
def test_f6_a_call_on_a_closed_socket_says_so_with_its_name(name: str) -> None:
    closed = socket_for(name)
    closed.close()
    operation = {"accept_addr": "accept", "recv_line": "read_line", "recv_into": "recv"}.get(name, name)
    operation = {"socket_error": "get_socket_error"}.get(operation, operation)
    for _ in range(2):
        with pytest.raises(gnet.ClosedError, match=rf"^{operation}\b.*: the socket is closed"):
            CALLS[name](closed)


@pytest.mark.parametrize("call", EMPTY_CALLS.values(), ids=EMPTY_CALLS)
def test_f6_a_call_with_nothing_to_do_on_a_closed_socket_says_so_too(
    call: Callable[[gnet.Socket], Any],
) -> None:
    closed = gnet.new_socket()
    closed.close()
    with pytest.raises(gnet.ClosedError):
        call(closed)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - NEED_A_STREAM - NEED_UNIX))
def test_f6_a_call_on_a_closed_datagram_socket_says_so(name: str) -> None:
    closed = new_datagram_socket()
    closed.close()
    with pytest.raises(gnet.ClosedError):
        CALLS[name](closed)


def connected_and_closed(stack: ExitStack) -> gnet.Socket:
    ours, peer = stack.enter_context(connection())
    peer.sendall(b"line\nmore\n")
    assert ours.read_line() == b"line"
    ours.close()
    return ours


def detached(stack: ExitStack) -> gnet.Socket:
    ours, _ = stack.enter_context(connection())
    stack.callback(os.close, ours.detach())
    return ours


def left(stack: ExitStack) -> gnet.Socket:
    ours, _ = stack.enter_context(connection(accepted=True))
    with ours:
        pass
    return ours


WAYS: Final = pytest.mark.parametrize("way", [connected_and_closed, detached, left])


@WAYS
def test_f6_what_a_closed_socket_still_answers(way: Callable[[ExitStack], gnet.Socket]) -> None:
    with ExitStack() as stack:
        closed = way(stack)
        assert closed.closed
        assert (closed.fileno(), closed.get_fd()) == (-1, -1)
        assert (closed.has_data_buffered(), closed.is_ssl()) == (False, False)
        assert repr(closed) == "<gnet.Socket closed>"
        closed.timeout = 5
        assert closed.timeout == 5
        closed.coalesce = False
        assert closed.coalesce is False
        with closed:
            pass


@WAYS
def test_f6_every_call_fails_whatever_closed_the_socket(way: Callable[[ExitStack], gnet.Socket]) -> None:
    with ExitStack() as stack:
        closed = way(stack)
        for name in CALLS.keys() - NEED_UNIX - NEED_DATAGRAMS:
            with pytest.raises(gnet.ClosedError):
                CALLS[name](closed)


def test_f6_a_socket_is_closed_by_an_interrupted_connect() -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        connecting = gevent.spawn(ours.connect, *address)
        gevent.sleep(0)
        connecting.kill()
        assert ours.closed
        with pytest.raises(gnet.ClosedError):
            ours.connect(*address)


@pytest.mark.parametrize("times", [2, 3])
def test_f6_closing_again_does_nothing(times: int) -> None:
    with connection() as (ours, peer):
        fd = ours.fileno()
        ours.close()
        with open(os.devnull) as other:  # which takes the number of the descriptor
            assert other.fileno() == fd
            for _ in range(times):
                ours.close()
            assert stat.S_ISCHR(os.fstat(fd).st_mode)
        assert peer.recv(1) == b""


def test_f6_closing_while_another_greenlet_closes_does_nothing() -> None:
    with connection() as (ours, peer):
        while ours.try_send(b"x" * 100_000):
            pass
        first = gevent.spawn(ours.close, timeout=GUARD)  # which waits for the peer to read
        gevent.sleep(0)
        assert not first.ready()
        ours.close()
        with pytest.raises(gnet.ClosedError):
            ours.send(b"more")
        received = 0
        while data := peer.recv(1 << 20):
            received += len(data)
        assert received % 100_000 == 0
        first.get(timeout=GUARD / 1000)


def test_f6_an_iteration_that_has_begun_ends_with_the_socket() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\ntwo\nthree\nfour\nfive\n")
        lines = ours.lines()
        assert next(lines) == b"one"
        ours.close()
        with pytest.raises(gnet.ClosedError):
            next(lines)


# F7: sockets that are dropped unclosed


@contextmanager
def unclosed_warning() -> Iterator[None]:
    """Expect that a socket is dropped, and that it says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert [re.sub(r"fd=.*", "fd=", str(warning.message)) for warning in caught] == [
        "unclosed <gnet.Socket fd="
    ]


@contextmanager
def abandoned_connection(accepted: bool = False) -> Iterator[tuple[list[gnet.Socket], socket.socket]]:
    """A connection whose gnet end is in a list, which holds the only reference to it."""
    with ExitStack() as stack:
        if accepted:
            server = stack.enter_context(gnet.new_socket())
            server.bind_addr(address="127.0.0.1")
            server.listen()
            peer = stack.enter_context(socket.create_connection(server.get_local_addr()))
            holder = [server.accept(timeout=GUARD)]
        else:
            waiting = stack.enter_context(listener())
            holder = [gnet.dial(*waiting.getsockname(), timeout=GUARD)]
            peer = stack.enter_context(waiting.accept()[0])
        peer.settimeout(GUARD / 1000)
        yield holder, peer


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def let_go() -> None:
    """Have the hub go on: it holds what it raised last (a timeout, a kill), and what that went through."""
    gevent.sleep(0)


def leave_idle(ours: gnet.Socket, peer: socket.socket) -> None:
    """Nothing has happened to it."""


def leave_watched(ours: gnet.Socket, peer: socket.socket) -> None:
    """It has waited for input, so its watcher is started."""
    reading = gevent.spawn(ours.read_line)
    gevent.sleep(0)
    peer.sendall(b"line\n")
    assert reading.get(timeout=GUARD / 1000) == b"line"


def leave_unread(ours: gnet.Socket, peer: socket.socket) -> None:
    """It holds lines that were split ahead."""
    peer.sendall(b"line\n" * 1000)
    assert [ours.read_line(GUARD) for _ in range(10)] == [b"line"] * 10


def leave_after_timeout(ours: gnet.Socket, peer: socket.socket) -> None:
    with suppress(gnet.TimeoutError):
        ours.read_line(10)


def leave_after_kill(ours: gnet.Socket, peer: socket.socket) -> None:
    reading = gevent.spawn(ours.read_line)
    gevent.sleep(0)
    reading.kill()


def leave_iterating(ours: gnet.Socket, peer: socket.socket) -> None:
    peer.sendall(b"one\ntwo\nthree\nfour\n")
    for _ in ours.lines():
        break


STATES: Final = pytest.mark.parametrize(
    "state",
    [leave_idle, leave_watched, leave_unread, leave_after_timeout, leave_after_kill, leave_iterating],
)


@pytest.mark.parametrize("accepted", [False, True], ids=["dialled", "accepted"])
@STATES
def test_f7_a_dropped_socket_warns_and_closes_itself(
    state: Callable[[gnet.Socket, socket.socket], None], accepted: bool
) -> None:
    with abandoned_connection(accepted) as (holder, peer):
        state(holder[0], peer)
        let_go()
        fd = holder[0].fileno()
        with unclosed_warning():
            holder.clear()
        assert not is_open(fd)
        with suppress(ConnectionResetError):  # which the kernel sends where data was left unread
            assert peer.recv(1) == b""


@pytest.mark.parametrize("kind", ["listener", "datagrams", "unix"])
def test_f7_a_dropped_socket_of_any_kind_closes_itself(kind: str) -> None:
    if kind == "listener":
        holder = [gnet.new_socket()]
        holder[0].bind_addr(address="127.0.0.1")
        holder[0].listen()
        waiting = gevent.spawn(holder[0].accept)
    elif kind == "datagrams":
        holder = [new_datagram_socket()]
        holder[0].bind_addr(address="127.0.0.1")
        waiting = gevent.spawn(holder[0].recv_from, 10)
    else:
        holder = [gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0)]
        holder[0].bind_unix("")
        holder[0].listen()
        waiting = gevent.spawn(holder[0].accept)
    gevent.sleep(0)
    waiting.kill()
    del waiting
    let_go()
    fd = holder[0].fileno()
    with unclosed_warning():
        holder.clear()
    assert not is_open(fd)


def test_f7_a_dropped_socket_whose_queue_is_not_out_does_not_end_in_order() -> None:
    with abandoned_connection() as (holder, peer):
        taken = 0
        while holder[0].try_send(b"x" * 100_000):
            taken += 100_000
        fd = holder[0].fileno()
        with unclosed_warning():
            holder.clear()
        gevent.sleep(0)
        received = 0
        with suppress(ConnectionResetError):  # then the peer knows that something is missing
            while data := peer.recv(1 << 20):
                received += len(data)
            assert received == taken
        wait_until(lambda: not is_open(fd), "the descriptor is closed")


def test_f7_answers_that_a_dropped_socket_had_collected_are_not_lost_without_a_sign() -> None:
    with abandoned_connection(accepted=True) as (holder, peer):
        peer.sendall(b"one\ntwo\n")
        assert holder[0].read_line(GUARD) == b"one"
        assert holder[0].has_data_buffered()
        holder[0].send(b"answer\n")  # waits for the next answer
        with unclosed_warning():
            holder.clear()
        with suppress(ConnectionResetError):  # then the peer knows that something is missing
            assert receive_exactly(peer, 100) == b"answer\n"


@pytest.mark.parametrize("state", [leave_idle, leave_watched, leave_after_timeout])
def test_f7_a_dropped_socket_leaves_no_watcher_to_a_descriptor_of_the_same_number(
    state: Callable[[gnet.Socket, socket.socket], None],
) -> None:
    with abandoned_connection() as (holder, peer):
        state(holder[0], peer)
        let_go()
        fd = holder[0].fileno()
        with unclosed_warning():
            holder.clear()
        with connection() as (other, far), suppress(ConnectionError):
            if fd in (other.fileno(), far.fileno()):
                reading = gevent.spawn(other.read_line, GUARD)
                gevent.sleep(0)
                far.sendall(b"mine\n")
                assert reading.get() == b"mine"


class Cycle:
    """Something that only the collector of cycles frees."""

    def __init__(self, ours: gnet.Socket) -> None:
        self.ours = ours
        self.me = self
        self.reading: gevent.Greenlet | None = None

    def read(self) -> bytes:
        return self.ours.read_line(GUARD)


def in_thread(function: Callable[[], object]) -> None:
    """Run a function in a thread of the system and wait for its end, also in a patched process."""
    lock = get_original("_thread", "allocate_lock")()
    lock.acquire()

    def call() -> None:
        try:
            function()
        finally:
            lock.release()

    get_original("_thread", "start_new_thread")(call, ())
    lock.acquire()


@STATES
def test_f7_a_socket_that_another_thread_collects_is_closed_by_its_own(
    state: Callable[[gnet.Socket, socket.socket], None],
) -> None:
    with abandoned_connection() as (holder, peer):
        state(holder[0], peer)
        let_go()
        fd = holder[0].fileno()
        gc.collect()
        gc.disable()
        try:
            Cycle(holder.pop())
            assert is_open(fd)
            with unclosed_warning():
                in_thread(gc.collect)
        finally:
            gc.enable()
        wait_until(lambda: not is_open(fd), "the descriptor is closed")
        with suppress(ConnectionResetError):
            assert peer.recv(1) == b""


def test_f7_a_socket_that_outlives_its_thread_frees_its_descriptor() -> None:
    holder: list[gnet.Socket] = []

    def make() -> None:
        ours = gnet.new_socket()
        ours.bind_addr(address="127.0.0.1")
        ours.listen()
        holder.append(ours)

    in_thread(make)
    fd = holder[0].fileno()
    with unclosed_warning():
        holder.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the raw socket's own
        wait_until(lambda: gc.collect() >= 0 and not is_open(fd), "the descriptor is closed")


TRACED: Final = """
import tracemalloc
tracemalloc.start(10)  # as python -X tracemalloc=10 does, but for the imports

def make_it():
    return gnet.new_socket()  # HERE

make_it()
"""


@pytest.mark.plain_only
@BOTH_KINDS
def test_f7_the_warning_tells_where_the_socket_was_made(patched: bool) -> None:
    done = run_program(TRACED, patched=patched, options=("-W", "default"))
    assert done.returncode == 0
    assert "ResourceWarning: unclosed <gnet.Socket fd=" in done.stderr
    assert "Object allocated at (most recent call last):" in done.stderr
    line = ((PATCH if patched else "") + PRELUDE + TRACED).split("# HERE")[0].count("\n") + 1
    assert f'File "<string>", lineno {line}' in done.stderr


WARNINGS_ARE_ERRORS: Final = """
ours, peer = connection()
reading = gevent.spawn(ours.read_line)
gevent.sleep(0)
peer.sendall(b"line\\n")
assert reading.get() == b"line"
fd = ours.fileno()
del ours, reading
left = [type(each).__name__ for each in gc.get_objects() if type(each).__module__ == "gnet.transports"]
print(os.path.exists(f"/proc/self/fd/{fd}"), peer.recv(1), left)
peer.close()
"""


@pytest.mark.plain_only
@BOTH_KINDS
def test_f7_a_dropped_socket_is_closed_also_where_warnings_are_errors(patched: bool) -> None:
    done = run_program(WARNINGS_ARE_ERRORS, patched=patched, options=("-W", "error::ResourceWarning"))
    assert done.returncode == 0
    assert "ResourceWarning: unclosed <gnet.Socket fd=" in done.stderr
    assert done.stdout == "False b'' []\n"
    assert "unclosed <socket object" not in done.stderr


# F8: cycles


def objects_of_gnet() -> Counter[str]:
    """Count the objects of gnet's classes: sockets, what they are made of, errors, deadlines."""
    modules = ((type(each).__name__, type(each).__module__) for each in gc.get_objects())
    # A class whose objects have a __module__ of their own has no text there.
    return Counter(name for name, module in modules if isinstance(module, str) and module.startswith("gnet."))


@contextmanager
def freed_without_collector() -> Iterator[None]:
    """Check that the block leaves nothing of gnet's, although the collector of cycles is off."""
    gc.collect()
    gc.disable()
    try:
        before = objects_of_gnet()
        yield
        let_go()
        left = objects_of_gnet() - before
    finally:
        gc.enable()
    assert left == {}


def live_and_end(ours: gnet.Socket, peer: socket.socket) -> None:
    peer.close()
    assert ours.read_line(GUARD) == b""


def live_and_see_a_reset(ours: gnet.Socket, peer: socket.socket) -> None:
    reset(peer)
    assert ours.read_line(GUARD) == b""


def live_and_raise_a_reset(ours: gnet.Socket, peer: socket.socket) -> None:
    reset(peer)
    with suppress(ConnectionResetError):
        ours.recv_exactly(1, GUARD)


def live_and_send_in_vain(ours: gnet.Socket, peer: socket.socket) -> None:
    reset(peer)
    with suppress(OSError):
        while True:
            ours.send(b"x", timeout=GUARD)


def live_and_cut_a_send(ours: gnet.Socket, peer: socket.socket) -> None:
    with suppress(gnet.TimeoutError):
        ours.send(bytes(30_000_000), timeout=10)


def live_and_send_in_background(ours: gnet.Socket, peer: socket.socket) -> None:
    while ours.try_send(b"x" * 100_000):
        pass


def live_and_coalesce(ours: gnet.Socket, peer: socket.socket) -> None:
    ours.coalesce = True
    peer.sendall(b"one\ntwo\n")
    assert ours.read_line(GUARD) == b"one"
    ours.send(b"answer\n")


def live_and_be_out_of_step(ours: gnet.Socket, peer: socket.socket) -> None:
    peer.sendall(b"x" * 100)
    with suppress(gnet.LineTooLongError):
        list(ours.lines(10, GUARD))


LIVES: Final = [
    *(leave_idle, leave_watched, leave_unread, leave_after_timeout, leave_after_kill, leave_iterating),
    *(live_and_end, live_and_see_a_reset, live_and_raise_a_reset, live_and_send_in_vain),
    *(live_and_cut_a_send, live_and_send_in_background, live_and_coalesce, live_and_be_out_of_step),
]


@pytest.mark.parametrize("life", LIVES)
def test_f8_a_closed_socket_is_freed_without_the_collector(
    life: Callable[[gnet.Socket, socket.socket], None],
) -> None:
    with freed_without_collector(), abandoned_connection() as (holder, peer):
        life(holder[0], peer)
        let_go()
        holder[0].close(timeout=0)
        holder.clear()


def wait_in_vain(server: gnet.Socket) -> None:
    for timeout in (0, 10):
        with suppress(gnet.TimeoutError):
            server.accept(timeout=timeout)


def wait_and_be_killed(server: gnet.Socket) -> None:
    accepting = gevent.spawn(server.accept)
    gevent.sleep(0)
    accepting.kill()


def wait_and_be_closed(server: gnet.Socket) -> None:
    gevent.spawn_later(0, server.close)
    with suppress(gnet.ClosedError):
        server.accept(timeout=GUARD)


@pytest.mark.parametrize("wait", [wait_in_vain, wait_and_be_killed, wait_and_be_closed])
def test_f8_a_closed_listener_is_freed_without_the_collector(wait: Callable[[gnet.Socket], None]) -> None:
    with freed_without_collector():
        server = gnet.new_socket()
        server.bind_addr(address="127.0.0.1")
        server.listen()
        wait(server)
        let_go()
        server.close()
        del server


def wait_for_datagrams(ours: gnet.Socket) -> None:
    for timeout in (0, 10):
        with suppress(gnet.TimeoutError):
            ours.recv_from(10, timeout=timeout)


def send_to_nobody(ours: gnet.Socket) -> None:
    with suppress(OSError):
        ours.send_to("192.0.2.1", 9, bytes(70_000))


@pytest.mark.parametrize("life", [wait_for_datagrams, send_to_nobody])
def test_f8_a_closed_datagram_socket_is_freed_without_the_collector(
    life: Callable[[gnet.Socket], None],
) -> None:
    with freed_without_collector():
        ours = new_datagram_socket()
        ours.bind_addr()
        life(ours)
        let_go()
        ours.close()
        del ours


def dial_in_vain() -> None:
    with listener(backlog=0) as server:
        address = server.getsockname()
    with suppress(ConnectionRefusedError):
        gnet.dial(*address, timeout=GUARD)


def dial_too_slowly() -> None:
    with black_hole() as address, suppress(gnet.TimeoutError):
        gnet.dial(*address, timeout=10)


def connect_too_slowly() -> None:
    with black_hole() as address, gnet.new_socket() as ours, suppress(gnet.TimeoutError):
        ours.connect(*address, timeout=10)


@pytest.mark.parametrize("fail", [dial_in_vain, dial_too_slowly, connect_too_slowly])
def test_f8_a_failed_connection_is_freed_without_the_collector(fail: Callable[[], None]) -> None:
    with freed_without_collector():
        fail()


def caught(call: Callable[..., object], *arguments: object) -> BaseException:
    with pytest.raises(OSError) as error:  # noqa: PT011 - the caller looks at it
        call(*arguments)
    return error.value


def test_f8_no_error_is_its_own_cause() -> None:
    with gnet.new_socket() as server, new_datagram_socket() as datagrams:
        server.bind_addr(address="127.0.0.1")
        server.listen()
        datagrams.bind_addr(address="127.0.0.1")
        server.timeout = datagrams.timeout = 0
        calls: list[Callable[[], object]] = [
            server.accept,
            lambda: datagrams.recv_from(1),
            lambda: datagrams.recv(1),
        ]
        for closing in (False, True):
            if closing:
                server.close()
                datagrams.close()
            for call in calls:
                error = caught(call)
                assert error.__cause__ is not error
                assert error.__context__ is not error


def test_f8_a_socket_in_a_cycle_with_its_handler_frees_its_descriptor_when_it_is_closed() -> None:
    with freed_without_collector(), abandoned_connection() as (holder, peer):
        handler = Cycle(holder.pop())
        fd = handler.ours.fileno()
        peer.sendall(b"line\n")
        handler.reading = gevent.spawn(handler.read)
        assert handler.reading.get() == b"line"
        handler.ours.close()
        assert not is_open(fd)
        assert peer.recv(1) == b""
        del handler
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a closed socket that is collected says nothing
            assert gc.collect()


def test_f8_a_handler_that_a_greenlet_ran_leaves_nothing_behind() -> None:
    def handle(client: gnet.Socket) -> None:
        with client:
            for line in client.lines():
                client.send(line + b"\n")

    with freed_without_collector(), abandoned_connection(accepted=True) as (holder, peer):
        handling = gevent.spawn(handle, holder.pop())
        peer.sendall(b"one\ntwo\n")
        assert receive_exactly(peer, 8) == b"one\ntwo\n"
        peer.shutdown(socket.SHUT_WR)
        handling.get(timeout=GUARD / 1000)
        del handling


# F10: exec

DESCRIPTORS: Final = """
from gevent import subprocess

kept = []

def keep(name, sock):
    kept.append(sock)
    names[sock.fileno()] = name

names = {}
server = listener()
keep("listener", server)
for family, kind, protocol in (
    (gnet.AF_INET, gnet.SOCK_STREAM, gnet.IPPROTO_TCP),
    (gnet.AF_INET6, gnet.SOCK_STREAM, gnet.IPPROTO_TCP),
    (gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP),
    (gnet.AF_INET6, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP),
    (gnet.AF_UNIX, gnet.SOCK_STREAM, 0),
    (gnet.AF_UNIX, gnet.SOCK_DGRAM, 0),
    (gnet.AF_UNIX, gnet.SOCK_SEQPACKET, 0),
):
    keep(f"new {family!r} {kind!r}", gnet.new_socket(family, kind, protocol))
keep("dialled", gnet.dial(*server.get_local_addr()))
keep("accepted", server.accept())
keep("dialled by name", gnet.dial("localhost", server.get_local_addr()[1]))
keep("accepted 2", server.accept())
keep("dialled UDP", gnet.dial("127.0.0.1", 9, gnet.IPPROTO_UDP))
keep("adopted", gnet.Socket.adopt(socket.socket()))
path = gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0)
path.bind_unix("")
path.listen()
keep("Unix listener", path)
near = gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0)
near.connect_unix(path.get_local_addr()[0])
keep("Unix", near)
keep("accepted Unix", path.accept())
try:
    gnet.dial("nowhere.invalid", 80, timeout=0)  # starts the pool of look-ups
except OSError:
    pass
expected = set()
if sys.argv[1] == "inheritable":
    for sock in (
        gnet.new_socket(inheritable=True),
        gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP, inheritable=True),
        gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0, inheritable=True),
    ):
        keep("inheritable", sock)
        expected.add(sock.fileno())
    keep("dialled 3", gnet.dial(*server.get_local_addr()))
    keep("inheritable accepted", server.accept(inheritable=True))
    expected.add(kept[-1].fileno())
    keep("dialled 4", gnet.dial(*server.get_local_addr()))
    keep("inheritable accepted", server.accept_addr(inheritable=True)[0])
    expected.add(kept[-1].fileno())
look = '''
import os
for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
    try:
        print(fd, os.readlink(f"/proc/self/fd/{fd}"))
    except FileNotFoundError:
        pass
'''
found = {}
for line in subprocess.check_output([sys.executable, "-c", look], close_fds=False, text=True).splitlines():
    fd, what = line.split()
    if int(fd) > 2:
        found[int(fd)] = what
for fd in found.keys() - expected:
    print("inherited", fd, found[fd], names.get(fd))
for fd in expected - found.keys():
    print("not inherited", fd, names[fd])
for fd in expected & found.keys():
    assert os.readlink(f"/proc/self/fd/{fd}") == found[fd]
print(len(names), "looked at")
for sock in kept:
    sock.close()
"""


@pytest.mark.plain_only
@BOTH_KINDS
@pytest.mark.parametrize(("mode", "count"), [("none", 17), ("inheritable", 24)])
def test_f10_only_inheritable_descriptors_outlive_exec(mode: str, count: int, patched: bool) -> None:
    done = run_program(DESCRIPTORS, mode, patched=patched)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{count} looked at\n"


def test_f10_a_detached_descriptor_is_inherited_as_little_as_before() -> None:
    for inheritable in (False, True):
        with gnet.new_socket(inheritable=inheritable) as ours:
            fd = ours.detach()
            assert os.get_inheritable(fd) is inheritable
            os.close(fd)


# F12: paths of Unix sockets


def unix_socket() -> gnet.Socket:
    return gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0)


def leave_a_file(path: Path) -> None:
    path.write_text("precious")


def leave_a_stale_socket(path: Path) -> None:
    with unix_socket() as stale:
        stale.bind_unix(path)


def leave_a_directory(path: Path) -> None:
    path.mkdir()


def leave_a_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("precious")
    path.symlink_to(target)


def leave_a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


OBSTACLES: Final = pytest.mark.parametrize(
    "leave", [leave_a_file, leave_a_stale_socket, leave_a_directory, leave_a_link, leave_a_dangling_link]
)


def described(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """What is in a directory: inode, type, contents."""
    found = {}
    for path in sorted(directory.iterdir()):
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(os.readlink(path))
        elif path.is_file():
            content = path.read_bytes()
        found[path.name] = (status.st_ino, stat.S_IFMT(status.st_mode), content)
    return found


@OBSTACLES
def test_f12_what_is_in_the_way_of_a_unix_socket_is_named_and_stays(
    leave: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    leave(path)
    before = described(tmp_path)
    with unix_socket() as ours:
        for _ in range(2):
            with pytest.raises(OSError, match=f"bind_unix to unix:{re.escape(str(path))}: ") as error:
                ours.bind_unix(path)
            assert error.value.errno == errno.EADDRINUSE
        assert described(tmp_path) == before
        ours.bind_unix(tmp_path / "other")  # it is as before
        ours.listen()
    assert {name: found for name, found in described(tmp_path).items() if name != "other"} == before


@pytest.mark.parametrize("end", ["close", "detach", "drop"])
def test_f12_a_path_stays_when_its_socket_ends(end: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    ours = unix_socket()
    ours.bind_unix(path)
    ours.listen()
    before = described(tmp_path)
    if end == "close":
        ours.close()
    elif end == "detach":
        os.close(ours.detach())
    else:
        with unclosed_warning():
            del ours
    assert described(tmp_path) == before


def test_f12_closing_does_not_touch_what_took_the_place_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with unix_socket() as ours:
        ours.bind_unix(path)
        path.unlink()
        with unix_socket() as successor:
            successor.bind_unix(path)
            successor.listen()
            ours.close()
            with unix_socket() as client:
                client.connect_unix(path, GUARD)
                successor.accept(timeout=GUARD).close()


@pytest.mark.parametrize(
    ("leave", "number"),
    [
        (lambda path: None, errno.ENOENT),
        (leave_a_stale_socket, errno.ECONNREFUSED),
        (leave_a_file, errno.ECONNREFUSED),
        (leave_a_dangling_link, errno.ENOENT),
    ],
    ids=["nothing", "stale socket", "file", "dangling link"],
)
def test_f12_connecting_to_a_path_where_nobody_listens_names_it(
    leave: Callable[[Path], None], number: int, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    leave(path)
    before = described(tmp_path)
    message = f"connect_unix to unix:{re.escape(str(path))}: {os.strerror(number)}"
    with unix_socket() as ours:
        with pytest.raises(OSError, match=message) as error:
            ours.connect_unix(path, GUARD)
        assert error.value.errno == number
        assert described(tmp_path) == before
        with unix_socket() as server:
            server.bind_unix(tmp_path / "other")
            server.listen()
            ours.connect_unix(tmp_path / "other", GUARD)  # it is as before


def test_f12_a_link_to_a_socket_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "socket")
    with unix_socket() as server, unix_socket() as client:
        server.bind_unix(tmp_path / "socket")
        server.listen()
        client.connect_unix(tmp_path / "link", GUARD)
        server.accept(timeout=GUARD).close()


@pytest.mark.parametrize("call", ["bind_unix", "connect_unix"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/tmp/" + "x" * 103, r"path of 108 bytes \(limit 107\)"),
        ("/tmp/" + "x" * 10_000, r"path of 10005 bytes \(limit 107\)"),
        ("/tmp/" + "\xe9" * 52, r"path of 109 bytes \(limit 107\)"),
        ("\0" + "x" * 108, r"path of 109 bytes \(limit 108\)"),
        ("/tmp/a\0b", "has a NUL in it"),
        (b"/tmp/a\0", "has a NUL in it"),
    ],
    ids=["108 bytes", "10,005 bytes", "109 bytes in UTF-8", "abstract", "NUL inside", "NUL last"],
)
def test_f12_an_impossible_path_is_a_value_error_before_anything_is_tried(
    path: str | bytes, message: str, call: str
) -> None:
    with unix_socket() as ours:
        with pytest.raises(ValueError, match=message) as error:
            getattr(ours, call)(path)
        assert call in str(error.value)
        assert len(str(error.value)) < 200
        ours.bind_unix("")  # it is as before


@pytest.mark.parametrize("path", [None, 5, ["/tmp/x"], bytearray(b"/tmp/x")], ids=repr)
def test_f12_what_is_no_path_is_a_type_error(path: Any) -> None:
    with unix_socket() as ours:
        for call in (ours.bind_unix, ours.connect_unix):
            with pytest.raises(TypeError, match="expected a path as str, bytes or PathLike"):
                call(path)


def test_f12_the_longest_path_and_the_longest_abstract_name_are_usable(tmp_path: Path) -> None:
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for name in ("x" * 107, "\0" + os.urandom(8).hex() + "x" * 91, "\0a\0b" + os.urandom(8).hex()):
            with unix_socket() as server, unix_socket() as client:
                server.bind_unix(name)
                server.listen()
                client.connect_unix(name, GUARD)
                with server.accept(timeout=GUARD):
                    assert client.get_peer_addr() == (name, 0)
    finally:
        os.chdir(here)


# F13: addresses that can not be had


def test_f13_a_port_in_use_is_named() -> None:
    with listener() as taken, gnet.new_socket() as ours:
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"bind_addr to 127\.0\.0\.1:{port}: Address already in use"
        ) as error:
            ours.bind_addr(port, "127.0.0.1")
        assert error.value.errno == errno.EADDRINUSE
        ours.bind_addr(0, "127.0.0.1")  # it is as before


def test_f13_a_port_in_use_is_named_also_without_an_address_and_for_ipv6_and_udp() -> None:
    for family, kind, protocol, address, shown in (
        (gnet.AF_INET, gnet.SOCK_STREAM, gnet.IPPROTO_TCP, "", "0.0.0.0:"),
        (gnet.AF_INET6, gnet.SOCK_STREAM, gnet.IPPROTO_TCP, "::1", "[::1]:"),
        (gnet.AF_INET6, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP, "", "[::]:"),
        (gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP, "localhost", "127.0.0.1:"),
    ):
        with (
            gnet.new_socket(family, kind, protocol) as taken,
            gnet.new_socket(family, kind, protocol) as ours,
        ):
            taken.bind_addr(0, address)
            port = taken.get_local_addr()[1]
            if kind == gnet.SOCK_STREAM:
                taken.listen()
            with pytest.raises(OSError, match=re.escape(f"bind_addr to {shown}{port}: ")) as error:
                ours.bind_addr(port, address)
            assert error.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [(gnet.AF_INET, "192.0.2.1", "192.0.2.1:0"), (gnet.AF_INET6, "2001:db8::1", "[2001:db8::1]:0")],
)
def test_f13_an_address_of_another_machine_is_named(family: int, address: str, shown: str) -> None:
    with gnet.new_socket(family) as ours:
        with pytest.raises(OSError, match=re.escape(f"bind_addr to {shown}: ")) as error:
            ours.bind_addr(0, address)
        assert error.value.errno == errno.EADDRNOTAVAIL
        ours.bind_addr()  # it is as before


def test_f13_a_source_that_is_not_to_be_had_is_named() -> None:
    with listener() as server, listener() as taken:
        with pytest.raises(OSError, match=r"dial 127\.0\.0\.1:\d+: .*192\.0\.2\.1") as error:
            gnet.dial(*server.getsockname(), source=("192.0.2.1", 0), timeout=GUARD)
        assert error.value.errno == errno.EADDRNOTAVAIL
        source = taken.getsockname()
        with pytest.raises(OSError, match=rf"dial 127\.0\.0\.1:\d+: .*127\.0\.0\.1:{source[1]}") as error:
            gnet.dial(*server.getsockname(), source=source, timeout=GUARD)
        assert error.value.errno == errno.EADDRINUSE


PRIVILEGED: Final = """
os.setgid(65534)
os.setuid(65534)
with gnet.new_socket() as ours:
    try:
        ours.bind_addr(int(sys.argv[1]), "127.0.0.1")
    except PermissionError as error:
        print(error)
    ours.bind_addr(0, "127.0.0.1")
"""


@pytest.mark.plain_only
def test_f13_a_privileged_port_is_named() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if os.geteuid() != 0 or first <= 1:
        pytest.skip("needs root, to become nobody, and ports that need privileges")
    done = run_program(PRIVILEGED, "1")
    assert done.stderr == ""
    assert done.stdout == "[Errno 13] bind_addr to 127.0.0.1:1: Permission denied\n"


# F14: the end of the interpreter

ENDS: dict[str, str] = {
    "open sockets": """
server = listener()
ours, peer = connection()
datagrams = gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)
datagrams.bind_addr(address="127.0.0.1")
unix = gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, 0)
unix.bind_unix("")
unix.listen()
""",
    "waiting greenlets": """
server = listener()
ours, peer = connection()
other, far = connection()
datagrams = gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)
datagrams.bind_addr(address="127.0.0.1")
greenlets = [
    gevent.spawn(server.accept),
    gevent.spawn(server.accept, timeout=60_000),
    gevent.spawn(datagrams.recv_from, 10, timeout=60_000),
    gevent.spawn(ours.read_line, 60_000),
    gevent.spawn(ours.send, bytes(50_000_000)),
    gevent.spawn(lambda: list(other.lines())),
    gevent.spawn(other.send, bytes(50_000_000), timeout=60_000),
    gevent.spawn(other.send, b"behind it"),
]
gevent.sleep(0.01)
assert not any(greenlet.ready() for greenlet in greenlets)
""",
    "waiting greenlets that nobody knows": """
def main():
    server = listener()
    ours, peer = connection()

    def handle():
        with ours:
            for line in ours.lines(timeout=60_000):
                pass

    gevent.spawn(server.accept, timeout=60_000)
    gevent.spawn(handle)
    gevent.spawn(ours.send, bytes(50_000_000), timeout=60_000)
    gevent.sleep(0.01)

main()
""",
    "a dial under way": """
with socket.socket() as full:
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    connecting = gnet.new_socket()
    greenlets = [
        gevent.spawn(gnet.dial, *full.getsockname()),
        gevent.spawn(connecting.connect, *full.getsockname(), timeout=60_000),
    ]
    gevent.sleep(0.01)
    assert not any(greenlet.ready() for greenlet in greenlets)
    for filler in fillers:
        filler.close()
""",
    "look-ups that nobody answers": """
import _socket
sleep = get_original("time", "sleep")
_socket.getaddrinfo = lambda *arguments: sleep(60)
greenlets = [gevent.spawn(gnet.dial, f"host{number}.invalid", 80) for number in range(20)]
gevent.sleep(0.1)
assert not any(greenlet.ready() for greenlet in greenlets)
""",
    "look-ups that were given up": """
import _socket
sleep = get_original("time", "sleep")
_socket.getaddrinfo = lambda *arguments: sleep(60)
try:
    gnet.dial("host.invalid", 80, timeout=50)
except gnet.TimeoutError:
    pass
killed = gevent.spawn(gnet.new_socket().connect, "host.invalid", 80)
gevent.sleep(0.01)
killed.kill()
""",
    "a flush in the background": """
ours, peer = connection()
while ours.try_send(bytes(100_000)):
    pass
assert ours.coalesce
""",
    "collected answers": """
ours, peer = connection()
peer.sendall(b"one\\ntwo\\n")
ours.read_line()
ours.send(b"answer\\n")
assert ours.has_data_buffered()
""",
    "sockets in cycles": """
class Handler:
    def __init__(self):
        self.ours, self.peer = connection()
        self.call = lambda: self.ours.read_line()
        self.waiting = gevent.spawn(self.call)

gc.disable()
handlers = [Handler() for _ in range(3)]
Handler()
gevent.sleep(0)
""",
    "a socket of another thread": """
start = get_original("_thread", "start_new_thread")
sleep = get_original("time", "sleep")
made = []

def run():
    made.append(connection())
    made[0][0].read_line()

start(run, ())
while not made:
    sleep(0.001)
""",
    "errors that are kept": """
import struct
ours, peer = connection()
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
peer.close()
caught = []
for _ in range(3):
    try:
        ours.recv_exactly(1)
    except OSError as error:
        caught.append(error)
assert len(caught) == 3
""",
    "sys.exit in a greenlet's presence": """
ours, peer = connection()
waiting = gevent.spawn(ours.read_line)
gevent.sleep(0)
sys.exit(0)
""",
}

WARNING: Final = re.compile(
    r"(.*: ResourceWarning: unclosed <(gnet\.Socket|socket|gevent\._socket3\.socket)\b.*"
    r"|ResourceWarning: Enable tracemalloc to get the object allocation traceback"
    r"|  .*)"  # the line of the program that the warning is about
)


@pytest.mark.plain_only
@BOTH_KINDS
@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_f14_the_interpreter_ends_quietly_and_at_once(program: str, patched: bool) -> None:
    start = time.monotonic()
    done = run_program(program, patched=patched)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - start < 12  # the threads that look up names would take 60 s


@pytest.mark.plain_only
@BOTH_KINDS
@pytest.mark.parametrize("program", ENDS.values(), ids=ENDS)
def test_f14_the_interpreter_says_nothing_but_what_it_was_asked_to_warn_of(
    program: str, patched: bool
) -> None:
    done = run_program(program, patched=patched, options=("-W", "default", "-X", "dev"))
    assert (done.returncode, done.stdout) == (0, "")
    strange = [line for line in done.stderr.splitlines() if line and not WARNING.fullmatch(line)]
    assert strange == []


@pytest.mark.plain_only
def test_f14_a_program_that_fails_shows_its_own_error_and_nothing_else() -> None:
    done = run_program(ENDS["waiting greenlets"] + "\nraise RuntimeError('its own')\n")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("\nRuntimeError: its own\n")
    assert done.stderr.count("Traceback") == 1


SENDS_AND_EXITS: Final = """
ours = gnet.dial("127.0.0.1", int(sys.argv[1]))
ours.read_line()
for number in range(1000):
    ours.send(b"%d\\n" % number)
"""


@pytest.mark.plain_only
@BOTH_KINDS
def test_f14_a_program_that_sends_and_ends_loses_nothing(patched: bool) -> None:
    with listener() as server:
        running = gevent.spawn(run_program, SENDS_AND_EXITS, str(server.getsockname()[1]), patched=patched)
        with server.accept()[0] as peer:
            peer.settimeout(GUARD / 1000)
            peer.sendall(b"one\ntwo\n")
            expected = b"".join(b"%d\n" % number for number in range(1000))
            assert receive_exactly(peer, len(expected) + 1) == expected
        assert running.get().returncode == 0
