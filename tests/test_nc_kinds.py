"""`python -m gnet nc` over TLS and with datagrams, and what it complains of."""

from __future__ import annotations

import os
import socket as stdlib_socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import gevent
import gevent.socket
import gevent.subprocess as subprocess
import pytest

import gnet
from gnet.__main__ import main
from tests.conftest import require_program
from tests.nc_processes import (
    LARGE,
    PATIENCE,
    echo,
    interrupt,
    is_one_line,
    large_file,
    nc,
    port_of,
    raw_listener,
    rest_of,
    running,
    serving,
)
from tests.tls.authorities import authority, top
from tests.tls.handshakes import server_context

pytestmark = pytest.mark.plain_only  # it runs in processes of its own


@pytest.fixture
def ca(tmp_path: Path) -> str:
    """The file of the root that the tests' certificates come from."""
    return str(top().write_ca(tmp_path)["ca_file"])


# ---------------------------------------------------------------------- TLS


@contextmanager
def stdlib_server(folder: Path, version: ssl.TLSVersion) -> Iterator[int]:
    """An echo server on the standard library's TLS, in a thread, for one connection."""
    files = authority().issue("localhost").write(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert_file"], files["key_file"])
    context.minimum_version = context.maximum_version = version

    def serve_one() -> None:
        plain, _ = listener.accept()
        plain.settimeout(PATIENCE)
        with context.wrap_socket(plain, server_side=True) as client:
            while data := client.recv(65536):
                client.sendall(data)
            client.unwrap().close()

    with closing(stdlib_socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(PATIENCE)
        serving = gevent.get_hub().threadpool.spawn(serve_one)
        yield port_of(listener)
        serving.get()


def test_much_data_with_a_server_of_the_standard_library(tmp_path: Path, ca: str) -> None:
    _, data = large_file(tmp_path)
    with stdlib_server(tmp_path, ssl.TLSVersion.TLSv1_3) as port:
        status, output, errors = nc("localhost", port, "--tls", "--ca", ca, data=data)
    assert (status, errors) == (0, "")
    assert output == data


def test_below_tls_1_3_answers_are_awaited_a_while(tmp_path: Path, ca: str) -> None:
    data = os.urandom(LARGE // 4)
    with stdlib_server(tmp_path, ssl.TLSVersion.TLSv1_2) as port:
        status, output, errors = nc("localhost", port, "--tls", "--ca", ca, data=data)
    assert (status, errors) == (0, "")
    assert output == data


def test_below_tls_1_3_the_wait_begins_anew_with_each_answer(tmp_path: Path, ca: str) -> None:
    def talk(client: gnet.Socket) -> None:
        client.read_line()
        for number in range(5):
            gevent.sleep(0.4)  # a slow server
            client.send(b"%d\n" % number)
        assert client.recv_some(1) == b""

    context = server_context(tmp_path, max_version="TLSv1.2")
    with serving(talk, context=context) as port:
        asked = nc("localhost", port, "--tls", "--ca", ca, "--wait", 1500, data=b"count\n")
    assert asked == (0, b"0\n1\n2\n3\n4\n", "")


def test_openssl_as_the_server(tmp_path: Path, ca: str) -> None:
    files = authority().issue("localhost").write(tmp_path)
    with raw_listener() as probe:
        port = port_of(probe)
    serve = [require_program("openssl"), "s_server", "-rev", "-accept", f"127.0.0.1:{port}", "-naccept", "1"]
    serve += ["-cert", files["cert_file"], "-key", files["key_file"], "-cert_chain", files["cert_file"]]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            assert b"ACCEPT" in iter_until(server.stdout, b"ACCEPT")
            with running("localhost", port, "--tls", "--ca", ca) as process:
                process.stdin.write(b"hello\nCLOSE\n")
                process.stdin.flush()
                assert process.stdout.readline() == b"olleh\n"
                assert rest_of(process) == (0, "")
        finally:
            server.kill()


def iter_until(stream: Any, part: bytes) -> bytes:
    for line in stream:
        if part in line:
            return bytes(line)
    return b""


@pytest.mark.parametrize(
    ("name", "part"),
    [("other.test", "ostname mismatch"), ("127.0.0.9", "IP address mismatch")],
)
def test_a_certificate_for_another_name(tmp_path: Path, ca: str, name: str, part: str) -> None:
    with serving(echo, context=server_context(tmp_path, authority().issue(name))) as port:
        status, output, errors = nc("127.0.0.1" if "127" in name else "localhost", port, "--tls", "--ca", ca)
        assert (status, output) == (1, b"")
        assert is_one_line(errors, "certificate", part)
        asked = nc("127.0.0.1", port, "--tls", "--ca", ca, "--servername", name, data=b"hello\n")
        assert asked == (0, b"hello\n", "")


def test_a_certificate_of_an_unknown_authority(tmp_path: Path) -> None:
    with serving(echo, context=server_context(tmp_path)) as port:
        status, output, errors = nc("localhost", port, "--tls", data=b"secret\n")
    assert (status, output) == (1, b"")
    assert is_one_line(errors, "certificate", "unable to get local issuer certificate")


def test_an_end_without_close_notify_is_an_error(tmp_path: Path, ca: str) -> None:
    def talk(client: gnet.Socket) -> None:
        client.send(b"half of")
        os_socket = stdlib_socket.socket(fileno=os.dup(client.fileno()))
        os_socket.shutdown(stdlib_socket.SHUT_RDWR)
        os_socket.close()

    with (
        serving(talk, context=server_context(tmp_path)) as port,
        running("localhost", port, "--tls", "--ca", ca) as process,
    ):
        assert process.stdout.read() == b"half of"
        status, errors = rest_of(process)
    assert status == 1
    assert is_one_line(errors, "127.0.0.1")


def test_tls_on_a_unix_socket(tmp_path: Path, ca: str) -> None:
    path = str(tmp_path / "socket")
    with serving(echo, path, context=server_context(tmp_path)):
        asked = nc(f"unix:{path}", "--tls", "--ca", ca, "--servername", "localhost", data=b"hello\n")
    assert asked == (0, b"hello\n", "")


# ---------------------------------------------------------------------- datagrams


@contextmanager
def udp_peer() -> Iterator[Any]:
    with closing(gevent.socket.socket(type=stdlib_socket.SOCK_DGRAM)) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        yield peer


def test_each_line_is_a_datagram_and_so_is_each_answer() -> None:
    with udp_peer() as peer, running("127.0.0.1", port_of(peer), "--udp") as process:
        process.stdin.write(b"one\ntwo\r\n\nthree")
        process.stdin.close()
        received = []
        for _ in range(4):
            data, sender = peer.recvfrom(65536)
            received.append(data)
        assert received == [b"one\n", b"two\r\n", b"\n", b"three"]
        for answer in (b"1", b"", b"2\n"):
            peer.sendto(answer, sender)
        assert process.stdout.read() == b"12\n"
        assert rest_of(process) == (0, "")


def test_the_longest_datagram() -> None:
    with udp_peer() as peer, running("127.0.0.1", port_of(peer), "--udp") as process:
        process.stdin.write(b"x" * 65506 + b"\n")
        process.stdin.flush()
        data, sender = peer.recvfrom(65536)
        assert data == b"x" * 65506 + b"\n"
        peer.sendto(bytes(65507), sender)
        assert process.stdout.read(65507) == bytes(65507)
        process.stdin.close()
        assert rest_of(process) == (0, "")


@pytest.mark.parametrize("size", [65_507, 1_000_000])
def test_a_line_that_no_datagram_holds(size: int) -> None:
    with udp_peer() as peer:
        data = b"fine\n" + b"x" * size + b"\n"
        status, _, errors = nc("127.0.0.1", port_of(peer), "--udp", "--wait", 0, data=data)
        assert peer.recv(100) == b"fine\n"
    assert status == 1
    assert is_one_line(errors, "Message too long" if size < 65536 else "a line of more than 65536 bytes")


def test_a_datagram_that_nobody_receives() -> None:
    with udp_peer() as peer:
        port = port_of(peer)
    status, output, errors = nc("127.0.0.1", port, "--udp", data=b"hello\n")
    assert (status, output) == (1, b"")
    assert is_one_line(errors, f"127.0.0.1:{port}", "Connection refused")


def test_ctrl_c_ends_it_over_udp() -> None:
    with udp_peer() as peer, running("127.0.0.1", port_of(peer), "--udp") as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert peer.recv(100) == b"hello\n"
        interrupt(process)


# ---------------------------------------------------------------------- complaints


def test_nobody_listens() -> None:
    with raw_listener() as listener:
        port = port_of(listener)
    status, output, errors = nc("127.0.0.1", port)
    assert (status, output) == (1, b"")
    assert is_one_line(errors, f"127.0.0.1:{port}: Connection refused")


def test_no_such_host() -> None:
    status, output, errors = nc("no-such-host.invalid", 7)
    assert (status, output) == (1, b"")
    assert is_one_line(errors, "no-such-host.invalid")


def test_no_such_path(tmp_path: Path) -> None:
    status, output, errors = nc(f"unix:{tmp_path / 'none'}")
    assert (status, output) == (1, b"")
    assert is_one_line(errors, "none", "No such file or directory")


def test_a_server_that_does_not_make_the_handshake() -> None:
    with raw_listener() as listener:
        port = port_of(listener)
        status, output, errors = nc("localhost", port, "--tls", "--timeout", 200)
    assert (status, output) == (1, b"")
    assert is_one_line(errors, f"localhost port {port}: not connected within 200 ms")


WRONG: Final = {
    "no host": ([], "required: HOST"),
    "no port": (["localhost"], "expected HOST PORT"),
    "a port of letters": (["localhost", "http"], "expected 0 to 65535, got 'http'"),
    "a large port": (["localhost", "65536"], "expected 0 to 65535, got '65536'"),
    "an empty host": (["", "80"], "the host name is empty"),
    "too many": (["localhost", "80", "81"], "unrecognized arguments: 81"),
    "no such option": (["localhost", "80", "--ssl"], "unrecognized arguments: --ssl"),
    "no time": (["localhost", "80", "--timeout", "soon"], "expected milliseconds"),
    "a wrong time": (["localhost", "80", "--wait=-5"], "expected milliseconds"),
    "UDP over TLS": (["localhost", "80", "--udp", "--tls"], "--udp and --tls"),
    "a CA without TLS": (["localhost", "80", "--ca", "ca.pem"], "--ca needs --tls"),
    "a name without TLS": (["localhost", "80", "--servername", "a"], "--servername needs --tls"),
    "no such CA": (["localhost", "80", "--tls", "--ca", "/nowhere/ca.pem"], "No such file"),
    "a path and a port": (["unix:/nowhere/socket", "80"], "has no port"),
    "a path over UDP": (["unix:/nowhere/socket", "--udp"], "--udp"),
    "a path over TLS": (["unix:/nowhere/socket", "--tls"], "--servername"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_status_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, complaint = WRONG[case]
    try:
        status: object = main(["nc", *arguments])
    except SystemExit as ended:
        status = ended.code
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert is_one_line(output.err, complaint)


def test_the_help_shows_examples_and_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nc", "--help"])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    for part in ("python -m gnet nc localhost 7000", "--udp", "--tls", "--servername", "Exit status"):
        assert part in shown.out
