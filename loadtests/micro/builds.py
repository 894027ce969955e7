"""Which gnet ran, and on what: without that no figure says anything."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import gnet
import gnet.buffers
from loadtests.measuring.machine import machine_facts

PURE, COMPILED = "pure Python", "compiled"

# What the figures depend on: the peers that are not measured here are left out.
FACTS = (
    *("date", "cpu", "cores", "kernel", "python", "gevent", "pyOpenSSL"),
    *("OpenSSL of gnet", "OpenSSL of ssl"),
)

CALIBRATION_TURNS = 200_000


def build_kind() -> str:
    """Say whether the hot modules of this gnet are Python or were compiled."""
    return PURE if (gnet.buffers.__file__ or "").endswith(".py") else COMPILED


def build_place() -> str:
    """The folder that gnet was imported from."""
    return str(Path(gnet.__file__ or "").parent)


def calibration_ns() -> float:
    """CPU time of one turn of a loop in pure Python, in nanoseconds: how fast this machine is just now."""

    def turn(count: int) -> float:
        total = 0
        before = time.thread_time_ns()
        for number in range(count):
            total += number & 1
        return (time.thread_time_ns() - before) / count

    return statistics.median(turn(CALIBRATION_TURNS) for _ in range(5))


def facts_of_this_run() -> dict[str, str]:
    """The machine, the versions, and its speed."""
    facts = machine_facts()
    found = {key: facts[key] for key in FACTS if key in facts}
    found["calibration"] = f"{calibration_ns():.1f} ns per turn of a loop in Python"
    return found
