"""What handlers may raise, and what the server makes of it: one connection ends, one record in the log."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess
from gevent.event import Event

import gnet
from gnet.server import Server
from tests.conftest import PATCHED
from tests.faults.peers import GUARD, listener, reset, wait_until
from tests.server.peers import answer_lines, ask, connect, ending, logged, serving, silent_logs
from tests.server.talking import SHORT, TLS, Calls, Kind, kinds

_ROOT: Final = Path(__file__).parents[2]


class _OwnError(BaseException):
    """An exception that is no `Exception`."""


def _raising(error: BaseException) -> Callable[[gnet.Socket, str], None]:
    """A handler that answers a line, and raises at `die`."""

    def handle(client: gnet.Socket, _address: str) -> None:
        for line in client.lines():
            if line == b"die":
                raise error
            client.send(line + b"\n")

    return handle


def _ended(server: Server, count: int = 1) -> None:
    wait_until(lambda: server._terms.statistics.closed == count, f"{count} connections are gone")


# D17, D18

_ERRORS: Final = [
    ValueError("no"),
    SystemError("no"),
    MemoryError("no"),
    RecursionError("no"),
    SystemExit(3),
    KeyboardInterrupt("raised, and no signal"),
    gevent.GreenletExit("raised, and no kill"),
    GeneratorExit("no"),
    StopIteration("no"),
    _OwnError("no"),
    gevent.Timeout(1),
    ExceptionGroup("no", [ValueError("one")]),
]


@kinds
@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_d18_whatever_a_handler_raises_ends_its_connection_only(error: BaseException, kind: Kind) -> None:
    with logged() as log, serving(_raising(error), **kind.arguments) as server:
        with kind.connect(server) as other, kind.connect(server) as client:
            other.send(b"before\n")
            assert other.recv_exactly(7) == b"before\n"
            client.send(b"die\n")
            assert client.recv_all() == b""
            other.send(b"after\n")
            assert other.recv_exactly(6) == b"after\n"
            with kind.connect(server) as later:
                later.send(b"later\n")
                assert later.recv_exactly(6) == b"later\n"
        assert server._terms.statistics.handler_errors == 1
        assert server._terms.statistics.peer_errors == 0
    assert log.text().count("Traceback (most recent call last)") == 1
    assert type(error).__name__ in log.lines()[0]


def test_d17_the_record_names_the_peer_and_the_line_of_code() -> None:
    with logged() as log, serving(_raising(ValueError("no good"))) as server, connect(server) as client:
        name = client.getsockname()
        client.sendall(b"die\n")
        assert ending(client) == "end"
        wait_until(lambda: bool(log.lines()), "it is logged")
    assert log.lines()[0] == f"{name[0]}:{name[1]}: the handler raised ValueError"
    assert "raise error" in log.text()
    assert "ValueError: no good" in log.text()


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "\rover", "\x00", "\x9b31m", "\u202ertl", "a\x7f", "\ud800"], ids=repr
)
def test_d17_control_characters_are_escaped_in_the_log(text: str) -> None:
    with logged() as log, serving(_raising(ValueError(f"bad: {text}"))) as server, connect(server) as client:
        client.sendall(b"die\n")
        assert ending(client) == "end"
        wait_until(lambda: bool(log.lines()), "it is logged")
    shown = log.text()
    assert all(each.isprintable() or each == "\n" for each in shown)
    assert text.encode("unicode_escape").decode() in shown


def test_d17_a_newline_of_the_peers_does_not_begin_a_line_of_the_log() -> None:
    handler = _raising(ValueError("x\nCRITICAL: forged"))
    with logged() as log, serving(handler) as server, connect(server) as client:
        client.sendall(b"die\n")
        assert ending(client) == "end"
        wait_until(lambda: bool(log.lines()), "it is logged")
    assert not [line for line in log.lines() if line.startswith("CRITICAL")]


def test_d17_a_huge_message_does_not_fill_the_log() -> None:
    with logged() as log, serving(_raising(ValueError("x" * 5_000_000))) as server, connect(server) as client:
        client.sendall(b"die\n")
        assert ending(client) == "end"
        wait_until(lambda: bool(log.lines()), "it is logged")
    assert len(log.text()) < 50_000


class _BadError(Exception):
    def __str__(self) -> str:
        raise _OwnError

    __repr__ = __str__


def test_d17_an_error_that_cannot_be_shown_ends_its_connection_only() -> None:
    with logged() as log, serving(_raising(_BadError())) as server:
        with connect(server) as client:
            client.sendall(b"die\n")
            assert ending(client) == "end"
        with connect(server) as client:
            assert ask(client) == b"ping\n"
        assert server._terms.statistics.handler_errors == 1
    assert "_BadError" in log.lines()[0]


def test_d17_what_was_sent_before_the_error_arrives() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        client.send(b"x" * 100_000)
        raise ValueError("after it")

    with silent_logs(), serving(handle) as server, connect(server) as client:
        client.sendall(b"go\nand more that nobody reads\n")
        received = b""
        while part := client.recv(1 << 16):
            received += part
        assert len(received) == 100_000


def test_d18_a_place_of_the_pool_is_free_after_each_error() -> None:
    with silent_logs(), serving(_raising(SystemExit()), pool_size=1) as server:
        for _ in range(5):
            with connect(server) as client:
                client.sendall(b"die\n")
                assert ending(client) == "end"
        with connect(server) as client:
            assert ask(client) == b"ping\n"
        assert server._admission.running == 1


def test_d18_a_handler_that_is_killed_ends_its_connection_only() -> None:
    greenlets = []

    def handle(client: gnet.Socket, address: str) -> None:
        greenlets.append(gevent.getcurrent())
        answer_lines(client, address)

    with silent_logs(), serving(handle) as server, connect(server) as client, connect(server) as other:
        assert ask(client) == b"ping\n"
        assert ask(other) == b"ping\n"
        gevent.kill(greenlets[0])
        assert ending(client) == "end"
        assert ask(other) == b"ping\n"
        assert server._terms.statistics.handler_errors == 1


# Whose error it is


@kinds
def test_a_reset_by_the_peer_is_counted_and_not_logged_as_an_error(kind: Kind) -> None:
    with logged() as log, serving(answer_lines, **kind.arguments) as server:
        with kind.connect(server) as client:
            client.send(b"ping\n")
            assert client.recv_exactly(5) == b"ping\n"
            reset(client.raw)
            _ended(server)
        assert server._terms.statistics.handler_errors == 0
        assert server._terms.statistics.peer_errors == 1
    assert "Traceback" not in log.text()
    assert len(log.lines()) <= 1
    assert len(log.text()) <= 120


@pytest.mark.parametrize(
    "handle",
    [
        lambda client, _: client.recv_exactly(100),
        lambda client, _: client.recv_until(b"\n"),
        lambda client, _: list(client.lines()),
        lambda client, _: [client.send(b"x" * 1_000_000) for _ in range(100)],
        lambda client, _: [client.send(each) for each in client.lines(max_length=4)],
        lambda client, _: gevent.spawn(client.recv_exactly, 100).get(),
    ],
    ids=["cut message", "cut until", "cut line", "send", "too long", "in a greenlet of its own"],
)
def test_errors_of_the_handlers_own_client_are_the_peers(handle: Any) -> None:
    hub = gevent.get_hub()
    hub.NOT_ERROR += (gnet.IncompleteReadError,)  # of the greenlet: not to be printed
    try:
        with logged() as log, serving(handle) as server:
            with connect(server) as client:
                client.sendall(b"incomplete")
            _ended(server)
            assert server._terms.statistics.peer_errors == 1
            assert server._terms.statistics.handler_errors == 0
        assert "Traceback" not in log.text()
    finally:
        del hub.NOT_ERROR


def test_an_explicit_timeout_that_a_handler_does_not_catch_is_the_peers() -> None:
    with silent_logs(), serving(lambda client, _: client.read_line(timeout=20)) as server:
        with connect(server) as client:
            assert ending(client) == "end"
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (1, 0)


def test_errors_of_another_socket_are_the_handlers_own() -> None:
    with listener() as upstream, logged() as log:

        def handle(client: gnet.Socket, _address: str) -> None:
            client.read_line()
            with gnet.dial(*upstream.getsockname(), timeout=GUARD) as backend:
                backend.read_line(timeout=20)

        with serving(handle) as server, connect(server) as client:
            client.sendall(b"go\n")
            assert ending(client) == "end"
            assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (0, 1)
    assert log.text().count("Traceback (most recent call last)") == 1


def test_an_oserror_that_is_no_sockets_is_the_handlers_own() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        Path("/no/such/file").read_text()

    with logged() as log, serving(handle) as server, connect(server) as client:
        client.sendall(b"go\n")
        assert ending(client) == "end"
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (0, 1)
    assert "FileNotFoundError" in log.text()


def test_an_error_of_another_connections_client_is_the_handlers_own() -> None:
    clients: list[gnet.Socket] = []
    go = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        clients.append(client)
        if len(clients) == 1:
            go.wait()
        else:
            clients[0].read_line(timeout=20)

    with silent_logs(), serving(handle) as server, connect(server), connect(server) as second:
        assert ending(second) == "end"
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (0, 1)
        go.set()


def test_a_handler_that_uses_what_it_closed_is_wrong_itself() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.close()
        client.read_line()

    with silent_logs(), serving(handle) as server, connect(server) as client:
        assert ending(client) == "end"
        wait_until(lambda: server._terms.statistics.handler_errors == 1, "it is counted")
        assert server._terms.statistics.peer_errors == 0


def test_a_wrong_argument_is_the_handlers_own_error() -> None:
    with silent_logs(), serving(lambda client, _: client.send("text")) as server, connect(server) as client:
        assert ending(client) == "end"
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (0, 1)


def test_many_hostile_connections_make_few_lines_in_the_log() -> None:
    count = 60
    with logged() as log, serving(lambda client, _: client.recv_exactly(10)) as server:
        for number in range(1, count + 1):
            with connect(server) as client:
                client.sendall(b"x")
            _ended(server, number)
        assert server._terms.statistics.peer_errors == count
    seconds = 15  # at most: one line each
    assert len(log.lines()) <= seconds
    assert all(len(line) <= 120 for line in log.lines())


def test_a_logger_that_fails_does_not_hurt_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logging.getLogger("gnet.server"), "handle", fail)
    with serving(_raising(ValueError("no"))) as server:
        for _ in range(2):
            with connect(server) as client:
                client.sendall(b"die\n")
                assert ending(client) == "end"
        assert server._terms.statistics.handler_errors == 2


# Ctrl-C by a real signal

_SERVE_FOREVER: Final = """
import sys, time
import gevent
from gnet.server import Server

def handle(client, address):
    print("in", flush=True)
    if sys.argv[1] == "computes":
        while True:
            pass
    elif sys.argv[1] == "loops over calls":
        while True:
            time.monotonic()
    elif sys.argv[1] == "catches all":
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass
    else:
        client.read_line()

server = Server(handle, "127.0.0.1")
server.start()
print(server.port, flush=True)
try:
    if sys.argv[2] == "serve_forever":
        server.serve_forever()
    elif sys.argv[2] == "main sleeps":
        gevent.sleep(60)
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
    print(server, flush=True)
"""


def _interrupt(handler: str, main: str) -> tuple[int, list[str], str]:
    monkey = ["-m", "gevent.monkey"] if PATCHED else []
    script = _ROOT / f".pytest-{os.getpid()}.py" if PATCHED else None
    arguments = ["-c", _SERVE_FOREVER]
    if script is not None:  # gevent.monkey knows no -c
        script.write_text(_SERVE_FOREVER)
        arguments = [str(script)]
    process = subprocess.Popen(
        [sys.executable, *monkey, *arguments, handler, main],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            if handler == "nobody":
                pass
            else:
                assert process.stdout.readline() == "in\n"
            gevent.sleep(0.05)  # on its way into the loop: any moment will do
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=GUARD / 1000)
        return process.returncode, out.splitlines(), errors
    finally:
        process.kill()
        process.wait()
        if script is not None:
            script.unlink()


@pytest.mark.parametrize("handler", ["waits", "computes", "loops over calls", "catches all"])
def test_d18_a_real_ctrl_c_comes_out_of_serve_forever(handler: str) -> None:
    code, lines, errors = _interrupt(handler, "serve_forever")
    assert code == 0
    assert "Traceback" not in errors  # gevent prints the name, if the hub was interrupted
    assert lines[0] == "KeyboardInterrupt"
    assert "stopped" in lines[-1]
    assert " 0 connections" in lines[-1]


@pytest.mark.parametrize("handler", ["waits", "computes"])
def test_d18_a_real_ctrl_c_is_not_swallowed_without_serve_forever(handler: str) -> None:
    code, lines, _ = _interrupt(handler, "main sleeps")
    assert code == 0
    assert "KeyboardInterrupt" in lines


# The client that a handler gets


def test_a_handler_gets_a_socket_and_the_clients_address() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, address: str) -> None:
        calls.note((isinstance(client, gnet.Socket), address, client.get_peer_addr()))

    with serving(handle) as server, connect(server, source="127.0.0.7") as client:
        assert calls.only() == (True, "127.0.0.7", ("127.0.0.7", client.getsockname()[1]))


def test_a_handler_may_be_any_callable() -> None:
    class Handler:
        def __init__(self) -> None:
            self.count = 0

        def __call__(self, client: gnet.Socket, _address: str) -> None:
            self.count += 1
            client.send(b"+")

    handler = Handler()
    with serving(handler) as server, connect(server) as client:
        assert client.recv(2) == b"+"
    assert handler.count == 1


def test_a_handler_that_detaches_its_client_has_the_descriptor() -> None:
    calls = Calls()
    with serving(lambda client, _: calls.note(client.detach())) as server, connect(server) as client:
        taken = socket.socket(fileno=calls.only())
        with taken:
            assert not server._admission.connections
            taken.sendall(b"mine")
            assert client.recv(4) == b"mine"


def test_a_handler_that_closes_its_client_is_done_with_it() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"bye")
        client.close()
        calls.note(len(server._admission.connections))
        gevent.sleep(SHORT / 1000)

    with serving(handle) as server, connect(server) as client:
        assert client.recv(3) == b"bye"
        assert ending(client) == "end"
        assert calls.only() == 0


def test_a_result_of_the_handler_is_of_no_interest() -> None:
    with logged() as log, serving(lambda client, _: client) as server, connect(server) as client:
        assert ending(client) == "end"
        _ended(server)
    assert not log.lines()


def test_handlers_that_are_no_callable_are_refused() -> None:
    with pytest.raises(TypeError, match="handler"):
        Server("handle")  # type: ignore[arg-type]  # on purpose


def test_a_handler_on_tls_sees_a_tls_socket() -> None:
    calls = Calls()
    with (
        serving(lambda client, _: calls.note(client.is_ssl()), **TLS.arguments) as server,
        TLS.connect(server),
    ):
        assert calls.only() is True


def test_an_error_in_a_greenlet_of_the_handlers_does_not_end_the_connection() -> None:
    hub = gevent.get_hub()
    hub.NOT_ERROR += (ValueError,)

    def fail() -> None:
        raise ValueError("elsewhere")

    def handle(client: gnet.Socket, address: str) -> None:
        gevent.spawn(fail)
        answer_lines(client, address)

    try:
        with serving(handle) as server, connect(server) as client:
            assert ask(client) == b"ping\n"
            with suppress(OSError):
                assert ask(client) == b"ping\n"
    finally:
        del hub.NOT_ERROR
