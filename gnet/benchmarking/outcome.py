"""What came of a benchmark: the figures of its processes together, as JSON and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gnet.benchmarking.drawing import draw, shown_ms
from gnet.benchmarking.failures import Failures
from gnet.checks import printable
from gnet.histogram import Histogram

if TYPE_CHECKING:
    from gnet.benchmarking.plan import Plan

__all__ = ["Outcome"]

_PERCENTS: Final = (50, 90, 99, 99.9)

# The share of a core from which on the load itself may be what limits the rate.
_BUSY: Final = 0.9


class Outcome:
    """The figures of one or more processes, so far or of all their time."""

    def __init__(self) -> None:
        self.latencies = Histogram()  # in microseconds, as the two below
        self.connect_times = Histogram()
        self.tls_times = Histogram()
        self.new_failures = 0
        """Those that were reported on the way, whatever their kind."""
        self.failures = Failures()
        """All of them, known at the end."""
        self.asked = 0
        self.unanswered = 0
        self.unsent = 0
        self.resumed = 0
        self.reconnects = 0
        self.seconds = 0.0
        self.busiest = 0.0
        """The largest share of a core that a process had, 1.0 being all of it."""
        self.cpu_seconds = 0.0
        self.interrupted = False

    def add_report(self, message: dict[str, Any]) -> None:
        """Add what a process reports, on its way or in its last message."""
        self.latencies.add(Histogram.from_json(message["latencies"]))
        self.new_failures += message["failures"]

    def add_end(self, message: dict[str, Any]) -> None:
        """Add what only a process's last message has."""
        self.connect_times.add(Histogram.from_json(message["connect"]))
        self.tls_times.add(Histogram.from_json(message["tls"]))
        self.failures.add(message["errors"], message["messages"])
        self.asked += message["asked"]
        self.unanswered += message["unanswered"]
        self.unsent += message["unsent"]
        self.resumed += message["resumed"]
        self.reconnects += message["reconnects"]
        seconds = message["elapsed_ns"] / 1e9
        self.seconds = max(self.seconds, seconds)
        self.cpu_seconds += message["cpu_seconds"]
        self.busiest = max(self.busiest, message["cpu_seconds"] / seconds if seconds > 0 else 0)

    @property
    def answered(self) -> int:
        """How many right answers came."""
        return self.latencies.count

    @property
    def rps(self) -> float:
        """Right answers per second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    def as_json(self, plan: Plan, processes: int) -> dict[str, Any]:
        """Give all figures, times in milliseconds."""
        return {
            "server": str(plan.target),
            "tls": plan.tls,
            "connections": plan.connections,
            "pipeline": plan.pipeline,
            "processes": processes,
            "rate": plan.rate,
            "seconds": round(self.seconds, 6),
            "requests": self.asked,
            "answered": self.answered,
            "rps": round(self.rps, 3),
            **_times(self.latencies),
            "errors": self.failures.total,
            "errors_by_kind": self.failures.counts,
            "error_messages": self.failures.messages,
            "unanswered": self.unanswered,
            "unsent": self.unsent,
            "reconnects": self.reconnects,
            "connect": {"count": self.connect_times.count, **_times(self.connect_times)},
            "tls_handshake": (
                {"count": self.tls_times.count, "resumed": self.resumed, **_times(self.tls_times)}
                if plan.tls
                else None
            ),
            "cpu_seconds": round(self.cpu_seconds, 6),
            "interrupted": self.interrupted,
        }

    def as_text(self, plan: Plan, processes: int, width: int, *, ascii_only: bool) -> str:
        """Give the summary that people read, with the histogram."""
        rate = "" if plan.rate is None else f", {plan.rate:g} requests/s asked for"
        several = "" if processes == 1 else f", {processes} processes"
        lines = [
            f"{plan.target}{', TLS' if plan.tls else ''}: {plan.connections} connections, "
            f"{plan.pipeline} in flight on each{several}{rate}, {self.seconds:.2f} s",
            "",
            f"{'requests':<10} {self.answered:,} answered, {self.rps:,.0f}/s; {self.failures.total:,} errors",
        ]
        lines += _row("latency", self.latencies)
        lines += _row("connect", self.connect_times)
        lines += _row("TLS", self.tls_times)
        for kind, count in sorted(self.failures.counts.items(), key=lambda item: -item[1]):
            lines.append(f"{'error':<10} {count:,} × {kind}: {printable(self.failures.messages[kind])}")
        lines += self._notes(processes)
        if self.answered:
            lines += ["", *draw(self.latencies, width, ascii_only=ascii_only)]
        text = "\n".join(lines)
        return text.replace("×", "x").encode("ascii", "replace").decode() if ascii_only else text

    def _notes(self, processes: int) -> list[str]:
        notes = []
        if self.unanswered:
            notes.append(f"{self.unanswered:,} requests had no answer yet at the end; they count as nothing.")
        if self.unsent:
            notes.append(f"{self.unsent:,} requests were due and never sent: the rate was not reached.")
        if self.resumed:
            notes.append(f"{self.resumed:,} of the TLS handshakes resumed a session.")
        if self.busiest >= _BUSY:
            notes.append(
                f"A load process took {100 * self.busiest:.0f} % of a core: it may be what limits the rate. "
                f"Try --processes {processes + 1}."
            )
        return [f"{'note':<10} {note}" for note in notes]


def _times(histogram: Histogram) -> dict[str, float]:
    p50, p90, p99, p999 = (round(value / 1000, 6) for value in histogram.percentiles(_PERCENTS))
    return {
        "min_ms": histogram.least / 1000,
        "mean_ms": round(histogram.mean / 1000, 6),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "p99_9_ms": p999,
        "max_ms": histogram.most / 1000,
    }


def _row(name: str, histogram: Histogram) -> list[str]:
    if not histogram.count:
        return []
    values = [
        f"p{percent:g} {shown_ms(value)}"
        for percent, value in zip(_PERCENTS, histogram.percentiles(_PERCENTS), strict=True)
    ]
    return [f"{name:<10} {'  '.join(values)}  max {shown_ms(histogram.most)} ms"]
