"""gnet as a wheel has it, with compiled modules (docs/compiled.md): built once, kept by the sources' hash.

    PYTHONPATH=$(python -m loadtests.measuring.compiled):. python -P -m loadtests.micro

Prints the folder to put before the checkout; without a C compiler or mypy, why there is none.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from loadtests.measuring.cache import cache_folder

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


class NotCompiledError(Exception):
    """There is no compiled gnet here; the text says why."""


@functools.cache
def compiled_gnet() -> Path:
    """Give the folder that has the compiled package, building it if there is none of these sources.

    Raises:
        NotCompiledError.
    """
    try:
        version = importlib.metadata.version("mypy")
    except importlib.metadata.PackageNotFoundError:
        raise NotCompiledError("mypy is not installed") from None
    if shutil.which("cc") is None:
        raise NotCompiledError("no C compiler")
    sources = sorted((ROOT / "gnet").rglob("*.py"))
    digest = hashlib.sha256(f"{sys.version} {version}".encode())
    for path in [*sources, *(ROOT / name for name in FILES)]:
        digest.update(path.read_bytes())
    kept = cache_folder() / f"gnet-{digest.hexdigest()[:16]}"
    if not kept.exists():
        print("compiling gnet (about 20 seconds) ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
            _build(Path(name))
            (Path(name) / "package").rename(kept)
    return kept


def _build(folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir()
    shutil.copytree(ROOT / "gnet", tree / "gnet", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run(
        [*command, str(tree)], capture_output=True, text=True, env={**os.environ, "GNET_COMPILE": "1"}
    )
    if done.returncode:
        raise NotCompiledError((done.stderr or done.stdout).strip().splitlines()[-1])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "package")


if __name__ == "__main__":
    try:
        print(compiled_gnet())
    except NotCompiledError as error:
        raise SystemExit(f"no compiled gnet: {error}") from None
