"""`python -m gnet bench` as a process, against servers that count, wait, stall, lie, hang up, say nothing."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.subprocess as subprocess
import pytest
from gevent.os import tp_read

from gnet.__main__ import main
from tests.line_server import LineServer
from tests.nc_processes import PATIENCE, ROOT, is_one_line, port_of, raw_listener
from tests.tls.authorities import top
from tests.tls.handshakes import server_context

pytestmark = pytest.mark.plain_only  # it runs in processes of its own


def start(*arguments: object, **how: Any) -> subprocess.Popen:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    command = [sys.executable, "-W", "error", "-m", "gnet", "bench", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"} | how.pop("variables", {})
    streams.pop("variables", None)
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


@contextmanager
def running(*arguments: object, **how: Any) -> Iterator[subprocess.Popen]:
    process = start(*arguments, **how)
    try:
        with gevent.Timeout(PATIENCE, AssertionError("bench does not end")):
            yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def bench(*arguments: object, **how: Any) -> tuple[int, str, str]:
    """Run it to its end; give its status, its output and its complaints."""
    with running(*arguments, **how) as process:
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output.decode(), (errors or b"").decode()


def figures(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Run it with `--json`, and give the last line of its output; it must be silent besides."""
    found, output, errors = bench(*arguments, "--json")
    assert (found, errors) == (status, ""), output
    parsed: dict[str, Any] = json.loads(output.splitlines()[-1])
    return parsed


# ---------------------------------------------------------------------- counts


def test_its_counts_are_those_of_the_server_to_the_request() -> None:
    server = LineServer()
    with server.serving() as where:
        found = figures(where, "-n", 3001, "-c", 7, "-P", 5, "--processes", 2, "--expect", "+PONG")
    assert found["requests"] == found["answered"] == server.lines == 3001
    assert server.connections == found["connect"]["count"] == 7
    assert (found["errors"], found["unanswered"], found["processes"]) == (0, 0, 2)


def test_tls_is_spoken_and_its_handshakes_have_figures_of_their_own(tmp_path: Path) -> None:
    server = LineServer()
    with server.serving(ssl_context=server_context(tmp_path)) as where:
        ca = top().write_ca(tmp_path)["ca_file"]
        found = figures(where, "-n", 500, "-c", 5, "-P", 2, "--tls", "--ca", ca, "--expect", "+PONG")
    assert found["answered"] == server.lines == 500
    assert found["errors"] == 0
    assert found["connect"]["count"] == found["tls_handshake"]["count"] == 5
    assert 0 < found["tls_handshake"]["min_ms"] <= found["tls_handshake"]["p50_ms"]


# ---------------------------------------------------------------------- at a rate


def test_a_rate_is_kept() -> None:
    server = LineServer()
    with server.serving() as where:
        found = figures(where, "-d", 1, "--rate", 300, "-c", 20, "--processes", 2)
    assert found["requests"] == found["answered"] == server.lines == 300
    assert 1 <= found["seconds"] < 5
    assert found["unsent"] == 0


def test_a_rate_that_the_server_does_not_keep_up_with_is_told() -> None:
    def answer(_number: int, _line: bytes) -> bytes:
        gevent.sleep(0.1)
        return b"ok\n"

    server = LineServer(answer)
    with server.serving() as where:
        status, output, _ = bench(where, "-d", 0.5, "--rate", 100, "-c", 1)
    assert status == 0
    due = server.lines + int(output.split(" requests were due")[0].split()[-1])
    assert due == 50


# ---------------------------------------------------------------------- what goes wrong


def test_a_silent_server_is_status_1() -> None:
    with raw_listener() as listener:
        found = figures(f"127.0.0.1:{port_of(listener)}", "-n", 4, "-c", 2, "--timeout", 100, status=1)
    assert (found["answered"], found["errors_by_kind"]) == (0, {"timeout": 4})


def test_a_server_that_is_not_there_is_one_line() -> None:
    with raw_listener() as listener:
        port = port_of(listener)
    status, output, errors = bench(f"127.0.0.1:{port}", "--json")
    assert (status, output) == (1, "")
    assert is_one_line(errors, f"127.0.0.1:{port}", "refused")


def test_a_certificate_that_does_not_verify_is_one_line(tmp_path: Path) -> None:
    with LineServer().serving(ssl_context=server_context(tmp_path)) as where:
        status, output, errors = bench(where, "--tls")
    assert (status, output) == (1, "")
    assert is_one_line(errors, where, "certificate")


def test_a_certificate_need_not_verify_if_that_is_said(tmp_path: Path) -> None:
    with LineServer().serving(ssl_context=server_context(tmp_path)) as where:
        assert figures(where, "--tls", "--no-verify", "-n", 10, "-c", 2)["answered"] == 10


def test_a_server_that_speaks_no_tls_is_one_line() -> None:
    with LineServer(lambda _number, _line: b"what?\n").serving() as where:
        status, output, errors = bench(where, "--tls", "--timeout", 2000)
    assert (status, output) == (1, "")
    assert is_one_line(errors, where)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["localhost"], "HOST:PORT"),
        (["localhost:0"], "port"),
        (["localhost:1", "-d", "0"], "argument -d: expected a number above 0"),
        (["localhost:1", "-d", "nan"], "argument -d"),
        (["localhost:1", "-c", "0"], "argument -c: expected a number of at least 1"),
        (["localhost:1", "-P", "x"], "argument -P"),
        (["localhost:1", "-n", "-3"], "argument -n"),
        (["localhost:1", "--rate", "-1"], "argument --rate"),
        (["localhost:1", "--timeout", "soon"], "argument --timeout"),
        (["localhost:1", "--timeout", "0"], "argument --timeout"),
        (["localhost:1", "--tls", "--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        (["localhost:1", "--tls", "--ca", __file__], "no certificate"),
        (["localhost:1", "-n", "1", "-d", "1"], "-n and -d exclude each other"),
        (["localhost:1", "--processes", "3", "-c", "2"], "-c 2"),
        (["localhost:1", "--processes", "3", "-n", "2"], "-n 2"),
        (["localhost:1", "--line", "a\nb"], "--line: expected one line"),
        (["localhost:1", "--expect", "a\r"], "--expect: expected one line"),
        (["localhost:1", "--ca", "x"], "--ca needs --tls"),
        (["localhost:1", "--no-verify"], "--no-verify needs --tls"),
        (["localhost:1", "--tls", "--ca", "x", "--no-verify"], "exclude each other"),
        (["unix:/x", "--tls"], "--servername"),
        (["localhost:1", "--fast"], "--fast"),
    ],
)
def test_options_that_make_no_sense_are_one_line_and_status_2(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["bench", *options])
    except SystemExit as end:
        status = int(str(end.code))
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert is_one_line(printed.err, complaint)


# ---------------------------------------------------------------------- what people see


def test_the_summary_has_percentiles_errors_and_a_histogram_in_80_columns() -> None:
    server = LineServer(lambda number, _line: b"no\n" if number == 7 else b"yes\n")
    with server.serving() as where:
        status, output, errors = bench(where, "-n", 2000, "-c", 4, "--expect", "yes")
    assert (status, errors) == (0, "")
    for part in ("1,999 answered", "p50 ", "p90 ", "p99 ", "p99.9 ", "max ", "1 × wrong answer", "█", " – "):
        assert part in output
    rows = [line for line in output.splitlines() if "%" in line and " – " in line]
    assert len(rows) >= 3
    assert max(map(len, rows)) <= 80


def test_a_terminal_without_unicode_gets_ascii() -> None:
    with LineServer().serving() as where:
        status, output, errors = bench(
            where, "-n", 100, "-c", 4, "--expect", "no", variables={"PYTHONIOENCODING": "ascii"}
        )
        assert (status, errors) == (1, "")
        assert "100 x wrong answer" in output
        status, output, errors = bench(where, "-n", 100, variables={"PYTHONIOENCODING": "ascii"})
    assert (status, errors) == (0, "")
    assert "##" in output
    assert output.isascii()


def test_on_a_terminal_a_line_shows_how_it_goes() -> None:
    with LineServer().serving() as where, ExitStack() as stack:
        master, slave = pty.openpty()
        stack.callback(os.close, master)
        try:
            process = stack.enter_context(running(where, "-d", 1.6, "-c", 2, stderr=slave))
        finally:
            os.close(slave)
        output, _ = process.communicate(timeout=PATIENCE)
        shown = tp_read(master, 10_000).decode()
    assert shown.startswith("\r")
    assert "/s  p50 " in shown
    assert shown.endswith("\r\x1b[K")
    assert "answered" in output.decode()


def test_ctrl_c_ends_it_with_its_summary() -> None:
    server = LineServer()
    with server.serving() as where, running(where, "-d", 600, "-c", 3, "--json") as process:
        assert server.has_lines.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    found = json.loads(output.splitlines()[-1])
    assert (process.returncode, errors) == (130, b"")
    assert found["interrupted"] is True
    assert found["answered"] == server.lines > 0


def test_ctrl_c_does_not_wait_for_a_silent_server() -> None:
    with raw_listener() as listener:
        where = f"127.0.0.1:{port_of(listener)}"
        options = ("-d", 600, "-c", 1, "-P", 3, "--timeout", -1, "--json")
        with running(where, *options) as process, closing(listener.accept()[0]) as peer:
            peer.recv(100)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, b"")
    assert json.loads(output)["unanswered"] == 3


def test_its_load_ends_when_it_is_killed() -> None:
    server = LineServer()
    with server.serving() as where, running(where, "-d", 600, "-c", 3) as process:
        assert server.has_lines.wait(PATIENCE)
        process.kill()
        assert server.all_gone.wait(PATIENCE)


# ---------------------------------------------------------------------- nobody listens


def in_a_shell(command: str, where: str) -> tuple[int, str]:
    """Run it with streams as a shell makes them; give its status and all that it says."""
    script = command.format(bench=f"{sys.executable} -m gnet bench {where} -c 1 -n 3 --json")
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("command", ["{bench} 2>&-", "{bench} <&-", "{bench} <&- 2>&-"])
def test_closed_streams_do_not_keep_it_from_its_figures(command: str) -> None:
    with LineServer().serving() as where:
        status, said = in_a_shell(command, where)
    assert status == 0
    assert json.loads(said)["answered"] == 3


def test_without_a_standard_output_it_is_quiet() -> None:
    with LineServer().serving() as where:
        assert in_a_shell("{bench} >&-", where) == (0, "")


def test_an_output_that_nobody_reads_any_more_is_status_1_and_no_message() -> None:
    with LineServer().serving() as where:
        status, said = in_a_shell("({bench}; echo $? >&2) | true", where)
    assert (status, said) == (0, "1\n")


def test_an_output_that_is_full_is_one_line_and_status_1() -> None:
    with LineServer().serving() as where:
        status, said = in_a_shell("{bench} >/dev/full", where)
    assert (status, said) == (1, "python -m gnet: No space left on device\n")
