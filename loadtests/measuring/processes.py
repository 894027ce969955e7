"""Server processes and their clients: started, pinned to cores, their CPU time and memory from /proc.

CPU time is what the kernel ran the server's threads for, user and system, in nanoseconds
(/proc/PID/task/*/schedstat; utime + stime in steps of 10 ms where that is missing). It is steadier than
requests per second: a busy neighbour stretches the clock, and a slow client stretches it too. What is
compared are ratios of peers that ran in the same round.
"""

from __future__ import annotations

import glob
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from loadtests.certificates import CertificateFiles
from loadtests.measuring.peers import PeerUnavailable, peer_command, server_environment

if sys.platform != "linux":
    raise SystemExit("the benchmarks read /proc and pin processes to cores: they need Linux")

CLIENT = [sys.executable, str(Path(__file__).resolve().with_name("client.py"))]
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
            options: further ones, for the servers in compare/peers.
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
                    env=server_environment(),
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
    """client.py with these arguments; its standard input and output are pipes."""
    return subprocess.Popen([*CLIENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
