"""Replays 3,330 strings that Nim 1.6.10's parseIpAddress and `$` were asked about.

Each row of `data/nim_ip.jsonl.gz` has the string in hex and either Nim's address (family, bytes,
text) or its error; `v148` holds what Nim 1.4.8 said where that was something else. gnet answers
the same, but for the rules in `RULES`. These are checked both ways: a difference that no rule
explains fails, and so does a string that a rule names and that does not differ.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gnet.addresses import is_ip_address, parse_ip_address

pytestmark = pytest.mark.plain_only  # no sockets

CORPUS = Path(__file__).parent / "data" / "nim_ip.jsonl.gz"


class Answer(NamedTuple):
    """What became of a string; `REFUSED` if it is no address."""

    family: int
    packed: bytes
    text: str


REFUSED = None


@dataclass(frozen=True)
class Case:
    """A string and what both versions of Nim made of it."""

    raw: bytes
    nim: Answer | None
    nim_1_4: Answer | None

    @property
    def text(self) -> str:
        """The string as Python has it where it comes from the system: os.fsdecode's way."""
        return self.raw.decode("utf-8", "surrogateescape")


def nim_answer(row: dict[str, Any]) -> Answer | None:
    return Answer(row["family"], bytes.fromhex(row["bytes"]), row["text"]) if row["ok"] else REFUSED


def load_cases() -> list[Case]:
    with gzip.open(CORPUS, "rt", encoding="ascii") as lines:
        next(lines)  # what the file is
        rows = [json.loads(line) for line in lines]
    return [
        Case(bytes.fromhex(row["in"]), nim_answer(row), nim_answer(row | row.get("v148", {}))) for row in rows
    ]


CASES = load_cases()


def gnet_answer(text: str) -> Answer | None:
    try:
        address = parse_ip_address(text)
    except ValueError:
        return REFUSED
    return Answer(address.version, address.packed, str(address))


@dataclass(frozen=True)
class Rule:
    """A difference that is meant: which strings, what gnet makes of them, and why."""

    name: str
    reason: str
    applies: Callable[[Case], bool]
    wanted: Callable[[Case], Answer | None]

    def __str__(self) -> str:
        return self.name


def groups_of(packed: bytes) -> list[str]:
    return [f"{int.from_bytes(packed[i : i + 2], 'big'):x}" for i in range(0, 16, 2)]


def has_a_long_group(case: Case) -> bool:
    return case.nim is not None and bool(re.search(rb"(^|:)[0-9A-Fa-f]{5,}(:|$)", case.raw))


def has_only_single_zero_groups(case: Case) -> bool:
    if case.nim is None or case.nim.family == 4:
        return False
    return (
        max((len(list(run)) for key, run in groupby(groups_of(case.nim.packed)) if key == "0"), default=0)
        == 1
    )


def is_ipv4_mapped(case: Case) -> bool:
    return (
        case.nim is not None and case.nim.family == 6 and case.nim.packed.startswith(bytes(10) + b"\xff\xff")
    )


def with_no_group_left_out(case: Case) -> Answer:
    assert case.nim is not None
    return case.nim._replace(text=":".join(groups_of(case.nim.packed)))


def with_a_dotted_tail(case: Case) -> Answer:
    assert case.nim is not None
    return case.nim._replace(text="::ffff:" + ".".join(str(byte) for byte in case.nim.packed[12:]))


# The first rule that applies decides.
RULES = [
    Rule(
        "an IPv6 group of more than four digits is refused",
        "RFC 4291, 2.2: a group is one to four hex digits; Nim takes any number of leading zeros",
        applies=has_a_long_group,
        wanted=lambda case: REFUSED,
    ),
    Rule(
        "a single zero group is written out",
        'RFC 5952, 4.2.2: "::" must not stand for just one group; Nim shortens it all the same',
        applies=has_only_single_zero_groups,
        wanted=with_no_group_left_out,
    ),
]
if sys.version_info >= (3, 13):
    RULES.append(
        Rule(
            "an IPv4-mapped address ends in dotted decimal",
            "RFC 5952, 5, which the stdlib follows since Python 3.13; Nim writes hex groups",
            applies=is_ipv4_mapped,
            wanted=with_a_dotted_tail,
        )
    )


def rule_for(case: Case) -> Rule | None:
    return next((rule for rule in RULES if rule.applies(case)), None)


def test_the_corpus_is_whole() -> None:
    assert len(CASES) == len({case.raw for case in CASES}) == 3330
    assert sum(case.nim is not None for case in CASES) == 1349


def test_every_string_that_no_rule_names_is_answered_as_nim_does() -> None:
    wrong = [
        f"{case.text!r}: Nim {case.nim}, gnet {answer}"
        for case in CASES
        if rule_for(case) is None and (answer := gnet_answer(case.text)) != case.nim
    ]
    assert wrong == []


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_string_that_a_rule_names_differs_from_nim_as_the_rule_says(rule: Rule) -> None:
    named = [case for case in CASES if rule_for(case) is rule]
    assert named, f"no string for this rule is left: {rule.reason}"
    for case in named:
        answer = gnet_answer(case.text)
        assert answer != case.nim, f"{case.text!r} does not differ any more"
        assert answer == rule.wanted(case), f"{case.text!r} differs in another way"


def test_leading_zeros_in_ipv4_are_refused_where_nim_1_4_took_them() -> None:
    older = [case for case in CASES if case.nim_1_4 != case.nim]
    assert len(older) == 94
    for case in older:
        assert case.nim_1_4 is not None, case.text
        assert re.search(rb"(^|[.:])0[0-9]+(\.|$)", case.raw), f"{case.text!r} has no leading zero"
        assert gnet_answer(case.text) is REFUSED, f"{case.text!r} was accepted"


def test_is_ip_address_says_what_parse_ip_address_does() -> None:
    wrong = [case.text for case in CASES if is_ip_address(case.text) != (gnet_answer(case.text) is not None)]
    assert wrong == []


def test_the_texts_of_nim_and_of_gnet_parse_back_to_the_same_address() -> None:
    for case in CASES:
        if case.nim is not None:
            assert parse_ip_address(case.nim.text).packed == case.nim.packed, case.nim.text
            own_text = str(parse_ip_address(case.nim.text))
            assert parse_ip_address(own_text).packed == case.nim.packed, own_text


def test_bytes_that_are_not_ascii_are_refused_however_they_were_decoded() -> None:
    foreign = [case for case in CASES if not case.raw.isascii()]
    assert len(foreign) > 100
    for case in foreign:
        assert gnet_answer(case.text) is REFUSED, f"{case.text!r} was accepted"
        assert gnet_answer(case.raw.decode("latin-1")) is REFUSED, f"{case.raw!r} as latin-1 was accepted"


def test_every_refusal_quotes_the_string_cut_short_and_says_what_is_expected() -> None:
    for case in CASES:
        if gnet_answer(case.text) is REFUSED:
            with pytest.raises(
                ValueError, match=r"expected IPv4 text such as .* or IPv6 text such as"
            ) as caught:
                parse_ip_address(case.text)
            message = str(caught.value)
            assert repr(case.text[:80])[:-1] in message, message
            assert len(message) < 600, message
            assert message.isprintable(), message
