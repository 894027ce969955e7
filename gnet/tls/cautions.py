"""Warnings: of a client that does not verify, and of a key that others can read. Each is given once."""

from __future__ import annotations

import os
import stat
import sys
import warnings

from gnet.errors import InsecureWarning

__all__ = ["warn_insecure", "warn_of_readable_key"]

_warned_insecure = False
_warned_files: set[str] = set()


def warn_insecure() -> None:
    """Warn of a client that does not verify its peer, once in a process."""
    global _warned_insecure
    if not _warned_insecure:
        _warned_insecure = True
        warnings.warn(
            "a TLS client that does not verify its peer (SslCVerifyMode.NONE): anybody can be the server",
            InsecureWarning,
            stacklevel=_stack_level_of_the_program(),
        )


def warn_of_readable_key(path: str | os.PathLike[str], what: str) -> None:
    """Warn, once for each file, of a key that others than its owner can read."""
    name = os.fspath(path)
    if name not in _warned_files and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        _warned_files.add(name)
        warnings.warn(
            f"new_context: {what} {name!r} can be read by others than its owner",
            UserWarning,
            stacklevel=_stack_level_of_the_program(),
        )


def _stack_level_of_the_program() -> int:
    """Give the `stacklevel`, for who calls this, that points out of gnet."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gnet."):
        frame = frame.f_back
        level += 1
    return level
