"""What a TLS client context with certifi's roots costs, in a process of its own: prints one JSON object.

    python -m loadtests.compare.contexts gnet --count 200
    python -m loadtests.compare.contexts ssl --count 40

Milliseconds are CPU time; KiB are what the resident memory grew by (tracemalloc does not see OpenSSL's), both
for each context after the first, all of which are kept.
"""

from __future__ import annotations

import argparse
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import certifi

import gnet

KINDS: dict[str, Callable[[], object]] = {
    "gnet": gnet.new_context,
    "ssl": lambda: ssl.create_default_context(cafile=certifi.where()),
}


def resident_kib() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise KeyError("Rss")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=[*KINDS])
    parser.add_argument("--count", type=int, default=200, help="contexts after the first")
    given = parser.parse_args()
    make = KINDS[given.kind]
    resident_kib()
    start = time.process_time()
    kept = [make()]
    first = time.process_time() - start
    before = resident_kib()
    start = time.process_time()
    kept += [make() for _ in range(given.count)]
    later = time.process_time() - start
    grown = resident_kib() - before
    print(
        json.dumps(
            {
                "first ms": first * 1000,
                "later ms": later * 1000 / given.count,
                "later KiB": grown / given.count,
                "kept": len(kept),
            }
        )
    )


if __name__ == "__main__":
    main()
