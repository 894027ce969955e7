"""loadtests/compare: what is made of the samples, and one tiny comparison from end to end.

Nothing here looks at how fast anything is: that is what the program is for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.plain_only,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmarks read /proc"),
]

if sys.platform.startswith("linux"):
    from loadtests.compare import loads, plot, report, rounds
    from loadtests.compare.peers.shared import LONGEST_LINE, LineBuffer
    from loadtests.compare.scenarios import SCENARIOS, scenarios_of
    from loadtests.measuring import peers

ROOT = Path(__file__).resolve().parent.parent
WITH_LATENCIES = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"PING_INLINE","25000.00","0.731","0.216","0.703","0.951","2.071","3.007"
"""


def measured(name: str, **values: list[float]) -> Any:
    """The samples of one scenario as `measure` gives them."""
    scenario = next(one for one in SCENARIOS if one.name == name)
    samples = {
        peer: [loads.Sample(value, 10 * value, 1.0, 2.0) for value in taken] for peer, taken in values.items()
    }
    return rounds.Measured("plain", scenario, "own client", 100, scenario.connections, samples)


def compare(*arguments: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.compare", "--no-docs", *map(str, arguments)]
    environment = dict(os.environ) if path is None else {**os.environ, "PATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=55, env=environment, cwd=ROOT)


# redis-benchmark's output


def test_rate_and_latencies_are_read_from_redis_benchmark() -> None:
    assert loads.parse_redis_benchmark(WITH_LATENCIES) == loads.Sample(0.0, 25000.0, 0.703, 2.071)


def test_an_old_redis_benchmark_gives_the_rate_only() -> None:
    assert loads.parse_redis_benchmark('"PING_INLINE","25000.00"\n') == loads.Sample(0.0, 25000.0)


def test_what_else_a_redis_benchmark_prints_is_passed_over() -> None:
    text = "WARNING: Could not fetch server CONFIG\n" + WITH_LATENCIES
    assert loads.parse_redis_benchmark(text).per_second == 25000.0


@pytest.mark.parametrize(
    "text", ["", "Error from server\n", '"test","rps"\n', '"test","rps"\n"PING_INLINE","x"\n']
)
def test_an_output_without_figures_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(loads.LoadFailed, match="redis-benchmark printed"):
        loads.parse_redis_benchmark(text)


# Tables


def test_the_details_have_the_spread_and_the_ratios_of_the_same_rounds() -> None:
    text = report.details(
        measured("one", gnet=[5.0, 30.0, 20.0], gevent=[10.0, 20.0, 50.0], redis=[5.0, 10.0, 10.0])
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0] == [
        *("", "CPU µs per request", "× gevent makefile", "× redis-server", "requests/s", "p50 ms", "p99 ms")
    ]
    # Of the medians the ratio to gevent would be 1.
    assert rows[2] == ["gnet.Server, lines()", "20.0 (5.0–30.0)", "0.50", "2.00", "200", "1.00", "2.00"]


def test_a_table_has_no_ratios_to_a_peer_that_did_not_run() -> None:
    header = report.details(measured("one", gnet=[1.0], gevent=[2.0])).splitlines()[0]
    assert "gevent makefile" in header
    assert "redis" not in header


def test_idle_connections_have_memory_and_neither_rate_nor_latency() -> None:
    header = report.details(measured("idle", gnet=[9.0], gevent=[15.0])).splitlines()[0]
    assert "KiB per connection" in header
    assert "requests/s" not in header


def test_the_overview_has_a_row_for_each_peer_and_a_dash_where_it_has_no_figure() -> None:
    text = report.overview([measured("one", gnet=[1.5], trio=[3.0]), measured("bulk", gnet=[20.0])])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0] == ["", "1 in flight", "64 KiB"]
    assert rows[2:] == [["**gnet.Server, lines()**", "1.5", "20.0"], ["trio", "3.0", "–"]]


def test_the_report_names_the_notes_the_client_and_the_number_of_requests() -> None:
    text = report.report([measured("bulk", gnet=[20.0, 21.0])], "the machine", ["go is left out: no go"])
    assert text.startswith("the machine.\n")
    assert "\n- go is left out: no go\n" in text
    assert "\nown client, 2 rounds of 100 requests.\n" in text


def test_the_json_has_every_sample() -> None:
    one = measured("one", gnet=[1.0, 3.0], gevent=[2.0, 4.0])
    everything = json.loads(json.dumps(report.as_json([one], {"cpu": "x"}, [], {"rounds": 2})))
    ours = next(entry for entry in everything["results"] if entry["peer"] == "gnet")
    assert ours["median"] == 2.0
    assert ours["ratios"] == {"gevent": 0.625}
    assert [sample["value"] for sample in ours["samples"]] == [1.0, 3.0]
    assert ours["samples"][0]["p99_ms"] == 2.0


# Peers and their servers


def test_a_peer_whose_program_is_not_installed_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "_built", {})
    present, notes = rounds.runnable(["redis", "go", "nim"], None)
    assert present == []
    assert notes == [
        "redis is left out: redis-server is not installed",
        "go is left out: go is not installed",
        "nim is left out: nim is not installed",
    ]


def test_a_peer_that_has_no_tls_is_named_with_the_reason() -> None:
    files: Any = SimpleNamespace(cert="c", key="k", ca="a")
    assert rounds.runnable(["floor"], files) == ([], ["floor is left out over TLS: floor has no TLS"])


def test_a_server_that_ends_at_once_is_named_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (sys.executable, "-c", "raise ImportError('no such thing')")
    monkeypatch.setitem(peers.PEERS, "broken", peers.Peer("broken", program))
    present, [note] = rounds.runnable(["broken"], None)
    assert present == []
    assert note.startswith("broken is left out: broken: server ended before it listened, status 1")
    assert note.endswith("ImportError: no such thing")


def test_a_source_that_does_not_compile_is_named_with_the_compiler_s_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "go"
    compiler.write_text('#!/bin/sh\n[ "$1" = version ] || { echo first; echo "last words"; exit 1; } >&2\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(peers, "_built", {})
    _present, notes = rounds.runnable(["go"], None)
    assert notes == ["go is left out: go: build failed: last words"]


def test_a_compiled_server_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "go"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = version ] || { echo x >> builds; echo "a program" > "$3"; chmod +x "$3"; }\n'
    )
    compiler.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    programs = set()
    for _ in range(2):
        monkeypatch.setattr(peers, "_built", {})  # as in another process
        [program] = peers.peer_command("go")
        programs.add(program)
    assert len(programs) == 1
    assert Path(program).read_text() == "a program\n"
    assert (tmp_path / "builds").read_text() == "x\n"


def test_a_peer_that_fails_in_a_round_is_left_out_of_that_scenario_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def take(server: Any, _scenario: Any, _requests: int, _tls: Any) -> Any:
        if server == "bad":
            raise loads.LoadFailed("bad: it is broken")
        return loads.Sample(1.0)

    monkeypatch.setattr(rounds, "take_sample", take)
    notes: list[str] = []
    progress = rounds.Progress(4)
    servers: Any = {"good": "good", "bad": "bad"}
    [scenario] = [one for one in SCENARIOS if one.name == "one"]
    size = rounds.Size(2)
    samples = rounds._rounds("plain", scenario, ["good", "bad"], servers, size, None, progress, notes)
    assert {peer: len(taken) for peer, taken in samples.items()} == {"good": 2}
    assert notes == ["bad is left out of plain one: bad: it is broken"]


@pytest.mark.parametrize("cut", [1, 2, 5, 1000])
def test_the_peers_line_buffer_cuts_lines_wherever_the_chunks_end(cut: int) -> None:
    whole = b"one\ntwo\r\n\nfour" + b"x" * 30 + b"\n"
    buffer = LineBuffer()
    lines = [line for at in range(0, len(whole), cut) for line in buffer.feed(whole[at : at + cut])]
    assert lines == whole.split(b"\n")[:-1]


def test_the_peers_line_buffer_refuses_a_line_without_an_end() -> None:
    buffer = LineBuffer()
    buffer.feed(b"x" * LONGEST_LINE)
    with pytest.raises(ValueError, match="no line end"):
        buffer.feed(b"x")


# The program


def test_a_session_can_be_resumed_only_over_tls() -> None:
    assert {one.name for one in scenarios_of("tls")} - {one.name for one in scenarios_of("plain")} == {
        "resumed"
    }


def test_a_size_gives_each_connection_at_least_one_request() -> None:
    [thousand] = [one for one in SCENARIOS if one.name == "thousand"]
    assert rounds.Size(9, 0.0001).requests(thousand) == 1000
    assert rounds.Size(9).rounds_of(thousand) == thousand.most_rounds
    assert rounds.Size(9).rounds_of(replace(thousand, most_rounds=99)) == 9


def test_a_tiny_comparison_prints_tables_and_writes_every_sample(tmp_path: Path) -> None:
    file, picture = tmp_path / "samples.json", tmp_path / "new" / "plot.png"
    # Without redis-benchmark: its place is taken by our own client.
    done = compare(
        *("--plain", "--rounds", 1, "--share", 0.01, "--idle", 5, "--peer", "gnet-pure", "asyncio", "redis"),
        *("--scenario", "one", "bulk", "idle", "--json", file, "--plot", picture),
        path=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "- redis is left out: redis-server is not installed\n" in done.stdout
    assert (
        "#### Plain: One request in flight on each of 50 connections\n\nown client, 1 round of "
        in done.stdout
    )
    everything = json.loads(file.read_text())
    assert everything["settings"] == {"rounds": 1, "share": 0.01, "idle": 5}
    assert {"date", "cpu", "kernel", "python", "gevent"} <= set(everything["machine"])
    found = {(entry["scenario"], entry["peer"]): entry for entry in everything["results"]}
    names = ("one", "bulk", "idle")
    assert set(found) == {(name, peer) for name in names for peer in ("gnet-pure", "asyncio")}
    for (name, _peer), entry in found.items():
        [sample] = entry["samples"]
        if name != "idle":
            assert sample["value"] > 0
            assert sample["per_second"] > 0
            assert 0 < sample["p50_ms"] <= sample["p99_ms"]
    assert "100 % " in done.stderr
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_redis_benchmark_drives_a_server_over_tls(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    needs_program("redis-benchmark")
    file = tmp_path / "samples.json"
    done = compare(
        *("--tls", "--rounds", 1, "--share", 0.01, "--peer", "gnet", "--scenario", "one", "resumed"),
        *("--json", file),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())["results"]
    assert [(one["scenario"], one["client"]) for one in results] == [
        ("one", "redis-benchmark"),
        ("resumed", "own client"),
    ]
    assert all(one["samples"][0]["per_second"] > 0 for one in results)


def test_nothing_measured_is_a_failure_with_the_reasons(tmp_path: Path) -> None:
    done = compare("--plain", "--peer", "redis", "--scenario", "one", path=str(tmp_path))
    assert done.returncode == 1
    assert "redis is left out: redis-server is not installed" in done.stderr
    assert done.stderr.endswith("nothing was measured\n")


def test_without_matplotlib_there_is_no_plot_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(plot.NoPlot, match="matplotlib is not installed"):
        plot.draw([measured("one", gnet=[1.0])], tmp_path / "plot.png", "the machine")
