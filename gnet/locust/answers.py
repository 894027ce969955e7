"""Whether an answer is the right one: `expect`, as bytes, a pattern or a callable; and the errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = [
    "Expect",
    "UnexpectedDataError",
    "WrongAnswerError",
    "check_expect",
    "forget_texts",
    "judge",
    "limited",
    "shown_bytes",
]

Expect = bytes | re.Pattern[bytes] | Callable[[bytes], object] | None
"""The whole answer; a compiled pattern that matches all of it; or a callable that gives true for it."""

# Bytes of an answer in a message.
_SHOWN: Final = 60

# Locust keeps a row for each text of a failure, and workers send all of them to the master: a server that
# puts a number or the time into its errors would fill the memory in a test of some hours.
_MOST_TEXTS: Final = 100

_texts: Final[dict[str, set[str]]] = {}  # the texts that were given, by what stands for all others


class WrongAnswerError(Exception):
    """The server answered, but not what `expect` asked for."""


class UnexpectedDataError(Exception):
    """More came than was asked for: it would be taken for the next answer."""


def check_expect(expect: object) -> None:
    """Check the type of `expect`.

    Raises:
        TypeError: none of those that `Expect` allows.
    """
    if expect is None or isinstance(expect, bytes) or callable(expect):
        return
    if isinstance(expect, re.Pattern):
        if isinstance(expect.pattern, bytes):
            return
        raise TypeError(f"expect: the pattern {expect.pattern[:20]!r} is of str; compile one of bytes")
    if isinstance(expect, str):
        raise TypeError(f"expect: expected bytes, got str {expect[:20]!r}; encode it, e.g. .encode()")
    raise TypeError(
        f"expect: expected bytes, a compiled pattern of bytes or a callable, got {type(expect).__name__}"
    )


def judge(expect: Expect, answer: bytes) -> Exception | None:
    """Give the error of an answer; `None` if it is right."""
    if expect is None or answer == expect:
        return None
    if isinstance(expect, bytes):
        wrong = f"expected {shown_bytes(expect)}, got {shown_bytes(answer)}"
    elif isinstance(expect, re.Pattern):
        if expect.fullmatch(answer) is not None:
            return None
        wrong = f"expected a match of {shown_bytes(expect.pattern)}, got {shown_bytes(answer)}"
    elif expect(answer):
        return None
    else:
        name = getattr(expect, "__name__", type(expect).__name__)
        wrong = f"{name} does not accept {shown_bytes(answer)}"
    return WrongAnswerError(limited(wrong, "not the answer that was expected"))


def limited(text: str, instead: str) -> str:
    """Give the text of a failure, which has something of the server's in it; from the 101st on, `instead`.

    Args:
        instead: the same for all of a kind.
    """
    texts = _texts.setdefault(instead, set())
    if text not in texts:
        if len(texts) >= _MOST_TEXTS:
            return f"{instead} ({_MOST_TEXTS} others are shown in full)"
        texts.add(text)
    return text


def forget_texts() -> None:
    """Begin anew to count different texts, for a new test."""
    _texts.clear()


def shown_bytes(data: bytes) -> str:
    """Give bytes for a message: escaped, and cut where they are many."""
    if len(data) <= _SHOWN:
        return repr(data)
    return f"{data[:_SHOWN]!r}… ({len(data)} bytes)"
