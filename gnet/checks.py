"""Checks of arguments, and ways to show values in messages, that several modules have; with one wording."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["check_c_int", "check_int", "check_size", "check_unix_path", "printable", "shown"]

# sun_path holds 108 bytes; a path needs one of them for its NUL, an abstract name begins with it.
_LONGEST_PATH: Final = 107
_LONGEST_ABSTRACT: Final = 108


def check_int(value: object, what: str) -> int:
    """Check that an argument is an `int` (and no `bool`).

    Args:
        what: the call and the argument, e.g. `listen: backlog`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"{what}: expected an int, got {type(value).__name__}")


def shown(number: int) -> str:
    """Give a number for a message; not its digits where they are many: Python refuses from 4,300 on."""
    return str(number) if number.bit_length() <= 256 else f"a number of {number.bit_length()} bits"


def printable(text: str, keep: str = "") -> str:
    """Escape what could do something to a terminal or forge a line of a log: peers choose texts, too.

    Args:
        keep: characters that stay although they are not printable.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def check_c_int(value: object, what: str) -> int:
    """Check that an argument is an `int` that fits a C int."""
    number = check_int(value, what)
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{what}: {shown(number)} does not fit what is expected, a C int")
    return number


def check_size(value: object, what: str) -> int:
    """Check that an argument is a number of bytes: an `int` from 0 to what memory can address."""
    size = check_int(value, what)
    if size < 0:
        raise ValueError(f"{what}: expected at least 0, got {shown(size)}")
    if size > sys.maxsize:
        raise ValueError(f"{what}: expected at most {sys.maxsize}, got {shown(size)}")
    return size


def check_unix_path(path: object, what: str) -> bytes:
    """Check the path, or the abstract name (`"\\0name"`), of a Unix socket; give it as the system has it.

    Args:
        what: what the path is for, for messages: a call or an argument.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"{what}: expected a path as str, bytes or PathLike, got {type(path).__name__}")
    name = os.fsencode(path)
    abstract = name.startswith(b"\0")
    limit = _LONGEST_ABSTRACT if abstract else _LONGEST_PATH
    if len(name) > limit:
        raise ValueError(f"{what}: path of {len(name)} bytes (limit {limit}): {name[:40]!r}...")
    if not abstract and b"\0" in name:
        raise ValueError(f"{what}: the path {name!r} has a NUL in it")
    return name
