"""The programs in examples/, each as its own process against real peers.

What of them speaks TLS is in test_tls_examples.py.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket as stdlib_socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.subprocess as subprocess
import pytest

import gnet
from tests.example_programs import EXAMPLES, PATIENCE, Server, is_one_line, read_to_end, run, start

pytestmark = pytest.mark.plain_only


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:
        yield lambda *arguments, **more: stack.enter_context(closing(Server(*arguments, **more)))


@pytest.fixture
def scripted_peer() -> Iterator[Callable[[bytes], int]]:
    """`scripted_peer(answer)` gives the port of a peer that reads a head, sends `answer` and closes."""
    with ExitStack() as stack:

        def listen(answer: bytes) -> int:
            listener = stack.enter_context(closing(gevent.socket.create_server(("127.0.0.1", 0))))

            def answer_one() -> None:
                client, _ = listener.accept()
                with client, client.makefile("rb") as file:
                    while file.readline() not in (b"\r\n", b""):
                        pass
                    client.sendall(answer)

            greenlet = gevent.spawn(answer_one)
            stack.callback(greenlet.kill)
            return int(listener.getsockname()[1])

        yield listen


# All of them


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_its_idea(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 120
    assert lines[0].startswith('"""')
    assert lines[0].endswith(".")
    assert re.search(rf"(python|locust -f) examples/{path.name}", "\n".join(lines[:8]))


SERVERS = [
    ("ping_server.py",),
    ("echo_server.py",),
    ("chat_server.py",),
    ("kv_server.py",),
    ("smtp_sink.py",),
    ("legacy_gevent_app.py", "gnet"),
    ("tls_echo.py", "serve"),
    ("udp_echo.py", "serve"),
]


@pytest.mark.parametrize("command", SERVERS, ids=lambda command: command[0])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_without_clients_ends_with_0_when_told(
    serve: Callable[..., Server], command: tuple[str, ...], number: signal.Signals
) -> None:
    server = serve(*command)
    assert server.host == "127.0.0.1"
    assert str(server.port) in server.hint
    server.signal_and_wait(number)


@pytest.mark.parametrize("command", SERVERS, ids=lambda command: command[0])
def test_a_server_listens_on_the_address_it_is_given(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    try:
        with stdlib_socket.socket(stdlib_socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    server = serve(*command, "--address", "::1")
    assert server.host == "[::1]"
    server.signal_and_wait()


@pytest.mark.parametrize("command", SERVERS[:-1], ids=lambda command: command[0])
def test_a_port_in_use_is_one_line_and_status_1(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    server = serve("ping_server.py")
    status, output, errors = run(*command, "--port", server.port)
    assert (status, output) == (1, "")
    assert is_one_line(errors, str(server.port))


@pytest.mark.parametrize("command", SERVERS[:6], ids=lambda command: command[0])
def test_idle_clients_get_an_end_of_stream_on_sigterm(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    # Without its own limit on a drain: they must not have to wait for that.
    server = serve(*command, change="program.DRAIN_SECONDS = 1000; program.DRAIN_TIMEOUT = 1_000_000")
    with server.connect() as first, server.connect() as second:
        # By an answer it is known that both are accepted, in this order.
        second.sendall(b"hello\r\n")
        (first if command == ("chat_server.py",) else second).recv(1)
        server.signal_and_wait()
        for client in (first, second):
            read_to_end(client)  # a reset would raise


# ping_server.py


def test_ping_server_answers_each_line(serve: Callable[..., Server]) -> None:
    server = serve("ping_server.py")
    with server.connect() as client:
        for part in (b"PI", b"NG\r", b"\nanother\n\r\n", b"no end"):
            client.sendall(part)
        client.shutdown(stdlib_socket.SHUT_WR)
        assert read_to_end(client) == b"+PONG\r\n" * 3


def test_redis_benchmark_drives_ping_server(
    serve: Callable[..., Server], needs_program: Callable[[str], str]
) -> None:
    program = needs_program("redis-benchmark")
    server = serve("ping_server.py")
    for pipeline in ("1", "16"):
        command = [
            program,
            "-p",
            str(server.port),
            "-t",
            "ping_inline",
            "-n",
            "2000",
            "-P",
            pipeline,
            "--csv",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert "PING_INLINE" in done.stdout
    server.signal_and_wait()


def test_ping_server_answers_what_has_arrived_before_it_ends(serve: Callable[..., Server]) -> None:
    server = serve("ping_server.py")
    with server.connect() as client:
        # As many lines as surely have arrived at the signal, for which the server needs some 50 ms.
        client.sendall(b"\n" * 50_000)
        client.recv(1)
        server.process.send_signal(signal.SIGTERM)
        assert 1 + len(read_to_end(client)) == 50_000 * len(b"+PONG\r\n")
        assert server.process.wait(PATIENCE) == 0


def test_ping_server_ends_though_a_client_does_not_read(serve: Callable[..., Server]) -> None:
    server = serve("ping_server.py")
    with server.connect(receive_buffer=4096) as client:
        client.settimeout(1.0)
        with suppress(TimeoutError):  # when its answers do not fit any more: now the server waits
            while True:
                client.sendall(b"\n" * 65536)
        server.signal_and_wait()


def test_ping_server_ends_though_a_client_never_stops(serve: Callable[..., Server]) -> None:
    server = serve("ping_server.py")

    def flood(client: gevent.socket.socket) -> None:
        with suppress(ConnectionError):
            while True:
                client.sendall(b"\n" * 1000)

    with server.connect() as client:
        flooding = gevent.spawn(flood, client)
        client.recv(1)
        server.process.send_signal(signal.SIGTERM)
        with suppress(ConnectionResetError):
            while client.recv(65536):
                pass
        assert server.process.wait(PATIENCE) == 0
        flooding.get()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ping_server_serves_with_workers(serve: Callable[..., Server], number: signal.Signals) -> None:
    server = serve("ping_server.py", "--workers", "2")
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.sendall(b"PING\r\n")
            assert client.recv(100) == b"+PONG\r\n"
        server.signal_and_wait(number)
        for client in (first, second):
            assert client.recv(1) == b""


def test_ping_server_ends_with_workers_as_soon_as_it_says_that_it_listens(
    serve: Callable[..., Server],
) -> None:
    serve("ping_server.py", "--workers", "2").signal_and_wait()


@pytest.mark.parametrize("number", ["0", "-1"])
def test_ping_server_needs_a_worker(number: str) -> None:
    status, _output, errors = run("ping_server.py", "--workers", number)
    assert status == 1
    assert is_one_line(errors, "workers")


# echo_server.py


def test_echo_server_sends_back_every_byte(serve: Callable[..., Server]) -> None:
    server = serve("echo_server.py")
    data = os.urandom(3_000_000)
    with server.connect() as client:
        sender = gevent.spawn(lambda: (client.sendall(data), client.shutdown(stdlib_socket.SHUT_WR)))
        assert read_to_end(client) == data
        sender.get()
    server.signal_and_wait()


# chat_server.py


def chat_client(server: Server, stack: ExitStack) -> tuple[gevent.socket.socket, Any]:
    client = stack.enter_context(server.connect())
    return client, stack.enter_context(client.makefile("rb"))


def test_chat_tells_each_line_to_all_others(serve: Callable[..., Server]) -> None:
    server = serve("chat_server.py")
    with ExitStack() as stack:
        ann, ann_hears = chat_client(server, stack)
        ann.sendall(b"alone\n")
        bob, bob_hears = chat_client(server, stack)
        assert ann_hears.readline() == b"* guest 2 is here\r\n"
        ann.sendall(b"hello\r\nbob\n")
        bob.sendall(b"hi\r\n")
        assert bob_hears.readline() == b"guest 1: hello\r\n"
        assert bob_hears.readline() == b"guest 1: bob\r\n"
        assert ann_hears.readline() == b"guest 2: hi\r\n"
        bob.shutdown(stdlib_socket.SHUT_WR)
        assert bob_hears.read() == b""
        assert ann_hears.readline() == b"* guest 2 has left\r\n"
        server.signal_and_wait()


def test_chat_drops_a_client_that_never_reads_and_nobody_waits_for_it(serve: Callable[..., Server]) -> None:
    server = serve("chat_server.py")
    with ExitStack() as stack:
        slow = stack.enter_context(server.connect(receive_buffer=4096))
        slow.sendall(b"I shall not listen\n")
        speaker, speaker_hears = chat_client(server, stack)
        _, listener_hears = chat_client(server, stack)
        assert speaker_hears.readline() == b"* guest 3 is here\r\n"
        heard = 0
        while True:  # until the slow one is gone, which is what this test waits for
            speaker.sendall(b"%0500d\n" % heard * 50)
            lines = [listener_hears.readline() for _ in range(50)]
            spoken = [line for line in lines if line.startswith(b"guest 2: ")]
            assert spoken == [b"guest 2: %0500d\r\n" % heard] * len(spoken)
            if b"* guest 1 has left\r\n" in lines:
                break
            heard += 1
        # The listener has heard all: what is left of the last fifty is still on its way.
        assert listener_hears.readline().startswith(b"guest 2: ")
        with pytest.raises(ConnectionResetError):
            read_to_end(slow)
        server.signal_and_wait()


def test_chat_drops_a_client_whose_line_has_no_end(serve: Callable[..., Server]) -> None:
    server = serve("chat_server.py")
    with ExitStack() as stack:
        ann, ann_hears = chat_client(server, stack)
        ann.sendall(b"first\n")
        endless, _ = chat_client(server, stack)
        assert ann_hears.readline() == b"* guest 2 is here\r\n"
        endless.sendall(b"x" * 2000)
        assert ann_hears.readline() == b"* guest 2 has left\r\n"
        server.signal_and_wait()


# redis_client.py


@pytest.fixture
def redis_port(tmp_path: Path, needs_program: Callable[[str], str]) -> Iterator[int]:
    """The port of a redis-server of this test's own."""
    program = needs_program("redis-server")
    with ExitStack() as stack:
        for _attempt in range(5):
            with stdlib_socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]  # Redis has no port 0; another may take this one meanwhile
            process = subprocess.Popen(
                [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            for line in process.stdout:
                if "eady to accept connections" in line:
                    yield port
                    return
        pytest.fail("redis-server did not start")


@pytest.fixture
def redis_client(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("redis_client")


def test_redis_client_as_a_program(redis_port: int) -> None:
    server = f"127.0.0.1:{redis_port}"
    assert run("redis_client.py", server, "PING") == (0, "PONG\n", "")
    assert run("redis_client.py", server, "SET", "greeting", "good day") == (0, "OK\n", "")
    assert run("redis_client.py", server, "GET", "greeting") == (0, "good day\n", "")
    assert run("redis_client.py", server, "RPUSH", "list", "a", "b", "c") == (0, "3\n", "")
    assert run("redis_client.py", server, "LRANGE", "list", "1", "-1") == (0, "b\nc\n", "")
    status, output, errors = run("redis_client.py", server, "INCR", "greeting")
    assert (status, output) == (1, "")
    assert is_one_line(errors, "not an integer")


def test_redis_client_as_a_module(redis_client: Any, redis_port: int) -> None:
    redis = redis_client.Redis("127.0.0.1", redis_port)
    with redis.socket:
        assert redis.ping() == b"PONG"
        binary = bytes(range(256)) + b"\r\n"
        assert redis.set("key", binary) == b"OK"
        assert redis.get("key") == binary
        assert redis.set("empty", "") == b"OK"
        assert redis.get("empty") == b""
        assert redis.get("nothing") is None
        assert [redis.incr("n"), redis.incr("n")] == [1, 2]
        assert redis.lrange("no list", 0, -1) == []
        with pytest.raises(redis_client.RedisError, match="WRONGTYPE"):
            redis.lrange("key", 0, -1)
        assert redis.ping() == b"PONG"


def test_redis_client_pipelines(redis_client: Any, redis_port: int) -> None:
    redis = redis_client.Redis("127.0.0.1", redis_port)
    with redis.socket:
        commands = [["RPUSH", "list", *range(1000)], ["BOGUS"], ["LRANGE", "list", 0, -1], ["GET", "none"]]
        count, error, items, nothing = redis.pipeline(commands)
        assert count == 1000
        assert isinstance(error, redis_client.RedisError)
        assert items == [b"%d" % number for number in range(1000)]
        assert nothing is None
        assert redis.pipeline([["EVAL", "return {1, {'x', false}}", 0]]) == [[1, [b"x", None]]]


def test_redis_client_is_done_after_an_answer_that_did_not_come(
    redis_client: Any, scripted_peer: Callable[[bytes], int]
) -> None:
    redis = redis_client.Redis("127.0.0.1", scripted_peer(b"$100\r\nonly a part"))
    with pytest.raises(gnet.IncompleteReadError):
        redis.command("GET", "key", "")  # the empty argument is what the peer takes for the end
    with pytest.raises(gnet.ClosedError):
        redis.ping()


# http_get.py


def test_http_get_fetches_a_page_from_pythons_server(tmp_path: Path) -> None:
    page = "grüße\n" * 50_000
    (tmp_path / "a page.txt").write_text(page, encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        port = int(server.stdout.readline().split()[5])  # Serving HTTP on 127.0.0.1 port N
        assert run("http_get.py", f"http://127.0.0.1:{port}/a page.txt") == (0, page, "200 OK\n")
        status, output, errors = run("http_get.py", f"http://127.0.0.1:{port}/none?a=b")
        assert (status, errors) == (1, "404 File not found\n")
        assert "404" in output
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


HEAD = b"HTTP/1.1 200 OK\r\nServer: scripted\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "chunked": (CHUNKED + b"5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nTrailer: x\r\n\r\n", "hello, world"),
    "chunks with line ends": (CHUNKED + b"A\r\na\r\nb\n\r\n\n\n\n\r\n0\r\n\r\n", "a\r\nb\n\r\n\n\n\n"),
    "no chunk": (CHUNKED + b"0\r\n\r\n", ""),
    "until close": (HEAD + b"\r\nall\nof it", "all\nof it"),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", ""),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"\r\npage", "page"),
    "bytes behind": (HEAD + b"content-length:4\r\n\r\npage and more", "page"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_http_get_knows_where_a_body_ends(scripted_peer: Callable[[bytes], int], case: str) -> None:
    answer, body = ANSWERS[case]
    process = start("http_get.py", f"http://127.0.0.1:{scripted_peer(answer)}")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, body.replace("\r\n", "\n"), "200 OK\n")


BROKEN_ANSWERS = {
    "nothing": b"",
    "no HTTP": b"+PONG\r\n",
    "headers cut": HEAD,
    "header line cut": HEAD + b"Content-Le",
    "body cut": HEAD + b"Content-Length: 10\r\n\r\nhello",
    "length is no number": HEAD + b"Content-Length: ten\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "chunk cut": CHUNKED + b"5\r\nhel",
    "chunks cut": CHUNKED + b"5\r\nhello\r\n",
    "size of a chunk is no number": CHUNKED + b"five\r\nhello\r\n",
    "chunk longer than it says": CHUNKED + b"2\r\nhello\r\n0\r\n\r\n",
    "too many headers": HEAD + b"X-%d: y\r\n" * 200 % tuple(range(200)) + b"\r\n",
}


@pytest.mark.parametrize("case", BROKEN_ANSWERS)
def test_http_get_fails_in_one_line(scripted_peer: Callable[[bytes], int], case: str) -> None:
    status, _output, errors = run("http_get.py", f"http://127.0.0.1:{scripted_peer(BROKEN_ANSWERS[case])}/")
    assert status == 1
    assert is_one_line(errors, "http_get: ")


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "127.0.0.1", "http://", "http://127.0.0.1:99999/"])
def test_http_get_refuses_what_it_can_not_fetch(url: str) -> None:
    status, output, errors = run("http_get.py", url)
    assert (status, output) == (1, "")
    assert is_one_line(errors, "http_get: ")


# udp_echo.py


def test_udp_echo_answers_its_client(serve: Callable[..., Server]) -> None:
    server = serve("udp_echo.py", "serve")
    assert run("udp_echo.py", "ask", f"127.0.0.1:{server.port}", "grüße") == (0, "grüße\n", "")
    assert run("udp_echo.py", "ask", f"127.0.0.1:{server.port}", "") == (0, "\n", "")
    server.signal_and_wait()


def test_udp_client_asks_again_when_a_datagram_is_lost() -> None:
    with gevent.socket.socket(gevent.socket.AF_INET, gevent.socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        process = start("udp_echo.py", "ask", f"127.0.0.1:{peer.getsockname()[1]}", "twice")
        assert peer.recvfrom(100)[0] == b"twice"
        question, sender = peer.recvfrom(100)  # again, as there was no answer
        peer.sendto(question, sender)
        assert process.communicate(timeout=PATIENCE) == ("twice\n", "")


def test_udp_client_gives_up_on_silence_and_on_a_port_without_a_server() -> None:
    with gevent.socket.socket(gevent.socket.AF_INET, gevent.socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        status, output, errors = run("udp_echo.py", "ask", f"127.0.0.1:{port}", "hello?")
        assert (status, output) == (1, "")
        assert is_one_line(errors, "not done within")
    status, _, errors = run("udp_echo.py", "ask", f"127.0.0.1:{port}", "hello?")
    assert status == 1
    assert is_one_line(errors, "refused")
