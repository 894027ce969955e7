"""Checks of arguments that several modules make, with one wording."""

from __future__ import annotations

import sys

__all__ = ["check_c_int", "check_int", "check_size", "shown"]


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
