"""The programs in examples/ that speak TLS, each as its own process against real peers of other makes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import gevent
import gevent.socket
import gevent.ssl
import gevent.subprocess as subprocess
import pytest
import trustme

from tests.example_programs import PATIENCE, Server, is_one_line, run

pytestmark = pytest.mark.plain_only


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:
        yield lambda *arguments, **more: stack.enter_context(closing(Server(*arguments, **more)))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of an authority (`ca`) and of a certificate of localhost, in one (`both`) and in two."""
    folder = tmp_path_factory.mktemp("certificates")
    files = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "both")}
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    for file in files.values():
        file.touch(mode=0o600)
    authority.cert_pem.write_to_path(files["ca"])
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    issued.private_key_and_cert_chain_pem.write_to_path(files["both"])
    return files


def connect_tls(server: Server, ca: Path | str) -> gevent.ssl.SSLSocket:
    """Connect as the standard library does: it verifies, and an end without a close_notify is an error."""
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    client = server.connect()
    try:
        return context.wrap_socket(client, server_hostname="localhost", suppress_ragged_eofs=False)
    except BaseException:
        client.close()
        raise


# ping_server.py over TLS


@pytest.fixture
def tls_server(serve: Callable[..., Server], certificates: dict[str, Path]) -> Server:
    return serve("ping_server.py", "--tls-cert", certificates["cert"], "--tls-key", certificates["key"])


def test_ping_server_answers_each_line_over_tls(tls_server: Server, certificates: dict[str, Path]) -> None:
    with connect_tls(tls_server, certificates["ca"]) as client:
        for part in (b"PI", b"NG\r", b"\nanother\n\r\n"):
            client.sendall(part)
        with client.makefile("rb") as answers:
            assert [answers.readline() for _ in range(3)] == [b"+PONG\r\n"] * 3
    tls_server.signal_and_wait()


def test_ping_server_takes_its_key_from_the_file_of_the_certificate(
    serve: Callable[..., Server], certificates: dict[str, Path]
) -> None:
    server = serve("ping_server.py", "--tls-cert", certificates["both"])
    with connect_tls(server, certificates["ca"]) as client:
        client.sendall(b"PING\n")
        assert client.recv(100) == b"+PONG\r\n"
    server.signal_and_wait()


def test_redis_benchmark_drives_ping_server_over_tls(
    tls_server: Server, certificates: dict[str, Path], needs_program: Callable[[str], str]
) -> None:
    program = needs_program("redis-benchmark")
    assert tls_server.hint.startswith("try: redis-benchmark --tls --cacert CA_FILE ")
    hint = tls_server.hint.replace("CA_FILE", str(certificates["ca"])).split()[2:]
    for pipeline in ("1", "16"):
        command = [program, *hint, "-n", "2000", "-P", pipeline, "--csv"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert "PING_INLINE" in done.stdout
    tls_server.signal_and_wait()


def test_idle_clients_over_tls_get_a_close_notify_on_sigterm(
    serve: Callable[..., Server], certificates: dict[str, Path]
) -> None:
    # Without its own limit on a drain: they must not have to wait for that.
    server = serve(
        "ping_server.py", "--tls-cert", certificates["both"], change="program.DRAIN_TIMEOUT = 1_000_000"
    )
    with (
        server.connect() as silent,
        connect_tls(server, certificates["ca"]) as first,
        connect_tls(server, certificates["ca"]) as second,
    ):
        for client in (first, second):
            client.sendall(b"PING\n")
            assert client.recv(100) == b"+PONG\r\n"
        server.signal_and_wait()
        for client in (first, second):
            assert client.recv(1) == b""
        with suppress(ConnectionResetError):  # nothing was begun with it that could end well
            assert silent.recv(1) == b""


def test_ping_server_over_tls_outlives_those_who_do_not_speak_it(
    tls_server: Server, certificates: dict[str, Path]
) -> None:
    with tls_server.connect() as silent, tls_server.connect() as plain, tls_server.connect() as garbage:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        garbage.sendall(bytes(range(256)))
        for client in (plain, garbage):
            with suppress(ConnectionResetError):
                while client.recv(100):
                    pass
        with connect_tls(tls_server, certificates["ca"]) as good:
            good.sendall(b"PING\n")
            assert good.recv(100) == b"+PONG\r\n"
        tls_server.signal_and_wait()  # and it has nothing to complain of
        with suppress(ConnectionResetError):
            assert silent.recv(1) == b""


UNUSABLE_TLS = {
    "no such file": (("--tls-cert", "/nowhere/cert.pem"), "cert_file '/nowhere/cert.pem'"),
    "no key": (("--tls-cert", "{cert}"), "no private key"),
    "no certificate": (("--tls-key", "{key}"), "without a cert_file"),
    "a key for a certificate": (("--tls-cert", "{key}", "--tls-key", "{key}"), "no certificate in PEM"),
}


@pytest.mark.parametrize("case", UNUSABLE_TLS)
def test_a_certificate_that_is_none_is_one_line_and_status_1(
    certificates: dict[str, Path], case: str
) -> None:
    arguments, complaint = UNUSABLE_TLS[case]
    status, output, errors = run("ping_server.py", *(text.format(**certificates) for text in arguments))
    assert (status, output) == (1, "")
    assert is_one_line(errors, complaint)


# tls_echo.py


def test_tls_echo_makes_itself_a_certificate_that_its_client_trusts(serve: Callable[..., Server]) -> None:
    server = serve("tls_echo.py", "serve")
    assert server.hint.startswith("try: python examples/tls_echo.py ask localhost:")
    *command, option, ca = server.hint.split()[3:]
    assert run("tls_echo.py", *command, option, ca) == (0, "hello\n", "")
    assert run("tls_echo.py", "ask", f"127.0.0.1:{server.port}", "grüße", "--ca", ca) == (0, "grüße\n", "")
    status, output, errors = run("tls_echo.py", *command)
    assert (status, output) == (1, "")
    assert is_one_line(errors, "certificate verify failed: self-signed certificate (code 18)")
    server.signal_and_wait()
    assert not Path(ca).exists()


def test_tls_echo_sends_back_every_byte(serve: Callable[..., Server], certificates: dict[str, Path]) -> None:
    server = serve("tls_echo.py", "serve", "--cert", certificates["cert"], "--key", certificates["key"])
    data = os.urandom(3_000_000)
    with connect_tls(server, certificates["ca"]) as client:
        sender = gevent.spawn(client.sendall, data)
        received = bytearray()
        while len(received) < len(data):
            received += client.recv(65536)
        assert received == data
        sender.get()
        server.signal_and_wait()
        assert client.recv(1) == b""


def test_tls_echo_asks_nobody_whose_certificate_is_for_another(
    serve: Callable[..., Server], certificates: dict[str, Path]
) -> None:
    server = serve("tls_echo.py", "serve", "--cert", certificates["both"], "--address", "127.0.0.2")
    status, output, errors = run(
        *("tls_echo.py", "ask", f"127.0.0.2:{server.port}", "hello", "--ca", certificates["ca"])
    )
    assert (status, output) == (1, "")
    assert is_one_line(errors, "certificate verify failed: IP address mismatch (code 64)")
    server.signal_and_wait()


# https_get.py


@pytest.fixture
def scripted_tls_peer(certificates: dict[str, Path]) -> Iterator[Callable[..., int]]:
    """As `scripted_peer`, over TLS; with `notify=False` it ends the stream without a close_notify."""
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["cert"], certificates["key"])
    context.set_alpn_protocols(["http/1.1"])
    with ExitStack() as stack:

        def listen(answer: bytes, *, notify: bool = True) -> int:
            listener = stack.enter_context(closing(gevent.socket.create_server(("127.0.0.1", 0))))

            def answer_one() -> None:
                plain, _ = listener.accept()
                with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as client:
                    assert client.selected_alpn_protocol() == "http/1.1"
                    with client.makefile("rb") as file:
                        while file.readline() not in (b"\r\n", b""):
                            pass
                    client.sendall(answer)
                    if notify:
                        client.unwrap()

            greenlet = gevent.spawn(answer_one)
            stack.callback(greenlet.kill)
            return int(listener.getsockname()[1])

        yield listen


HTTPS_SERVER = """
import functools, http.server, ssl, sys
folder, cert = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
server = http.server.HTTPServer(("127.0.0.1", 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_https_get_fetches_a_page_from_pythons_server(tmp_path: Path, certificates: dict[str, Path]) -> None:
    page = "grüße\n" * 50_000
    (tmp_path / "a page.txt").write_text(page, encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, "-c", HTTPS_SERVER, str(tmp_path), str(certificates["both"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = f"https://localhost:{int(server.stdout.readline())}"
        trust = ("--ca", certificates["ca"])
        assert run("https_get.py", f"{url}/a page.txt", *trust) == (0, page, "200 OK\n")
        status, output, errors = run("https_get.py", f"{url}/none?a=b", *trust)
        assert (status, errors) == (1, "404 File not found\n")
        assert "404" in output
        status, output, errors = run("https_get.py", f"{url}/a page.txt")
        assert (status, output) == (1, "")
        assert is_one_line(errors, "certificate verify failed: unable to get local issuer certificate")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


HEAD = b"HTTP/1.0 200 OK\r\nServer: scripted\r\n"
HTTPS_ANSWERS = {
    "until close": (HEAD + b"\r\nall\nof it", "all\nof it"),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", ""),
    "bytes behind": (HEAD + b"content-length:4\r\n\r\npage and more", "page"),
}


@pytest.mark.parametrize("case", HTTPS_ANSWERS)
def test_https_get_knows_where_a_body_ends(
    scripted_tls_peer: Callable[..., int], certificates: dict[str, Path], case: str
) -> None:
    answer, body = HTTPS_ANSWERS[case]
    url = f"https://localhost:{scripted_tls_peer(answer)}"
    assert run("https_get.py", url, "--ca", certificates["ca"]) == (0, body, "200 OK\n")


def test_https_get_takes_no_page_that_somebody_may_have_cut_short(
    scripted_tls_peer: Callable[..., int], certificates: dict[str, Path]
) -> None:
    port = scripted_tls_peer(HEAD + b"\r\nall of it?", notify=False)
    url = f"https://localhost:{port}/"
    status, output, errors = run("https_get.py", url, "--ca", certificates["ca"])
    assert (status, output) == (1, "all of it?")
    assert is_one_line(errors, "without close_notify")


BROKEN_HTTPS_ANSWERS = {
    "nothing": b"",
    "no HTTP": b"+PONG\r\n",
    "headers cut": HEAD,
    "header line cut": HEAD + b"Content-Le",
    "body cut": HEAD + b"Content-Length: 10\r\n\r\nhello",
    "length is no number": HEAD + b"Content-Length: ten\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "too many headers": HEAD + b"X-%d: y\r\n" * 200 % tuple(range(200)) + b"\r\n",
}


@pytest.mark.parametrize("case", BROKEN_HTTPS_ANSWERS)
def test_https_get_fails_in_one_line(
    scripted_tls_peer: Callable[..., int], certificates: dict[str, Path], case: str
) -> None:
    url = f"https://localhost:{scripted_tls_peer(BROKEN_HTTPS_ANSWERS[case])}/"
    status, _output, errors = run("https_get.py", url, "--ca", certificates["ca"])
    assert status == 1
    assert is_one_line(errors, "https_get: ")


@pytest.fixture
def plain_peer() -> Iterator[int]:
    """The port of a peer that answers in clear whatever comes."""
    with gevent.socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_one() -> None:
            client, _ = listener.accept()
            with client, suppress(ConnectionError):
                client.recv(1)
                client.sendall(HEAD)

        greenlet = gevent.spawn(answer_one)
        yield listener.getsockname()[1]
        greenlet.kill()


def test_https_get_says_that_a_server_does_not_speak_tls(
    plain_peer: int, certificates: dict[str, Path]
) -> None:
    status, output, errors = run(
        "https_get.py", f"https://localhost:{plain_peer}/", "--ca", certificates["ca"]
    )
    assert (status, output) == (1, "")
    assert is_one_line(errors, "TLS handshake")


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "127.0.0.1", "https://", "https://127.0.0.1:99999/"])
def test_https_get_refuses_what_it_can_not_fetch(url: str) -> None:
    status, output, errors = run("https_get.py", url)
    assert (status, output) == (1, "")
    assert is_one_line(errors, "https_get: ")
