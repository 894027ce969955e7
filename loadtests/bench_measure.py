"""What the benchmarks share: server processes, their CPU time and memory from /proc, medians and tables.

CPU time is what the kernel ran the server's threads for, user and system, in nanoseconds
(/proc/PID/task/*/schedstat; utime + stime in steps of 10 ms where that is missing). It is steadier than
requests per second: a busy neighbour stretches the clock, and a slow client stretches it too. What is
compared are ratios of peers that ran in the same round.
"""

from __future__ import annotations

import datetime
import glob
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench_commands import PeerUnavailable, peer_command
from certificates import CertificateFiles
from OpenSSL import SSL

if sys.platform != "linux":
    raise SystemExit("the benchmarks read /proc and pin processes to cores: they need Linux")

HERE = Path(__file__).resolve().parent
CLIENT = HERE / "bench_client.py"
NANOSECONDS = 1_000_000_000
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))  # those this program was given, before `prepare` takes one of them
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


def prepare() -> None:
    """Once a program: end on SIGTERM in order (servers are stopped), lift the descriptor limit, pin."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {CLIENT_CORE})  # this process and its clients


class PeerServer:
    """A peer's server as its own process on the first core, listening on loopback; `with` stops it."""

    def __init__(self, peer: str, tls: CertificateFiles | None = None, *options: str) -> None:
        """Start it and wait until it listens. Raises PeerUnavailable.

        Args:
            tls: speak TLS with this certificate.
            options: further ones, for the servers in bench_peers.
        """
        self.peer = peer
        self._log: threading.Thread | None = None
        command = peer_command(peer, tls, options)
        self._directory = tempfile.TemporaryDirectory(prefix="gnet-bench-")
        errors = Path(self._directory.name) / "stderr"
        attempts = 5 if "{port}" in command else 1  # a free port can be taken by another before it is used
        for _ in range(attempts):
            chosen = _free_port() if "{port}" in command else 0
            with errors.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [str(chosen) if word == "{port}" else word for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    cwd=self._directory.name,
                    preexec_fn=_pin_to_server_core,
                )
            port = self._wait_until_it_listens(chosen)
            if port:
                self.pid, self.port = self._process.pid, port
                # redis-server logs each handshake that fails there: in a full pipe it would stop for good.
                self._log = threading.Thread(target=self._drop_output, daemon=True)
                self._log.start()
                return
            self._stop()
        reason = (errors.read_text(errors="replace").strip().splitlines() or [""])[-1]
        self._directory.cleanup()
        raise PeerUnavailable(
            f"{peer}: server ended before it listened, status {self._process.returncode} {reason}".rstrip()
        )

    def _wait_until_it_listens(self, chosen: int) -> int | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("listening on "):
                return int(line.rpartition(":")[2])
            if "eady to accept connections" in line:
                return chosen
        return None

    def _drop_output(self) -> None:
        assert self._process.stdout is not None
        for _line in self._process.stdout:
            pass

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._log is not None:
            self._log.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def close(self) -> None:
        self._stop()
        self._directory.cleanup()

    def __enter__(self) -> PeerServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU time this server has used, once it has come to rest (at most 5 s later)."""
        give_up = time.monotonic() + 5
        before = cpu_ns_now(self.pid)
        while time.monotonic() < give_up:
            time.sleep(0.03)
            after = cpu_ns_now(self.pid)
            if after - before < 300_000:  # 1 %: timers, redis-server's ten ticks a second
                return after
            before = after
        return before

    def memory_kib(self, key: str = "Rss") -> int:
        """KiB resident: `Rss` now, or `VmHWM` the most since the start or `forget_memory_peak`."""
        # smaps_rollup walks the pages; VmRSS is a sum of per-CPU counters that can be off by many pages.
        name = "smaps_rollup" if key == "Rss" else "status"
        for line in Path(f"/proc/{self.pid}/{name}").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        raise KeyError(key)

    def forget_memory_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _pin_to_server_core() -> None:
    os.sched_setaffinity(0, {SERVER_CORE})


def cpu_ns_now(pid: int) -> int:
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        total += int(Path(path).read_text().split()[0])
    if total:
        return total
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * NANOSECONDS // TICKS_PER_SECOND


def start_client(*arguments: str) -> subprocess.Popen[str]:
    """bench_client.py with these arguments; its standard input and output are pipes."""
    command = [sys.executable, str(CLIENT), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def machine_facts() -> dict[str, str]:
    """What a reader needs to judge the figures."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu,
        "cores": str(len(CORES)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gevent": importlib.metadata.version("gevent"),
        "pyOpenSSL": importlib.metadata.version("pyOpenSSL"),
        "OpenSSL of gnet": _version_of(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()),
        "OpenSSL of ssl": _version_of(ssl.OPENSSL_VERSION),
    }
    if shutil.which("redis-server"):
        version = subprocess.check_output(["redis-server", "--version"], text=True)
        facts["redis"] = version.split("v=")[-1].split()[0]
    return facts


def _version_of(text: str) -> str:
    return text.split()[1]


def facts_line(facts: dict[str, str]) -> str:
    text = f"{facts['date']}; {facts['cpu']}, {facts['cores']} cores, {facts['kernel']}; "
    text += f"Python {facts['python']}, gevent {facts['gevent']}"
    if "redis" in facts:
        text += f", redis-server {facts['redis']}"
    text += f", pyOpenSSL {facts['pyOpenSSL']} with OpenSSL {facts['OpenSSL of gnet']}"
    text += f" (Python's own: {facts['OpenSSL of ssl']})"
    if len(CORES) == 1:
        text += "; one core only: client and server share it, trust the ratios less"
    return text


@dataclass(frozen=True)
class Summary:
    """One cell of a table: the samples of one peer in one scenario, one a round."""

    samples: list[float]
    ratios: list[float]  # to the reference peer, round by round; empty where there is none

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    def cell(self, digits: int) -> str:
        low, high = min(self.samples), max(self.samples)
        text = f"{self.median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"
        return text if self.ratio is None else f"{text} ×{self.ratio:.2f}"

    def as_json(self) -> dict[str, object]:
        return {"median": self.median, "samples": self.samples, "ratio": self.ratio, "ratios": self.ratios}


def summarize(samples: dict[str, list[float]], reference: str) -> dict[str, Summary]:
    """Each peer's samples (the same rounds in the same order) with its ratios to the reference peer's."""
    base = samples.get(reference, [])
    return {
        peer: Summary(values, [value / one for value, one in zip(values, base, strict=False)])
        for peer, values in samples.items()
        if values
    }


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The same names, another one first each turn: whatever drifts, drifts for all of them."""
    shift = turn % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a README, its columns aligned for reading in a terminal too."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def write_json(path: Path, everything: dict[str, object]) -> None:
    path.write_text(json.dumps(everything, indent=1) + "\n")
