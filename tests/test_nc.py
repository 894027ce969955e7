"""`python -m gnet nc` as a process: what it passes on, how it ends, the standard streams, terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket as stdlib_socket
import struct
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import gevent
import gevent.socket
import gevent.subprocess as subprocess
import pytest
from gevent.event import Event
from gevent.os import tp_read

import gnet
from tests.loopback import needs_ipv6
from tests.nc_processes import (
    HELD,
    LARGE,
    PATIENCE,
    ROOT,
    command,
    connected,
    count,
    counted,
    echo,
    interrupt,
    is_one_line,
    large_file,
    nc,
    rest_of,
    running,
    serving,
    start,
)
from tests.tls.authorities import top
from tests.tls.handshakes import server_context

pytestmark = pytest.mark.plain_only  # it runs in processes of its own


@pytest.fixture
def ca(tmp_path: Path) -> str:
    """The file of the root that the tests' certificates come from."""
    return str(top().write_ca(tmp_path)["ca_file"])


# ---------------------------------------------------------------------- passing on


def test_input_goes_to_the_server_and_answers_come_back() -> None:
    with serving(echo) as port:
        assert nc("127.0.0.1", port, data=b"hello\nworld") == (0, b"hello\nworld", "")


def test_no_input_is_a_connection_that_ends() -> None:
    with serving(count) as port:
        assert nc("localhost", port) == (0, counted(b""), "")


def test_every_byte_is_passed_on_as_it_is() -> None:
    data = bytes(range(256)) * 3 + b"\r\n\r\0\xff\x04"
    with serving(echo) as port:
        assert nc("127.0.0.1", port, data=data) == (0, data, "")


@needs_ipv6
def test_it_speaks_ipv6() -> None:
    with connected(host="::1") as (process, peer):
        peer.sendall(b"hello\n")
        peer.close()
        assert process.stdout.readline() == b"hello\n"
        assert rest_of(process) == (0, "")


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with serving(count, path):
        assert nc(f"unix:{path}", data=b"hello\n") == (0, counted(b"hello\n"), "")


@pytest.mark.parametrize("source", ["pipe", "file"])
@pytest.mark.parametrize("kind", ["plain", "TLS"])
def test_much_data_goes_both_ways_at_once(tmp_path: Path, ca: str, kind: str, source: str) -> None:
    path, data = large_file(tmp_path)
    tls = kind == "TLS"
    with serving(echo, context=server_context(tmp_path) if tls else None) as port, path.open("rb") as file:
        where = ["localhost", port, *(["--tls", "--ca", ca] if tls else [])]
        given = {"data": data} if source == "pipe" else {"stdin": file}
        status, output, errors = nc(*where, **given)
    assert (status, errors) == (0, "")
    assert output == data


def test_what_arrives_is_written_at_once() -> None:
    with serving(echo) as port, running("127.0.0.1", port) as process:
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line  # while the input is open
        process.stdin.close()
        assert rest_of(process) == (0, "")


# ---------------------------------------------------------------------- memory


def until_stuck(write: Callable[[bytes], int], limit: int) -> int:
    """Write zeros until nothing is taken for 400 ms, or `limit` is reached; give how many were taken."""
    total = 0
    with suppress(gevent.Timeout):
        while total < limit:
            with gevent.Timeout(0.4):
                total += write(bytes(65536))
    return total


def test_a_server_that_does_not_read_stops_the_input() -> None:
    with connected(bufsize=0) as (process, _):
        assert 0 < until_stuck(process.stdin.write, 2 * HELD) < HELD


def test_an_output_that_nobody_reads_stops_the_server() -> None:
    with connected() as (_, peer):
        assert 0 < until_stuck(peer.send, 2 * HELD) < HELD


def test_memory_does_not_grow_with_what_is_passed_on(tmp_path: Path) -> None:
    read_all, may_end = Event(), Event()

    def talk(client: gnet.Socket) -> None:
        echo(client)
        read_all.set()
        may_end.wait(PATIENCE)

    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(4 * HELD)
    with (
        serving(talk) as port,
        path.open("rb") as file,
        running("127.0.0.1", port, stdin=file, stdout=subprocess.DEVNULL) as process,
    ):
        assert read_all.wait(PATIENCE)
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        may_end.set()
        assert rest_of(process) == (0, "")
    assert peak
    assert int(peak[1]) * 1024 < 2 * HELD


# ---------------------------------------------------------------------- how it ends


@pytest.mark.parametrize("kind", ["plain", "TLS 1.3"])
def test_the_end_of_the_input_is_told_and_the_answer_awaited(tmp_path: Path, ca: str, kind: str) -> None:
    tls = kind != "plain"
    with serving(count, context=server_context(tmp_path) if tls else None) as port:
        options = ["--tls", "--ca", ca] if tls else []
        assert nc("localhost", port, *options, data=b"hello\n") == (0, counted(b"hello\n"), "")


def test_it_ends_with_the_server_although_the_input_is_open() -> None:
    def talk(client: gnet.Socket) -> None:
        client.send(b"you said " + client.read_line() + b"\n")

    with serving(talk) as port, running("127.0.0.1", port) as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.read() == b"you said hello\n"
        assert rest_of(process) == (0, "")


def test_a_server_that_ends_its_side_first_still_gets_the_input(tmp_path: Path) -> None:
    path, data = large_file(tmp_path)
    with path.open("rb") as file, connected(stdin=file) as (process, peer):
        peer.shutdown(stdlib_socket.SHUT_WR)
        received = b"".join(iter(lambda: peer.recv(65536), b""))
        assert rest_of(process) == (0, "")
    assert received == data


def test_a_server_that_closes_before_it_has_the_input_is_an_error_after_its_answer(tmp_path: Path) -> None:
    path, _ = large_file(tmp_path)
    with path.open("rb") as file, connected(stdin=file) as (process, peer):
        peer.recv(1)
        peer.sendall(b"413 too much\n")
        assert process.stdout.readline() == b"413 too much\n"
        peer.close()
        status, errors = rest_of(process)
    assert status == 1
    assert is_one_line(errors, "127.0.0.1")


def test_a_reset_is_an_error_after_what_came_before() -> None:
    with connected() as (process, peer):
        peer.sendall(b"half of")
        assert process.stdout.read(7) == b"half of"
        peer.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        status, errors = rest_of(process)
    assert status == 1
    assert is_one_line(errors, "Connection reset by peer")


def test_wait_bounds_the_time_for_answers_after_the_input() -> None:
    with connected("--wait", 50) as (process, peer):
        process.stdin.close()
        assert peer.recv(1) == b""
        assert rest_of(process) == (0, "")  # although the server never ends


def test_a_slow_output_is_not_taken_for_a_silent_server() -> None:
    with connected("--wait", 50) as (process, peer):
        process.stdin.close()
        total = until_stuck(peer.send, HELD)  # for a second, much longer than it waits
        assert len(process.stdout.read()) == total
        assert rest_of(process) == (0, "")


def test_ctrl_c_while_nothing_happens() -> None:
    with connected() as (process, peer):
        peer.sendall(b"hello\n")
        assert process.stdout.readline() == b"hello\n"
        interrupt(process)
        assert peer.recv(1) == b""


def test_ctrl_c_while_it_connects() -> None:
    with connected("--tls") as (process, peer):
        assert peer.recv(1) == b"\x16"  # the handshake that gets no answer
        interrupt(process)


def test_ctrl_c_while_both_sides_are_stuck() -> None:
    with connected(bufsize=0) as (process, peer):
        until_stuck(process.stdin.write, 2 * HELD)
        until_stuck(peer.send, 2 * HELD)
        interrupt(process)


def test_ctrl_c_while_much_is_passed_on() -> None:
    with (
        serving(echo) as port,
        Path("/dev/zero").open("rb") as zeros,
        running("127.0.0.1", port, stdin=zeros) as process,
    ):
        for _ in range(100):
            assert process.stdout.read(65536)
        process.send_signal(signal.SIGINT)
        while process.stdout.read(65536):
            pass
        assert rest_of(process) == (130, "")


def test_nobody_reads_the_output() -> None:
    def talk(client: gnet.Socket) -> None:
        with suppress(OSError):
            while True:
                client.send(b"again\n" * 1000)

    with serving(talk) as port, running("127.0.0.1", port) as process:
        assert process.stdout.readline() == b"again\n"
        process.stdout.close()
        assert rest_of(process) == (141, "")


# ---------------------------------------------------------------------- the standard streams


def flags_of(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL)


@pytest.mark.parametrize("blocking", [True, False])
def test_the_standard_streams_keep_their_mode(blocking: bool) -> None:
    """Others have the same open file: what is set on one descriptor is set on all."""
    mine, its = gevent.socket.socketpair()
    with (
        closing(mine),
        closing(its),
        serving(echo) as port,
        running("127.0.0.1", port, stdin=its.fileno(), stdout=its.fileno()) as process,
    ):
        os.set_blocking(its.fileno(), blocking)  # now: what starts processes has set it, too
        before = flags_of(its.fileno())
        mine.sendall(b"hello\n")
        assert mine.recv(100) == b"hello\n"
        assert flags_of(its.fileno()) == before
        data = os.urandom(LARGE)
        sending = gevent.spawn(mine.sendall, data)
        received = b""
        while len(received) < LARGE:
            received += mine.recv(2**20)
        sending.get()
        assert received == data
        mine.shutdown(stdlib_socket.SHUT_WR)
        assert rest_of(process) == (0, "")
        assert flags_of(its.fileno()) == before


def test_a_closed_input_is_an_empty_one() -> None:
    with serving(count) as port:
        closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command("127.0.0.1", port)]
        done = subprocess.run(closed, cwd=ROOT, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, counted(b""), b"")


def test_an_input_that_can_not_be_read() -> None:
    with serving(echo) as port, Path(os.devnull).open("wb") as only_written:
        status, output, errors = nc("127.0.0.1", port, stdin=only_written)
    assert (status, output) == (1, b"")
    assert is_one_line(errors, "standard input: Bad file descriptor")


def test_an_output_that_can_not_be_written() -> None:
    with serving(echo) as port, Path("/dev/full").open("wb") as full:
        status, _, errors = nc("127.0.0.1", port, data=b"hello\n", stdout=full)
    assert status == 1
    assert is_one_line(errors, "standard output: No space left on device")


class Terminal:
    """A process on a terminal of its own; this end is the keyboard and the screen."""

    def __init__(self, arguments: Sequence[object]) -> None:
        self.keyboard, its = pty.openpty()
        self.modes = termios.tcgetattr(its)
        self._its = its
        self.process = start(
            *arguments,
            stdin=its,
            stdout=its,
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )
        self._seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def wait_for(self, text: bytes) -> None:
        with gevent.Timeout(PATIENCE, AssertionError(f"not on the screen: {text!r}")):
            while text not in self._seen:
                self._seen += tp_read(self.keyboard, 1000)
        self._seen = self._seen.partition(text)[2]

    def end(self) -> tuple[int, str]:
        """Give status and complaints; the terminal must be as it was."""
        ended = rest_of(self.process)
        assert termios.tcgetattr(self._its) == self.modes
        return ended

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self._its)
        os.close(self.keyboard)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(closing(Terminal(arguments)))


def greet(client: gnet.Socket) -> None:
    for line in client.lines():
        client.send(b"hello, " + line + b"\n")
    client.send(b"goodbye\n")


def test_on_a_terminal_ctrl_d_ends_the_input(terminal: Callable[..., Terminal]) -> None:
    with serving(greet) as port:
        screen = terminal("127.0.0.1", port)
        screen.type(b"ada\n")
        screen.wait_for(b"hello, ada")
        screen.type(b"\x04")
        screen.wait_for(b"goodbye")
        assert screen.end() == (0, "")


def test_on_a_terminal_ctrl_c_ends_it(terminal: Callable[..., Terminal]) -> None:
    with serving(greet) as port:
        screen = terminal("127.0.0.1", port)
        screen.type(b"ada\n")
        screen.wait_for(b"hello, ada")
        screen.type(b"\x03")
        assert screen.end() == (130, "")


def test_on_a_terminal_it_ends_with_the_server(terminal: Callable[..., Terminal]) -> None:
    with serving(lambda client: client.send(b"hello, " + client.read_line() + b"\n")) as port:
        screen = terminal("127.0.0.1", port)
        screen.type(b"ada\n")
        screen.wait_for(b"hello, ada")
        assert screen.end() == (0, "")
