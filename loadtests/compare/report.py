"""Samples to text: tables for a terminal and for docs/benchmarks.md, and the same as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict

from loadtests.compare.loads import Sample
from loadtests.compare.rounds import Measured
from loadtests.compare.scenarios import Kind
from loadtests.measuring.peers import PEERS
from loadtests.measuring.tables import Summary, markdown_table, spread, summarize

REFERENCES = ("gevent", "redis")  # ratios to these, round by round
TRANSPORTS = {"plain": "Plain", "tls": "TLS 1.3"}


def ratios(measured: Measured, reference: str) -> dict[str, Summary]:
    """The first figure of each peer, with its ratios to the reference peer's."""
    values = {peer: [sample.value for sample in taken] for peer, taken in measured.samples.items()}
    return summarize(values, reference)


def overview(results: Sequence[Measured]) -> str:
    """One table of a transport: a row for each peer, a column for each scenario."""
    peers = [peer for peer in PEERS if any(peer in one.samples for one in results)]
    rows = []
    for peer in peers:
        row = [f"**{PEERS[peer].title}**" if peer == "gnet" else PEERS[peer].title]
        for one in results:
            cell = ratios(one, "").get(peer)
            row.append("–" if cell is None else f"{cell.median:,.{one.scenario.digits}f}")
        rows.append(row)
    return markdown_table(["", *(one.scenario.label for one in results)], rows)


def details(measured: Measured) -> str:
    """All figures of one scenario."""
    references = [name for name in REFERENCES if name in measured.samples]
    by_reference = {name: ratios(measured, name) for name in references}
    is_idle = measured.scenario.kind is Kind.IDLE
    header = ["", measured.scenario.unit, *(f"× {PEERS[name].title}" for name in references)]
    header += [] if is_idle else ["requests/s", "p50 ms", "p99 ms"]
    rows = []
    for peer in PEERS:
        taken = measured.samples.get(peer)
        if not taken:
            continue
        row = [PEERS[peer].title, spread([one.value for one in taken], measured.scenario.digits)]
        row += [f"{by_reference[name][peer].ratio or 0:.2f}" for name in references]
        if not is_idle:
            row += [_median(taken, lambda one: one.per_second, 0)]
            row += [_median(taken, lambda one: one.p50_ms, 2), _median(taken, lambda one: one.p99_ms, 2)]
        rows.append(row)
    return markdown_table(header, rows)


def _median(taken: Sequence[Sample], figure: Callable[[Sample], float | None], digits: int) -> str:
    values = [value for one in taken if (value := figure(one)) is not None]
    return f"{statistics.median(values):,.{digits}f}" if values else "–"


def explain(measured: Measured) -> str:
    """Under a heading: by which client and how many."""
    rounds = max((len(taken) for taken in measured.samples.values()), default=0)
    times = "1 round" if rounds == 1 else f"{rounds} rounds"
    if measured.scenario.kind is Kind.IDLE:
        return f"{measured.connections:,} connections, own client, {times}."
    return f"{measured.client}, {times} of {measured.requests:,} requests."


def report(results: Sequence[Measured], facts: str, notes: Sequence[str]) -> str:
    """Everything in Markdown, without a heading of its own."""
    parts = [f"{facts}.", METHOD]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    for transport, title in TRANSPORTS.items():
        ours = [one for one in results if one.transport == transport]
        if not ours:
            continue
        parts.append(f"### {title}\n\nCPU µs of the server process per request; KiB per idle connection:")
        parts.append(overview(ours))
        for one in ours:
            parts.append(f"#### {title}: {one.scenario.title}\n\n{explain(one)}\n\n{details(one)}")
    return "\n\n".join(parts) + "\n"


METHOD = """\
Every server is its own process on one core; the client has another. A round has every peer once, in an order
that rotates. Figures are medians of the rounds with the least and the most in brackets; a ratio is the median
of the ratios in the same round. What comes first is the CPU time, user and system, that the kernel gave to
the server process: it is steadier than requests per second, which a busy neighbour and a slow client change
too. What opening connections costs is taken out, except where each request has one of its own.

The client is `redis-benchmark` where it fits, else `loadtests/measuring/client.py`, whose own pace limits
requests/s with most peers: compare those figures within a table only. With redis-benchmark, the latency of a
request on a connection of its own does not have the connecting in it, and over TLS its requests/s and p99
have the first handshakes in them. In the requests of 100 lines each line is answered; redis-server is sent
the same lines, which are `SET` commands to it (it keeps the value), and answers `+OK`. For 64 KiB it is asked
for a value of that size. What the servers of the peers do stands in `loadtests/compare/peers`."""


def as_json(
    results: Sequence[Measured], machine: dict[str, str], notes: Sequence[str], settings: dict[str, object]
) -> dict[str, object]:
    """Everything, each sample included."""
    entries = []
    for one in results:
        by_reference = {name: ratios(one, name) for name in REFERENCES if name in one.samples}
        for peer, taken in one.samples.items():
            entries.append(
                {
                    "transport": one.transport,
                    "scenario": one.scenario.name,
                    "peer": peer,
                    "unit": one.scenario.unit,
                    "client": one.client,
                    "requests": one.requests,
                    "connections": one.connections,
                    "pipeline": one.scenario.pipeline,
                    "median": statistics.median(sample.value for sample in taken),
                    "ratios": {name: cells[peer].ratio for name, cells in by_reference.items()},
                    "samples": [asdict(sample) for sample in taken],
                }
            )
    return {"machine": machine, "settings": settings, "notes": list(notes), "results": entries}
