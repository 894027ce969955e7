"""`python -m gnet`, and its `tls-info`: what that shows of servers of another make, status, complaints."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
import pytest
from gevent import subprocess

import gnet
from gnet.__main__ import main
from gnet.compiling import is_compiled
from tests.tls.authorities import Issued, authority, root, top

ROOT = Path(gnet.__file__).resolve().parent.parent
PATIENCE = 30.0  # seconds for what takes a fraction of one

COMMANDS = ["serve", "nc", "tls-info", "bench"]

Listen = Callable[[Callable[[Any], None]], int]
Serve = Callable[..., int]


def new_listener() -> Any:
    listener = gevent.socket.socket()  # create_server makes one of the standard library's
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.fixture
def listen() -> Iterator[Listen]:
    """`listen(talk)` gives the port of a server that does `talk(connection)` with each connection."""
    with ExitStack() as stack:

        def start(talk: Callable[[Any], None]) -> int:
            listener = stack.enter_context(closing(new_listener()))

            def talk_to(client: Any) -> None:
                with client, suppress(OSError):
                    talk(client)

            def accept_all() -> None:
                while True:
                    greenlets.append(gevent.spawn(talk_to, listener.accept()[0]))

            greenlets = [gevent.spawn(accept_all)]
            stack.callback(gevent.killall, greenlets)
            return int(listener.getsockname()[1])

        yield start


@pytest.fixture
def serve(listen: Listen, tmp_path: Path) -> Serve:
    """`serve(certificate)` gives the port of a TLS server of the standard library."""

    def start(shown: Issued | None = None, **settings: Any) -> int:
        files = (shown or authority().issue("localhost", "127.0.0.1")).write(tmp_path)
        context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # for weak keys, which it is up to clients to refuse
        context.load_cert_chain(files["cert_file"], files["key_file"])
        for name, value in settings.items():
            method = getattr(context, name)
            if callable(method):
                method(value)
            else:
                setattr(context, name, value)

        def talk(plain: Any) -> None:
            # The handshake apart from the making, which would leak the socket if it were killed in there.
            with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as client:
                client.do_handshake()
                while client.recv(1000):
                    pass

        return listen(talk)

    return start


@pytest.fixture
def ca(tmp_path: Path) -> str:
    """The file of the root that the tests' certificates come from."""
    return str(top().write_ca(tmp_path)["ca_file"])


@pytest.fixture
def tls_info(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; gives its status, what it printed and what it complained of."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            status = main(["tls-info", *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


TlsInfo = Callable[..., tuple[int, str, str]]


def rows(output: str) -> dict[str, str]:
    """The rows by their names, of several with the same name the first."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        found.setdefault(line[:14].rstrip(), line[15:])
    return found


# What it shows


def test_a_server_that_is_in_order(serve: Serve, tls_info: TlsInfo, ca: str) -> None:
    port = serve(set_alpn_protocols=["h2", "http/1.1"])
    status, output, errors = tls_info(f"localhost:{port}", "--ca", ca, "--alpn", "spdy/3,http/1.1")
    assert (status, errors) == (0, "")
    shown = rows(output)
    assert shown["server"] == f"localhost:{port}, asked for localhost"
    assert shown["verifies"] == "yes"
    assert shown["version"] == "TLSv1.3"
    assert shown["cipher"].startswith("TLS_AES_")
    assert shown["alpn"] == "http/1.1"
    assert shown["resumption"] == "yes"
    leaf, middle = authority().issue("localhost"), authority()
    assert shown["certificate 0"].startswith("CN=")
    assert shown["  names"] == "localhost, 127.0.0.1"
    assert shown["  issuer"] == shown["certificate 1"] == middle.certificate.subject.rfc4514_string()
    assert shown["  key"] == "ECDSA secp256r1, signed with sha256"
    begin, _, end = shown["  valid"].partition(" to ")
    day = leaf.certificate.not_valid_before_utc.isoformat()[:10]
    assert begin.startswith(day)
    assert begin < end
    assert "certificate 2" not in shown  # the root is not the server's to send


def test_the_same_as_json(serve: Serve, tls_info: TlsInfo, ca: str) -> None:
    port = serve(maximum_version=gevent.ssl.TLSVersion.TLSv1_2)
    status, output, errors = tls_info(f"127.0.0.1:{port}", "--ca", ca, "--json")
    assert (status, errors) == (0, "")
    report = json.loads(output)
    assert {name: report[name] for name in ("host", "port", "servername")} == {
        "host": "127.0.0.1",
        "port": port,
        "servername": "127.0.0.1",
    }
    assert (report["version"], report["alpn"]) == ("TLSv1.2", None)
    assert (report["verified"], report["verify_code"], report["problem"]) == (True, 0, "")
    assert report["resumption"] is True
    assert [certificate["names"] for certificate in report["chain"]] == [["localhost", "127.0.0.1"], []]
    assert report["chain"][0]["issuer"] == report["chain"][1]["subject"]


def test_the_name_to_ask_for_is_sent_and_verified(serve: Serve, tls_info: TlsInfo, ca: str) -> None:
    asked: list[object] = []

    def note(_connection: object, name: object, _context: object) -> None:
        asked.append(name)

    port = serve(authority().issue("other.test"), sni_callback=note)
    status, output, _ = tls_info(f"127.0.0.1:{port}", "--ca", ca, "--servername", "other.test")
    assert (status, rows(output)["server"]) == (0, f"127.0.0.1:{port}, asked for other.test")
    assert set(asked) == {"other.test"}


def test_a_server_that_resumes_nothing(serve: Serve, tls_info: TlsInfo, ca: str) -> None:
    port = serve(num_tickets=0)
    status, output, _ = tls_info(f"localhost:{port}", "--ca", ca)
    assert (status, rows(output)["resumption"]) == (0, "no")


def test_a_server_that_demands_a_certificate_says_so_after_the_handshake(
    serve: Serve, tls_info: TlsInfo, ca: str
) -> None:
    port = serve(load_verify_locations=ca, verify_mode=gevent.ssl.CERT_REQUIRED)
    status, output, _ = tls_info(f"localhost:{port}", "--ca", ca)
    assert (status, rows(output)["verifies"]) == (0, "yes")
    assert "certificate required" in rows(output)["then refused"]


def test_names_can_do_nothing_to_the_terminal(serve: Serve, tls_info: TlsInfo) -> None:
    port = serve(root(common_name="a\x1b[2Jb\ncertificate 7"))
    for options in ((), ("--json",)):
        status, output, _ = tls_info(f"localhost:{port}", *options)
        assert status == 1
        assert "\x1b" not in output
        assert "\ncertificate 7" not in output
        assert r"[2Jb" in output


@pytest.mark.parametrize(
    ("key", "shown"),
    [("P-384", "ECDSA secp384r1, signed with sha256"), ("RSA-2048", "RSA 2048, signed with sha256")],
)
def test_the_kinds_of_keys(serve: Serve, tls_info: TlsInfo, ca: str, key: str, shown: str) -> None:
    port = serve(authority().issue("localhost", key=key))
    status, output, _ = tls_info(f"localhost:{port}", "--ca", ca)
    assert (status, rows(output)["  key"]) == (0, shown)


# Why it does not verify


UNVERIFIED: dict[str, tuple[Callable[[], Issued], int, str]] = {
    "unknown authority": (lambda: root().issue("localhost"), 20, "unable to get local issuer certificate"),
    "self-signed": (lambda: root(names=["localhost"]), 18, "self-signed certificate"),
    "expired": (lambda: authority().issue("localhost", not_before=-9, not_after=-2), 10, "has expired"),
    "not yet valid": (lambda: authority().issue("localhost", not_before=2), 9, "is not yet valid"),
    "another name": (lambda: authority().issue("other.test"), 62, "hostname mismatch"),
    "a weak key": (lambda: authority().issue("localhost", key="RSA-1024"), 66, "key too weak"),
}


@pytest.mark.parametrize("case", UNVERIFIED)
def test_a_server_that_does_not_verify_is_shown_with_the_reason(
    serve: Serve, tls_info: TlsInfo, ca: str, case: str
) -> None:
    make, code, message = UNVERIFIED[case]
    port = serve(make())
    status, output, errors = tls_info(f"localhost:{port}", "--ca", ca)
    assert (status, errors) == (1, "")
    verdict = rows(output)["verifies"]
    assert verdict.startswith("NO: ")
    assert message in verdict
    assert verdict.endswith(f" (code {code})")
    assert rows(output)["version"] == "TLSv1.3"
    assert rows(output)["resumption"] == "not tried"
    assert "certificate 0" in rows(output)


def test_an_address_that_the_certificate_is_not_for(serve: Serve, tls_info: TlsInfo, ca: str) -> None:
    port = serve(authority().issue("localhost", "127.0.0.9"))
    status, output, _ = tls_info(f"127.0.0.1:{port}", "--ca", ca)
    assert (status, rows(output)["verifies"]) == (1, "NO: IP address mismatch (code 64)")


def test_without_a_ca_certifis_count(serve: Serve, tls_info: TlsInfo) -> None:
    status, output, _ = tls_info(f"localhost:{serve()}")
    assert (status, rows(output)["verifies"][:3]) == (1, "NO:")


# Complaints


def is_one_line(errors: str, part: str) -> bool:
    return errors.startswith("python -m gnet: ") and part in errors and errors.count("\n") == 1


@pytest.mark.parametrize("answer", [b"220 ready\r\n" * 10, b"", b"\x15\x03\x01\x00\x02\x02\x28"])
def test_a_server_that_does_not_speak_tls_is_one_line_and_status_2(
    listen: Listen, tls_info: TlsInfo, answer: bytes
) -> None:
    def talk(client: Any) -> None:
        client.recv(1)
        client.sendall(answer)

    port = listen(talk)
    status, output, errors = tls_info(f"localhost:{port}", "--json")
    assert (status, output) == (2, "")
    assert is_one_line(errors, f"127.0.0.1:{port}: TLS")


def test_a_server_that_says_nothing_is_named_when_the_time_is_over(listen: Listen, tls_info: TlsInfo) -> None:
    port = listen(lambda client: client.recv(10_000) and gevent.sleep(PATIENCE))
    status, output, errors = tls_info(f"localhost:{port}", "--timeout", 100)
    assert (status, output) == (2, "")
    assert is_one_line(errors, f"localhost:{port}: no TLS connection within 100 ms")


def test_a_port_that_nobody_listens_on_is_named(tls_info: TlsInfo) -> None:
    with new_listener() as unused:
        port = unused.getsockname()[1]
    status, output, errors = tls_info(f"127.0.0.1:{port}")
    assert (status, output) == (2, "")
    assert is_one_line(errors, f"dial 127.0.0.1:{port}: Connection refused")


WRONG = {
    "no port": (["localhost"], "expected HOST:PORT, got 'localhost'"),
    "a port of letters": (["localhost:https"], "expected HOST:PORT"),
    "a large port": (["localhost:99999"], "expected 0 to 65535, got 99999"),
    "no host": ([":443"], "the host name is empty"),
    "no such file": (["localhost:443", "--ca", "/nowhere/ca.pem"], "ca_file '/nowhere/ca.pem': No such file"),
    "no certificates": (["localhost:443", "--ca", os.devnull], "has no certificate in PEM"),
    "no time": (["localhost:443", "--timeout", "-5"], "timeout: expected milliseconds"),
    "no number of milliseconds": (["localhost:443", "--timeout", "nan"], "timeout"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_status_2(tls_info: TlsInfo, case: str) -> None:
    arguments, complaint = WRONG[case]
    status, output, errors = tls_info(*arguments)
    assert (status, output) == (2, "")
    assert is_one_line(errors, complaint)


# As a program


def run_program(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gnet", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def test_the_program_ends_with_the_status_of_the_command(serve: Serve, ca: str) -> None:
    port = serve()
    status, output, errors = run_program("tls-info", f"localhost:{port}", "--ca", ca)
    assert (status, rows(output)["verifies"], errors) == (0, "yes", "")
    status, output, errors = run_program("tls-info", f"localhost:{port}")
    assert (status, rows(output)["verifies"][:2], errors) == (1, "NO", "")
    status, output, errors = run_program("tls-info", f"localhost:{port}", "--ca", "/nowhere/ca.pem")
    assert (status, output) == (2, "")
    assert is_one_line(errors, "/nowhere/ca.pem")


def test_ctrl_c_ends_it_without_a_word(listen: Listen) -> None:
    asked = gevent.event.Event()

    def talk(client: Any) -> None:
        client.recv(1)
        asked.set()
        client.recv(10_000)
        gevent.sleep(PATIENCE)

    command = [sys.executable, "-W", "error", "-m", "gnet", "tls-info", f"localhost:{listen(talk)}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert asked.wait(PATIENCE)
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=PATIENCE) == (b"", b"")
        assert program.returncode == 130


def test_the_program_tells_its_version_and_its_commands() -> None:
    kind = " (compiled)" if is_compiled() else ""
    assert run_program("--version") == (0, f"gnet {gnet.__version__}{kind}\n", "")
    status, output, errors = run_program("--help")
    assert (status, errors) == (0, "")
    for name in COMMANDS:
        assert f"python -m gnet {name} " in output  # an example


def test_without_a_command_it_shows_what_there_is() -> None:
    status, output, errors = run_program()
    assert (status, output) == (2, "")
    assert errors == run_program("--help")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help(name: str) -> None:
    status, output, errors = run_program(name, "--help")
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: python -m gnet {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_other_one(name: str) -> None:
    """`serve` patches the standard library, before a module that another command needs has copied from it."""
    program = """
import contextlib, sys
from gnet.__main__ import main
assert not {"gnet.commands.serve", "gnet.commands.nc", "gnet.commands.tls_info"} & set(sys.modules)
with contextlib.suppress(SystemExit):
    main([sys.argv[1], "--help"])
print("imported", *(name for name in sys.modules if name.startswith("gnet.commands.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, name],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    imported = set(done.stdout.splitlines()[-1].split()[1:]) - {"gnet.commands.terminal"}
    assert imported == {f"gnet.commands.{name.replace('-', '_')}"}, done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["fetch"], "invalid choice: 'fetch'"), (["--fast"], "--fast")],
)
def test_what_is_no_command_is_one_line_and_status_2(words: list[str], complaint: str) -> None:
    status, output, errors = run_program(*words)
    assert (status, output) == (2, "")
    assert errors.startswith("python -m gnet")
    assert complaint in errors
    assert errors.count("\n") == 1
