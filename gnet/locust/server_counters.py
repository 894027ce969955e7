"""Asks a gnet server for its counters: `python -m gnet serve --metrics-port`, or any that calls
`gnet.serving.metrics.start_metrics_server`.

What comes is the text format of Prometheus. Only gnet's own numbers are taken from it, so that no package is
needed for reading them.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import gevent

from gnet.serving.statistics import COUNTERS, GAUGES, LABELS

__all__ = ["Counter", "ServerCounters", "metrics_url", "parse"]

POLL_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 2.0  # for each step of an answer: a server under load is still asked once a while
_MOST_BYTES: Final = 1_000_000  # an answer has some 10,000

# What people read. Locust's page sorts rows by name: what belongs together begins alike.
_TITLES: Final = {
    "active": "Connections: now",
    "peak": "Connections: most at once",
    "starting": "Connections: starting",
    "accepted": "Connections: accepted",
    "aborted": "Connections: gone before accepted",
    "rejected": "Connections: rejected",
    "accept_queue": "Accept queue: length",
    "accept_queue_limit": "Accept queue: limit",
    "pool_size": "Pool: size",
    "pool_used": "Pool: used",
    "waiting_for_slot": "Pool: waiting for a place",
    "timeouts": "Timeouts",
    "handshakes": "TLS: handshakes",
    "handshake_failures": "TLS: handshakes failed",
    "proxy_failures": "Errors: PROXY headers",
    "handler_errors": "Errors: of handlers",
    "peer_errors": "Errors: of peers",
    "accept_errors": "Errors: of accept",
    "drain_resets": "Draining: connections reset",
    "draining": "Draining: now",
    "bytes_in": "Traffic: bytes in",
    "bytes_out": "Traffic: bytes out",
    "lines_in": "Traffic: lines in",
    "lines_out": "Traffic: lines out",
}

# gnet_active 3.0
# gnet_timeouts_total{kind="idle"} 0.0
_SAMPLE: Final = re.compile(r'^gnet_(\w+?)(?:_total)?(?:\{\w+="([^"]*)"\})? (\S+)$', re.MULTILINE)


class Counter(NamedTuple):
    """One number of a server."""

    key: str  # as in Server.stats()
    label: str  # the reason or the kind; empty for most
    value: int
    per_second: float | None  # of what only grows, since the time before


def metrics_url(text: str) -> str:
    """Complete the address of a server's metrics: `HOST:PORT`, or a URL with or without its path.

    Raises:
        ValueError: it is none of these.
    """
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    try:
        is_complete = parts.scheme in ("http", "https") and parts.hostname and parts.port is not None
    except ValueError:  # no port at all, or none that there is
        is_complete = False
    if not is_complete:
        raise ValueError(f"expected HOST:PORT or http://HOST:PORT/metrics, got {text!r}")
    return parts._replace(path="/metrics").geturl() if parts.path in ("", "/") else url


def parse(text: str) -> dict[tuple[str, str], int]:
    """Give gnet's numbers in an answer, by key and label."""
    known = COUNTERS.keys() | GAUGES.keys()
    samples = [(key, label, value) for key, label, value in _SAMPLE.findall(text) if key in known]
    numbers = {(key, label): int(float(value)) for key, label, value in samples}
    # What is counted by reason has no number before it has happened.
    missing = LABELS.keys() - {key for key, _ in numbers} if numbers else ()
    return numbers | {(key, ""): 0 for key in missing}


class ServerCounters:
    """The counters of a server as of a moment ago, or why there are none."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.problem: str | None = "not asked yet"
        self.counters: list[Counter] = []
        self._before: dict[tuple[str, str], int] = {}
        self._asked = 0.0
        # A proxy between a load test and its server is nobody's wish.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Ask again and again from now on."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Ask no more."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def ask(self) -> None:
        """Ask once; afterwards either `problem` says what is wrong or `counters` has the numbers."""
        try:
            with self._opener.open(self.url, timeout=TIMEOUT_SECONDS) as answer:
                text = answer.read(_MOST_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError) as error:  # URLError and HTTPException's timeouts are OSErrors
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            self._fail(str(reason) or type(error).__name__)
            return
        except Exception as error:  # an answer that is no HTTP: http.client has ten kinds of errors for it
            self._fail(f"{type(error).__name__}: {error}")
            return
        numbers = parse(text)
        if not numbers:
            self._fail("an answer, but without any of gnet's counters")
            return
        now = time.perf_counter()
        seconds = now - self._asked if self._before else 0.0
        self.counters = [
            Counter(key, label, value, self._rate(key, label, value, seconds))
            for (key, label), value in numbers.items()
        ]
        self._before, self._asked, self.problem = numbers, now, None

    def _rate(self, key: str, label: str, value: int, seconds: float) -> float | None:
        if key not in COUNTERS or not seconds:
            return None
        # A server that was started anew counts from 0.
        return max(0, value - self._before.get((key, label), 0)) / seconds

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self.counters = []
        self._before = {}

    def _run(self) -> None:
        while True:
            self.ask()
            gevent.sleep(POLL_SECONDS)

    def rows(self) -> list[dict[str, Any]]:
        """Give what to show: a row for each number, by name; or one with the problem."""
        if self.problem is not None:
            return [
                {
                    "name": "Server",
                    "value": "not reachable",
                    "per_second": "",
                    "meaning": f"GET {self.url}: {self.problem}. Is it there, with --metrics-port?",
                }
            ]
        texts = GAUGES | COUNTERS
        rows = [
            {
                "name": _TITLES[one.key] + (f": {one.label}" if one.label else ""),
                "value": one.value,
                "per_second": "" if one.per_second is None else round(one.per_second, 1),
                "meaning": texts[one.key],
            }
            for one in self.counters
        ]
        return sorted(rows, key=lambda row: row["name"])
