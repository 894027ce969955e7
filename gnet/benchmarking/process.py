"""A load process: reads its plan, connects, says so, waits for the start, reports, and says what came of it.

It is apart from the one that draws, so that drawing delays no answer, and several can share the work.
Standard input has the plan on one line, then a line that starts the load; its end ends the load early, as it
comes when the other process is gone. Standard output has one JSON object on each line: `{"kind": "ready"}`,
or `"failed"` with a message, then `"progress"` and in the end `"done"`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import time
import traceback
import warnings
from contextlib import suppress
from typing import Any, Final

import gevent
from gevent.socket import wait_read

from gnet.benchmarking.load import Load, OpenLoad, new_load
from gnet.benchmarking.plan import Plan
from gnet.errors import InsecureWarning

__all__ = ["main"]

_INPUT: Final = 0
_OUTPUT: Final = 1

_BUG_STATUS: Final = 70  # EX_SOFTWARE

# Milliseconds for answers that are on their way when the load is ended early.
_LAST_ANSWERS_MS: Final = 250


def main() -> None:
    """Do what standard input says."""
    text = b""
    while not text.endswith(b"\n"):
        data = os.read(_INPUT, 65536)
        if not data:
            return
        text += data
    plan = Plan.from_json(text.decode())
    _allow_descriptors(plan.connections)
    hub: Any = gevent.get_hub()
    hub.handle_error = _end_at_error
    if not plan.verify:
        warnings.simplefilter("ignore", InsecureWarning)  # it was asked for
    try:
        load = new_load(plan)
        load.connect()
    except (OSError, ValueError) as error:
        _say(kind="failed", message=getattr(error, "strerror", None) or str(error))
        return
    _say(kind="ready")
    wait_read(_INPUT)
    if not os.read(_INPUT, 100):
        return
    stopping = gevent.spawn(_stop_at_end_of_input, load)
    # Collections take milliseconds, in which no answer is read; the load makes next to no cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)
    before = time.process_time()
    report = _Report(load)
    load.run(lambda: _say(kind="progress", **report.next()))
    cpu = time.process_time() - before
    stopping.kill()
    _say(
        kind="done",
        asked=load.asked,
        unanswered=load.on_their_way,
        unsent=load.unsent if isinstance(load, OpenLoad) else 0,
        elapsed_ns=load.elapsed,
        connect=load.connect_times.as_json(),
        tls=load.tls_times.as_json(),
        resumed=load.resumed,
        reconnects=load.reconnects,
        errors=load.failures.counts,
        messages=load.failures.messages,
        cpu_seconds=cpu,
        **report.next(),
    )


class _Report:
    """What has come since the last one."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._failures = 0

    def next(self) -> dict[str, Any]:
        before, self._failures = self._failures, self._load.failures.total
        return {"latencies": self._load.take_latencies().as_json(), "failures": self._failures - before}


def _end_at_error(context: object, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """End the process for an error that nothing expected: without its callback the load might never end."""
    if not issubclass(kind, gevent.get_hub().NOT_ERROR):
        traceback.print_exception(kind, error, trace)
        os._exit(_BUG_STATUS)


def _stop_at_end_of_input(load: Load) -> None:
    while True:
        wait_read(_INPUT)
        if not os.read(_INPUT, 100):
            load.stop(_LAST_ANSWERS_MS)
            return


def _say(**message: Any) -> None:
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(_OUTPUT, data) :]
    except BrokenPipeError:  # nobody wants to know any more
        os._exit(0)


def _allow_descriptors(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < connections + 100:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
