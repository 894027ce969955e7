"""Run the tests on compiled modules: on a wheel that is built here and laid out over a copy of the project.

    python tests/compiled_run.py [arguments of pytest]
    python tests/compiled_run.py --core         only what is compiled, and what is nearest to it: a minute

In both kinds of processes, by tests/both_modes.py. What looks at the sources, and not at what gnet does, is
left out. Ends with 1 if a test failed; without a C compiler, or without mypy, says so and ends with 0, or
with 1 if GNET_TEST_REQUIRE_PROGRAMS=1 (as in CI).
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.building import ROOT, build, clone, run

# They build packages, or say what the sources hold.
_LEFT_OUT = ("tests/test_packaging.py", "tests/test_compiled.py", "tests/test_both_modes.py")

_CORE = [
    f"tests/{name}.py"
    for name in """
        test_reading test_writing test_buffers test_buffer_model test_mixed_reads test_transports test_turns
        test_watching test_cancellation test_closing test_nim_streams
        tls_transport/test_transport tls_transport/test_engines tls/test_trust
        server/test_deadlines server/test_draining
    """.split()
]

_CHECK = """\
import gnet, gnet.buffers, gnet.compiling
assert gnet.compiling.is_compiled(), gnet.__file__
print("testing", gnet.buffers.__file__, flush=True)
"""


def compiled_tree(folder: Path) -> Path:
    """Make a copy of the project in which gnet is what the wheel holds, with compiled modules."""
    tree = clone(folder)
    build(tree, "--wheel", GNET_COMPILE="1")
    (wheel,) = (tree / "dist").glob("*.whl")
    shutil.rmtree(tree / "gnet")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tree)
    return tree


def main() -> int:
    """Build, and run the tests; give the exit status."""
    obstacle = runpy.run_path(str(ROOT / "setup.py"))["obstacle"]()
    if not obstacle and importlib.util.find_spec("mypyc") is None:
        obstacle = "mypy is not installed"
    if obstacle:
        print(f"test-compiled: skipped: {obstacle}", flush=True)
        return int(os.environ.get("GNET_TEST_REQUIRE_PROGRAMS") == "1")
    with tempfile.TemporaryDirectory(prefix="gnet-compiled-") as name:
        began = time.monotonic()
        tree = compiled_tree(Path(name))
        print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
        # First of all paths, in all processes that the tests start, too: before an editable install's.
        environment = os.environ | {"PYTHONPATH": str(tree)}
        run("-c", _CHECK, cwd=tree, PYTHONPATH=str(tree))
        ignored = [f"--ignore={path}" for path in _LEFT_OUT]
        given = [*_CORE, *sys.argv[2:]] if sys.argv[1:2] == ["--core"] else sys.argv[1:]
        command = [sys.executable, "-m", "tests.both_modes", *ignored, *given]
        return subprocess.run(command, cwd=tree, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
