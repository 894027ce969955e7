"""`python -m gnet serve`: its options, what it says, and what it refuses."""

from __future__ import annotations

import inspect
import re
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import gevent.socket
import gevent.subprocess
import pytest

import gnet
from gnet.__main__ import main
from gnet.commands import OneLineParser, serve
from gnet.commands.serve import load_handler
from tests.loopback import needs_ipv6
from tests.serving_programs import (
    HANDLERS,
    PATIENCE,
    ROOT,
    Program,
    ask_over_tls,
    gnet_serve,
    notifications,
    read_to_end,
    serve_command,
)
from tests.test_signals import Certificate
from tests.tls.authorities import authority, top
from tests.tls.handshakes import client_context

pytestmark = pytest.mark.plain_only  # the servers are processes of their own, which patch themselves


def parsed(*options: str) -> dict[str, Any]:
    parser = OneLineParser(prog="python -m gnet")
    serve.add_parser(parser.add_subparsers())
    return vars(parser.parse_args(["serve", "app:echo", *options]))


def complaint(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Give the one line that a wrong option gets; the status must be 2."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "app:echo", *options])
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def failure(*options: object, handler: str = "echo", env: dict[str, str] | None = None) -> str:
    """Run the command to its end, which must be 2 with one line; give the line."""
    with Program(serve_command(handler, *options), env=env) as program:
        assert program.wait() == 2
        assert program.process.stdout.read() == ""
        assert len(program.errors) == 1, program.errors
        return program.errors[0]


# The options


def test_every_argument_of_the_server_is_an_option() -> None:
    names = set(inspect.signature(gnet.Server).parameters)
    # The handler has no dashes; the listener is systemd's; the context is made of the --tls options.
    names -= {"handler", "listener", "ssl_context"}
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert ended.value.code == 0
    options = {"unix_path": "--unix"}
    for name in names:
        option = options.get(name, f"--{name.replace('_', '-')}")
        takes_value = name not in ("reuse_port", "coalesce")
        value = {"overflow": "reset", "proxy_protocol": "v1", "address": "::1"}.get(name, "7")
        assert name in parsed(option, *([value] if takes_value else []))


def test_what_is_not_given_is_left_to_the_server() -> None:
    left = set(parsed()) - {"handler", "run", "address", "port", "unix_path", "proxy_trusted"}
    assert left == {"workers", "metrics_port", "patch", "tls_cert", "tls_key", "tls_client_ca"}


def test_durations_are_milliseconds() -> None:
    assert parsed("--idle-timeout", "1500")["idle_timeout"] == 1500
    assert parsed("--idle-timeout", "-1")["idle_timeout"] == -1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("backlog", "backlog"),
        ("reset", "reset"),
        (r"-ERR busy\r\n", b"-ERR busy\r\n"),
        (r"a\tb\\c\x00\xff", b"a\tb\\c\x00\xff"),
        ("é", "é".encode()),
    ],
)
def test_overflow_is_a_word_or_a_text_with_escapes(given: str, meant: str | bytes) -> None:
    assert parsed(f"--overflow={given}")["overflow"] == meant


@pytest.mark.parametrize("wrong", [r"busy\q", "busy\\", r"\x1", ""])
def test_overflow_refuses_other_escapes(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--overflow" in complaint(capsys, f"--overflow={wrong}")


@pytest.mark.parametrize(
    "options",
    [
        ("--idle-timeout", "soon"),
        ("--idle-timeout", "nan"),
        ("--drain-timeout", "-2"),
        ("--port", "x"),
        ("--port", "65536"),
        ("--metrics-port", "-1"),
        ("--proxy-protocol", "v3"),
        ("--no-such-option",),
        ("a",),
    ],
)
def test_a_wrong_option_gets_one_line(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *options).startswith("python -m gnet")


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_that_cannot_be_is_refused_by_name(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"argument {option}: expected 0 to 65535, got '65536'" in complaint(capsys, option, "65536")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("other", [("--port", 7), ("--address", "127.0.0.1")], ids=["port", "address"])
def test_a_unix_socket_excludes_an_address(other: tuple[object, ...], workers: int, tmp_path: Path) -> None:
    said = failure("--unix", tmp_path / "socket", *other, "--workers", workers)
    assert said == "python -m gnet: --unix excludes --address and --port\n"
    assert not (tmp_path / "socket").exists()


def test_the_help_has_an_example_that_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gnet", "serve", "--help"]
    shown = gevent.subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE).stdout
    code = re.search(r"  (def .*?\n)\npositional", shown, re.DOTALL)
    assert code
    (tmp_path / "app.py").write_text(code[1].replace("\n  ", "\n"))
    with gnet_serve(f"{tmp_path / 'app.py'}:echo") as server, server.connect() as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\r\n"


# Serving


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "localhost", pytest.param("::1", marks=needs_ipv6)], ids=["IPv4", "name", "IPv6"]
)
def test_it_says_where_it_listens(address: str, workers: int) -> None:
    with gnet_serve("who", "--address", address, "--workers", workers) as server:
        assert server.host in ("127.0.0.1", "::1")
        assert server.host == address or address == "localhost"
        assert server.ask()
        server.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_is_private_and_its_path_is_removed_in_the_end(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "socket"
    with Program(serve_command("echo", "--unix", path, "--workers", workers)) as server:
        assert server.read_line() == f"listening on unix:{path}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with gevent.socket.socket(gnet.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\r\n"
        server.end()
        assert not path.exists()


@pytest.mark.parametrize(("options", "patched"), [((), b"True"), (("--no-patch",), b"False")])
def test_the_process_is_patched_unless_told_otherwise(options: tuple[str, ...], patched: bytes) -> None:
    with gnet_serve("kind", *options) as server:
        assert server.ask().split()[0] == patched


@pytest.mark.parametrize("handler", ["tests.programs.handlers:echo", f"{HANDLERS}:Namespace.echo"])
def test_a_handler_may_be_in_a_module_or_an_attribute_of_an_attribute(handler: str) -> None:
    with gnet_serve(handler) as server, server.connect() as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\r\n"


def test_a_file_finds_modules_beside_it_and_takes_no_modules_place(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("TEXT = b'beside\\r\\n'\n")
    app = tmp_path / "json.py"
    app.write_text(
        "import sys, beside\ndef handler(client, address):\n"
        "    client.send(beside.TEXT if hasattr(sys.modules['json'], 'loads') else b'mine')\n"
    )
    with gnet_serve(f"{app}:handler") as server:
        assert server.ask() == b"beside\r\n"


def test_options_reach_the_server(tmp_path: Path) -> None:
    options = ("--max-connections", 1, "--overflow", r"-ERR busy\r\n")
    with gnet_serve("echo", *options) as server, server.connect() as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\r\n"
        assert server.ask() == b"-ERR busy\r\n"


def test_proxy_headers_are_taken_from_the_networks_that_are_trusted() -> None:
    trusted = ("--proxy-trusted", "10.0.0.0/8,127.0.0.0/8", "--proxy-trusted", "::1")
    with gnet_serve("who", "--proxy-protocol", "v1", *trusted) as server:
        answer = server.ask(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\nhello\n")
        assert answer.split()[1] == b"192.0.2.7"


# TLS


def test_tls_asks_for_no_client_certificate(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    with client_context(tmp_path) as context, gnet_serve("who", *certificate.options) as server:
        assert b"127.0.0.1" in ask_over_tls(server.port, context)
        server.end()


def test_a_client_ca_demands_a_certificate(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    ca_file = top().write_ca(tmp_path)["ca_file"]
    mine = authority().issue("client").write(tmp_path)
    options = (*certificate.options, "--tls-client-ca", ca_file)
    with gnet_serve("who", *options) as server:
        with client_context(tmp_path, **mine) as context:
            assert b"127.0.0.1" in ask_over_tls(server.port, context)
        with client_context(tmp_path) as context, pytest.raises(gnet.SslError):
            ask_over_tls(server.port, context)


# Metrics


def metrics_of(port: int) -> str:
    with gevent.socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return read_to_end(client).decode()


def metrics_port(server: Program) -> int:
    found = re.fullmatch(r"metrics on http://127\.0\.0\.1:(\d+)/metrics\n", server.read_line())
    assert found
    return int(found[1])


@pytest.mark.parametrize("workers", [1, 3])
def test_metrics_are_the_sum_of_all_workers_and_stay_when_workers_leave(tmp_path: Path, workers: int) -> None:
    with (
        notifications(tmp_path) as notified,
        gnet_serve("who", "--workers", workers, "--metrics-port", 0, env=notified.env) as server,
    ):
        port = metrics_port(server)
        for _ in range(20):
            server.ask()
        assert "gnet_accepted_total 20.0\n" in metrics_of(port)
        if workers > 1:
            server.send(signal.SIGHUP)
            notified.wait_for_reload()
            server.ask()
            assert "gnet_accepted_total 21.0\n" in metrics_of(port)
        server.end()


# What it refuses


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_in_use_is_named(workers: int) -> None:
    with gevent.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert failure("--port", port, "--workers", workers) == (
            f"python -m gnet: listen on 127.0.0.1:{port}: Address already in use\n"
        )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--max-connections", 0), "max_connections: expected at least 1, got 0"),
        (("--proxy-protocol", "v1"), "proxy_trusted"),
        (("--proxy-trusted", "nonsense"), "nonsense"),
        (("--idle-timeout", "0"), "idle_timeout: with 0 ms no client could be served"),
        (("--tls-cert", "/nowhere.pem"), "/nowhere.pem"),
        (("--tls-key", "/nowhere.pem"), "need --tls-cert"),
        (("--unix", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--port", 65536), "65536"),
    ],
)
def test_what_can_not_be_served_gets_one_line(options: tuple[object, ...], part: str, workers: int) -> None:
    assert part in failure(*options, "--workers", workers)


def test_no_workers_at_all_are_refused() -> None:
    assert failure("--workers", 0) == "python -m gnet: --workers: expected at least 1, got 0\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("app", "expected MODULE:HANDLER"),
        (":echo", "expected MODULE:HANDLER"),
        ("app:", "expected MODULE:HANDLER"),
        ("there_is_no_such_module:echo", "ModuleNotFoundError"),
        ("nowhere/app.py:echo", "no such file"),
        (f"{ROOT / HANDLERS}:nothing", "has no 'nothing'"),
        (f"{ROOT / HANDLERS}:NUMBER", "is no callable, but int"),
    ],
)
def test_a_handler_that_is_none_is_refused(text: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError, match=re.escape(part)):
        load_handler(text)


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("\n1/0", "ZeroDivisionError: division by zero ({file}, line 2)"),
        ("raise SystemExit('no\\nmore')", "SystemExit: no more ({file}, line 1)"),
        ("def f(:", "SyntaxError: invalid syntax (app.py, line 1)"),
    ],
)
def test_a_file_that_can_not_be_loaded_says_where(
    code: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "app.py"
    file.write_text(code)
    with pytest.raises(ValueError, match=re.escape(part.format(file=file))) as caught:
        load_handler(f"{file}:handler")
    assert "\n" not in str(caught.value)
