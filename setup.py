"""Build wheels with the hot modules compiled (docs/compiled.md); all else is in pyproject.toml and setup.cfg.

The compiled modules are made by mypyc from the same sources, and these are in the wheel too. It is all or
nothing: where one of them can not be compiled the wheel is pure Python.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Final

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.editable_wheel import editable_wheel

# One series: another one may compile the same source to something else, or not at all.
MYPY: Final = "mypy>=2.4,<2.5"

# Beside the package, as mypyc wants it, and named after the distribution, so that no other one has it.
SHARED_LIBRARY: Final = "gnet_gevent"

# What decides is in the sources alone: no configuration of the user's or of the checkout's, and no other
# package's types, which are there in one environment and not in the next. What comes from another package
# is Any. The types are checked by `make types`; here only what mypyc needs: "Any | None", which is what
# becomes of another package's class, is nothing to complain about.
MYPY_OPTIONS: Final = [
    "--config-file=",
    "--no-site-packages",
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--disable-error-code=union-attr",
    f"--cache-dir={os.devnull}",
]


def modules() -> list[str]:
    """Give the names of the modules to compile, e.g. `gnet.buffers`."""
    pyproject = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    names: list[str] = pyproject["tool"]["gnet"]["compiled"]
    return names


def wish() -> bool | None:
    """Give what GNET_COMPILE asks for: True: compile or fail; False: do not; None: if it works."""
    text = os.environ.get("GNET_COMPILE", "")
    if text not in ("", "0", "1"):
        raise SystemExit(f"GNET_COMPILE: expected 0 (never), 1 (must) or nothing (if it works), got {text!r}")
    return None if not text else text == "1"


def obstacle() -> str:
    """Say why no module can be compiled on this machine; nothing if there is no such reason."""
    if sys.implementation.name != "cpython":
        return f"mypyc compiles for CPython, this is {sys.implementation.name}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "the compiled modules have not been tested without the GIL"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler} is not installed)"
    return ""


def extensions() -> list[Extension]:
    """Translate the modules to C; give what is to be compiled."""
    try:
        from mypyc.build import mypycify
    except ImportError as error:
        raise RuntimeError(f"{error} (it takes {MYPY})") from error
    os.environ.pop("MYPYPATH", None)
    sources = [name.replace(".", os.sep) + ".py" for name in modules()]
    try:
        found: list[Extension] = mypycify(
            MYPY_OPTIONS + sources,
            opt_level="3",
            debug_level="0",
            group_name=SHARED_LIBRARY,
            target_dir=os.path.join("build", "mypyc"),
        )
    except SystemExit as error:  # after it printed what it has against the source
        raise RuntimeError(f"mypyc gave up ({error}): see above") from error
    for extension in found:
        # It is for mypyc's developers: a new compiler with a new warning must not cost users the speed.
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
    return found


class Wheel(bdist_wheel):
    """A wheel of this machine with the compiled modules or, where they can not be had, a pure one."""

    def run(self) -> None:
        """Compile if that is wanted and possible; then make the wheel."""
        if wish() is False:
            self._use([])
        elif wish():
            self._compile()
        else:
            try:
                self._compile()
            except Exception as error:  # mypyc, setuptools and the compiler have no common kind of error
                print(
                    f"gnet: WARNING: the hot modules were not compiled: {error}. This wheel is pure Python: "
                    "it does the same and takes more CPU time. GNET_COMPILE=0 asks for just that, "
                    "GNET_COMPILE=1 makes it an error.",
                    file=sys.stderr,
                )
                self._use([])
        super().run()

    def _compile(self) -> None:
        if reason := obstacle():
            raise RuntimeError(reason)
        self._use(extensions())
        self.run_command("build_ext")  # the build of the wheel finds it done

    def _use(self, found: list[Extension]) -> None:
        """Have the wheel, its tag and the folder it is built in go by these extensions."""
        self.distribution.ext_modules = found
        self.root_is_pure = not found
        build = self.reinitialize_command("build", reinit_subcommands=True)
        build.ensure_finalized()
        # All that is in this folder goes into the wheel: nothing of an earlier build.
        shutil.rmtree(build.build_lib, ignore_errors=True)


class EditableWheel(editable_wheel):
    """An editable install is pure, unless GNET_COMPILE=1: a .so would go on to win over a changed .py."""

    def run(self) -> None:
        """Compile into the tree if that is asked for; then make the wheel that points to the tree."""
        if wish():
            if reason := obstacle():
                raise RuntimeError(reason)
            self.distribution.ext_modules = extensions()
        else:
            # What an earlier install with GNET_COMPILE=1 left would win, and lack the library it needs.
            suffix = sysconfig.get_config_var("EXT_SUFFIX")
            for name in [*modules(), f"{SHARED_LIBRARY}__mypyc"]:
                Path(name.replace(".", os.sep) + suffix).unlink(missing_ok=True)
        super().run()


if __name__ == "__main__":
    setup(
        cmdclass={"bdist_wheel": Wheel, "editable_wheel": EditableWheel},
        # What the build needs beside setuptools, asked for only where it is of use: where it can not be had
        # (mypy needs compiled packages itself), GNET_COMPILE=0 installs without it.
        setup_requires=[MYPY] if wish() is not False and not obstacle() else [],
    )
