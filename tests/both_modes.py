"""Run the tests in a patched process and in a plain one at the same time: most of them wait most of the time.

    python tests/both_modes.py [arguments of pytest]

The output of the plain run, which is the whole of the tests, comes last, so that its summary is what one
sees at the end. Ends with 1 if one of the two failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import IO


def start(arguments: list[str], patched: str, output: IO[bytes] | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{patched or 'plain'}"]
    environment = os.environ | {"GNET_TEST_PATCHED": "1" if patched else ""}
    return subprocess.Popen(command + arguments, env=environment, stdout=output, stderr=output)


def follow(process: subprocess.Popen[bytes], path: str) -> None:
    """Copy what a process has written to a file, and what it goes on to write, until it ends."""
    with open(path, "rb") as file:
        while True:
            ended = process.poll() is not None
            part = file.read()
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            if ended and not part:
                return
            time.sleep(0.2)


def main() -> int:
    arguments = sys.argv[1:]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        plain = start(arguments, "", log)
        try:
            print("the core, in a process that gevent has patched:", flush=True)
            patched = start(arguments, "patched", None)
            patched_status = patched.wait()
            print("all tests, in a plain process:", flush=True)
            follow(plain, log.name)
        finally:
            plain.terminate()
        if patched_status not in (0, 5):
            print(f"the tests in the patched process failed ({patched_status}): see above", flush=True)
            return 1
        return plain.wait()


if __name__ == "__main__":
    sys.exit(main())
