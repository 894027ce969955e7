"""Has load processes do a plan's shares: starts them, has them begin together, gathers what they report."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from gnet.benchmarking.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gnet.benchmarking.plan import Plan

__all__ = ["LoadError", "conduct"]


class LoadError(OSError):
    """There was no load: the server is not there, or it is not who it should be, or a process died."""


def conduct(
    plans: Sequence[Plan],
    on_progress: Callable[[Outcome, Outcome], None],
    on_start: Callable[[], None],
) -> Outcome:
    """Do it all, each plan in a process of its own; Ctrl-C ends it early.

    Args:
        on_progress: called whenever each process has reported, with the figures since the last call, and
            with all so far.
        on_start: called when all connections are there.
    Returns:
        What came of it; `interrupted` tells whether Ctrl-C ended it.
    Raises:
        LoadError: nothing was measured. KeyboardInterrupt: before the load began, or for the second time.
    """
    conductor = _Conductor(on_progress)
    try:
        conductor.start(plans)
        on_start()
        return conductor.run()
    finally:
        conductor.close()


class _Process:
    """A load process, and the part of a line that has come from it."""

    def __init__(self, plan: Plan) -> None:
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gnet.benchmarking.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # a terminal's Ctrl-C is for the one that prints; it tells this one
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self.output: IO[bytes] = self._process.stdout
        self._rest = b""
        self.is_done = False
        self.tell(plan.as_json())

    def tell(self, line: str) -> None:
        """Send it a line."""
        with suppress(BrokenPipeError):  # it is gone: its output says so
            self._input.write(line.encode() + b"\n")

    def stop(self) -> None:
        """Have it come to its end, with its figures."""
        self._input.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Give the messages that the next piece of its output completes.

        Raises:
            LoadError: it has ended.
        """
        data = self.output.read(1 << 20)
        if not data:
            raise LoadError(f"a load process ended with status {self._process.wait()}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def close(self) -> None:
        """End it, if it has not ended."""
        if not self.is_done:
            self._process.kill()
        self._input.close()
        self.output.close()
        self._process.wait()


class _Conductor:
    def __init__(self, on_progress: Callable[[Outcome, Outcome], None]) -> None:
        self._on_progress = on_progress
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._handler_before: Any = None
        self._total = Outcome()
        self._round = Outcome()
        self._reports = 0  # in this round

    def start(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            process = _Process(plan)
            self._processes.append(process)
            self._selector.register(process.output, selectors.EVENT_READ, process)
        ready = 0
        while ready < len(self._processes):
            for _process, message in self._next_messages():
                if message["kind"] == "failed":
                    raise LoadError(message["message"])
                ready += 1

    def run(self) -> Outcome:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler_before = signal.signal(signal.SIGINT, self._on_interrupt)
        for process in self._processes:
            process.tell("go")
        left = len(self._processes)
        while left:
            for process, message in self._next_messages():
                self._total.add_report(message)
                if message["kind"] == "done":
                    self._total.add_end(message)
                    process.is_done = True
                    self._selector.unregister(process.output)
                    left -= 1
                else:
                    self._note_progress(message)
        return self._total

    def close(self) -> None:
        for process in self._processes:
            process.close()
        self._selector.close()
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, self._handler_before)

    def _next_messages(self) -> Iterator[tuple[_Process, dict[str, Any]]]:
        for key, _events in self._selector.select():
            for message in key.data.messages():
                yield key.data, message

    def _note_progress(self, message: dict[str, Any]) -> None:
        self._round.add_report(message)
        self._reports += 1
        if self._reports >= len(self._processes):
            self._on_progress(self._round, self._total)
            self._round = Outcome()
            self._reports = 0

    def _on_interrupt(self, *_: object) -> None:
        if self._total.interrupted:
            raise KeyboardInterrupt
        self._total.interrupted = True
        for process in self._processes:
            process.stop()
