"""The client processes of one server, as one: see `client.py` for what each of them does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

CLIENT = Path(__file__).resolve().with_name("client.py")


class Crowd:
    """Client processes with connections to one server; `with` ends them."""

    def __init__(self, port: int, per_process: int) -> None:
        """Start none yet.

        Args:
            port: of the server, on 127.0.0.1.
            per_process: connections that one client process has at most. Each process has a loopback address
                of its own to connect from: the kernel has some 28,000 ports for each.
        """
        self._port = port
        self._per_process = per_process
        self._processes: list[subprocess.Popen[str]] = []
        self._held: list[int] = []  # connections of each

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            if kind is not None:
                process.kill()
            process.stdin.close()
            process.wait()
            process.stdout.close()

    @property
    def connections(self) -> int:
        """How many there are."""
        return sum(self._held)

    def open(self, connections: int) -> None:
        """Open connections until there are so many; one line has been answered on each."""
        for number, share in enumerate(shares(connections, self._per_process)):
            if number == len(self._processes):
                self._start()
            if share > self._held[number]:
                self._ask(number, f"open {share}")
                self._held[number] = share

    def run(self, requests: int) -> dict[str, float]:
        """Send requests over all connections in turn, one in flight on each; give what that took.

        Returns:
            `seconds` by the clock, `cpu_seconds` of all client processes, and on how many requests the
            connections that were used `least` and `most` had their answers.
        """
        busy = [number for number, held in enumerate(self._held) if held]
        per_connection = -(-requests // self.connections)  # rounded up: every connection is used
        for number in busy:
            held = self._held[number]
            self._say(number, f"run {per_connection * held} {held}")
        answers = [self._hear(number) for number in busy]
        return {
            "requests": sum(answer["requests"] for answer in answers),
            "seconds": max(answer["seconds"] for answer in answers),
            "cpu_seconds": sum(answer["cpu_seconds"] for answer in answers),
            "least": min(answer["least"] for answer in answers),
            "most": max(answer["most"] for answer in answers),
        }

    def lines(self, count: int, line_bytes: int) -> float:
        """Send lines over one connection more; give the seconds until the server had read them all."""
        if not self._processes:
            self._start()
        return self._ask(0, f"lines {count} {line_bytes}")["seconds"]

    def _start(self) -> None:
        source = f"127.0.0.{1 + len(self._processes)}"
        command = [sys.executable, str(CLIENT), "--port", str(self._port), "--source", source]
        self._processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        self._held.append(0)

    def _ask(self, number: int, command: str) -> dict[str, float]:
        self._say(number, command)
        return self._hear(number)

    def _say(self, number: int, command: str) -> None:
        stdin = self._processes[number].stdin
        assert stdin is not None
        stdin.write(command + "\n")
        stdin.flush()

    def _hear(self, number: int) -> dict[str, float]:
        process = self._processes[number]
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"scale: client process {number} ended with status {process.wait()}: see above")
        answer: dict[str, float] = json.loads(line)
        return answer


def shares(connections: int, per_process: int) -> list[int]:
    """How many connections each client process has: all but the last as many as it may."""
    full, rest = divmod(connections, per_process)
    return [per_process] * full + ([rest] if rest else [])
