"""Processes that end at the latest when this program does, however it ends."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

__all__ = ["DRAIN_SECONDS", "ROOT", "LoadError", "end", "exit_on_signals", "start", "status_text"]

ROOT = Path(__file__).resolve().parents[2]
"""The project."""

DRAIN_SECONDS = 5  # from SIGTERM to a process's end

_PR_SET_PDEATHSIG = 1  # Linux: prctl(2)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here and not in a forked child


class LoadError(Exception):
    """Why there is nothing to show, in one line."""


def start(stack: ExitStack, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a process that ends at the latest when `stack` does.

    It gets a process group of its own: Ctrl-C then reaches this program alone, which ends the others.
    """
    process: subprocess.Popen[str] = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        process_group=0,
        preexec_fn=_end_with_parent,
        **options,
    )
    stack.callback(end, process)
    return process


def _end_with_parent() -> None:
    """In the child: be killed when this program is (which then can end nobody in order)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end(process: subprocess.Popen[str]) -> None:
    """End a process in order if it does that in time, else at once."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second Ctrl-C comes meanwhile
        process.kill()
        process.wait()


def status_text(status: int) -> str:
    """Say how a process ended."""
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def run_program(name: str, run: Callable[[], int]) -> NoReturn:
    """Run the body of a program and end with the status it gives; what stops it early is one line."""
    exit_on_signals()
    try:
        sys.exit(run())
    except LoadError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def exit_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this program so that it ends the others on its way out."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
