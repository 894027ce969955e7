"""The wheel with compiled modules: what is in it, that it works, and that a build without a compiler does.

What the compiled modules do is tested by `make test-compiled`, with the tests of the pure ones.
"""

from __future__ import annotations

import sysconfig
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.building import build, clone, compiled_modules, run
from tests.conftest import require_program

pytestmark = [pytest.mark.plain_only, pytest.mark.timeout(300)]

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SHARED_LIBRARY = f"gnet_gevent__mypyc{SUFFIX}"
WARNING = "gnet: WARNING: the hot modules were not compiled:"

# Translated to C in a few seconds, and as good as all of them where it is not about what they do.
FEW = ["gnet.splitting", "gnet.turns"]

# Takes a compiler's arguments and writes an empty file for each output: for tests of the build alone. One
# that is new, with a warning that nobody has seen before: it must not be told to take that for an error.
FAST_COMPILER = """\
case " $* " in *" -Werror "*) exit 1;; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done
"""

# Fails at the last of the modules above, when the others are done.
FAILING_COMPILER = f"""\
case "$*" in *turns.c*) echo "turns.c:1: error: not today" >&2; exit 1;; esac
{FAST_COMPILER}"""

# Answers lines over a connection, and says what it used for that.
ECHO = """\
import sys
for name in ("mypy", "mypyc", "mypy_extensions", "librt"):
    sys.modules[name] = None
import gevent, gnet, gnet.buffers, gnet.compiling
with gnet.new_socket() as listener:
    listener.bind_addr(0, "127.0.0.1")
    listener.listen()
    def serve():
        with listener.accept() as client:
            for line in client.lines():
                client.send(line.upper() + b"\\n")
    serving = gevent.spawn(serve)
    with gnet.dial("127.0.0.1", listener.get_local_addr()[1]) as socket:
        socket.send(b"one\\ntwo\\n")
        print(socket.read_line(timeout=5000), socket.read_line(timeout=5000))
    serving.get()
print(gnet.compiling.is_compiled(), gnet.buffers.__file__)
"""


class Wheel(NamedTuple):
    path: Path
    names: set[str]
    is_pure: bool
    said: str
    """What the build printed."""


def wheel_of(tree: Path, said: str) -> Wheel:
    (path,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        is_pure = BytesParser().parsebytes(archive.read(about))["Root-Is-Purelib"] == "true"
    return Wheel(path, names, is_pure, said)


def binaries(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith((".so", ".c", ".o", ".h"))}


def assert_pure(wheel: Wheel) -> None:
    assert wheel.path.name.endswith("-py3-none-any.whl")
    assert wheel.is_pure
    assert binaries(wheel.names) == set()
    assert "gnet/buffers.py" in wheel.names


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """The wheel as a machine with a compiler builds it from the sdist: of all modules, optimised."""
    require_program("gcc")
    pytest.importorskip("mypyc")
    tree = clone(tmp_path_factory.mktemp("compiled"))
    return wheel_of(tree, build(tree, GNET_COMPILE="1"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A clone that has few modules to compile."""
    pytest.importorskip("mypyc")
    tree = clone(tmp_path)
    pyproject = tree / "pyproject.toml"
    text = pyproject.read_text()
    for name in set(compiled_modules()) - set(FEW):
        text = text.replace(f'    "{name}",\n', "", 1)
    pyproject.write_text(text)
    return tree


def compiler(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o700)
    return str(path)


def test_the_wheel_has_each_module_compiled_beside_its_source(compiled: Wheel) -> None:
    modules = {name.replace(".", "/") for name in compiled_modules()}
    assert binaries(compiled.names) == {SHARED_LIBRARY} | {f"{module}{SUFFIX}" for module in modules}
    assert {f"{module}.py" for module in modules} <= compiled.names


def test_the_wheel_is_for_this_python_and_this_kind_of_machine(compiled: Wheel) -> None:
    assert not compiled.is_pure
    python, abi, platform = compiled.path.stem.split("-")[-3:]
    assert python == abi == f"cp{sysconfig.get_config_var('py_version_nodot')}"
    assert platform == sysconfig.get_platform().replace("-", "_").replace(".", "_")


def test_the_compiled_modules_work_and_need_neither_mypy_nor_mypyc(compiled: Wheel, tmp_path: Path) -> None:
    run("-m", "pip", "install", "--no-index", "--no-deps", "--target", str(tmp_path), str(compiled.path))
    lines, used = run("-c", ECHO, cwd=tmp_path, PYTHONPATH=str(tmp_path)).splitlines()
    assert lines == "b'ONE' b'TWO'"
    assert used == f"True {tmp_path}/gnet/buffers{SUFFIX}"


def test_without_a_compiler_the_wheel_is_pure_and_the_build_says_why(small: Path) -> None:
    wheel = wheel_of(small, build(small, "--wheel", GNET_COMPILE="", CC="/nowhere/cc"))
    assert_pure(wheel)
    assert f"{WARNING} no C compiler (/nowhere/cc is not installed)" in wheel.said


def test_a_module_that_does_not_compile_leaves_none_compiled(small: Path, tmp_path: Path) -> None:
    cc = compiler(tmp_path, FAILING_COMPILER)
    wheel = wheel_of(small, build(small, "--wheel", GNET_COMPILE="", CC=cc))
    assert_pure(wheel)
    assert "building 'gnet.splitting' extension" in wheel.said
    assert "error: not today" in wheel.said
    assert wheel.said.count(WARNING) == 1


def test_a_compile_that_must_be_fails_with_what_the_compiler_says(small: Path, tmp_path: Path) -> None:
    cc = compiler(tmp_path, FAILING_COMPILER)
    assert "error: not today" in build(small, "--wheel", status=1, GNET_COMPILE="1", CC=cc)
    assert not list((small / "dist").glob("*.whl"))


def test_a_compile_that_must_be_fails_without_a_compiler(small: Path) -> None:
    said = build(small, "--wheel", status=1, GNET_COMPILE="1", CC="/nowhere/cc")
    assert "no C compiler (/nowhere/cc is not installed)" in said


def test_a_source_that_mypyc_refuses_leaves_none_compiled(small: Path, tmp_path: Path) -> None:
    with (small / "gnet" / "turns.py").open("a") as file:
        file.write("_WRONG: int = 'text'\n")
    cc = compiler(tmp_path, FAST_COMPILER)
    wheel = wheel_of(small, build(small, "--wheel", GNET_COMPILE="", CC=cc))
    assert_pure(wheel)
    assert "Incompatible types in assignment" in wheel.said
    assert WARNING in wheel.said


def test_without_mypy_the_wheel_is_pure(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mypyc.py").write_text("raise ImportError('No module named mypyc')\n")
    # Not by `build`, which would refuse: it is pip that builds without what the build asks for.
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    said = run(
        "-c", code, cwd=small, PYTHONPATH=str(tmp_path), GNET_COMPILE="", CC=compiler(tmp_path, FAST_COMPILER)
    )
    wheel = wheel_of(small, said)
    assert_pure(wheel)
    assert f"{WARNING} No module named mypyc (it takes mypy" in said


def test_the_build_asks_for_mypy_only_where_it_compiles(small: Path, tmp_path: Path) -> None:
    cc = compiler(tmp_path, FAST_COMPILER)
    code = "from setuptools import build_meta; print('needs', build_meta.get_requires_for_build_wheel())"
    assert "needs ['mypy>=" in run("-c", code, cwd=small, GNET_COMPILE="", CC=cc)
    assert "needs []" in run("-c", code, cwd=small, GNET_COMPILE="0", CC=cc)
    assert "needs []" in run("-c", code, cwd=small, GNET_COMPILE="", CC="/nowhere/cc")


def test_nothing_of_an_earlier_build_goes_into_the_wheel(small: Path, tmp_path: Path) -> None:
    for kind in ("lib", f"lib.{sysconfig.get_platform()}-{sysconfig.get_config_var('SOABI')[:11]}"):
        left = small / "build" / kind / "gnet" / f"buffers{SUFFIX}"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"")
    pure = wheel_of(small, build(small, "--wheel", GNET_COMPILE="0"))
    assert_pure(pure)
    pure.path.unlink()
    cc = compiler(tmp_path, FAST_COMPILER)
    compiled = wheel_of(small, build(small, "--wheel", GNET_COMPILE="1", CC=cc))
    assert binaries(compiled.names) == {
        SHARED_LIBRARY,
        *(f"{name.replace('.', '/')}{SUFFIX}" for name in FEW),
    }


@pytest.mark.parametrize(("wish", "is_compiled"), [("", False), ("0", False), ("1", True)])
def test_an_editable_install_is_compiled_only_when_told(
    small: Path, tmp_path: Path, wish: str, is_compiled: bool
) -> None:
    code = "from setuptools import build_meta; build_meta.build_editable('dist')"
    run("-c", code, cwd=small, GNET_COMPILE=wish, CC=compiler(tmp_path, FAST_COMPILER))
    assert any(small.rglob("*.so")) == is_compiled
    (wheel,) = (small / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl") != is_compiled


def test_a_pure_editable_install_takes_away_what_a_compiled_one_left(small: Path, tmp_path: Path) -> None:
    code = "from setuptools import build_meta; build_meta.build_editable('dist')"
    run("-c", code, cwd=small, GNET_COMPILE="1", CC=compiler(tmp_path, FAST_COMPILER))
    assert any(path.suffix == ".so" for path in small.iterdir())
    run("-c", code, cwd=small, GNET_COMPILE="")
    assert not [path for path in small.rglob("*.so") if "build" not in path.parts]


def test_another_wish_than_0_and_1_is_a_mistake(small: Path) -> None:
    assert "GNET_COMPILE: expected 0 (never), 1 (must)" in build(small, status=1, GNET_COMPILE="yes")
