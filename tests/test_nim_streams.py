"""Replays 300 scripted TCP peers that Nim 1.6.10's sockets were tried on.

Each row of `data/nim_stream.jsonl.gz` has a peer's script (`peer`), the calls that the client makes
(`ops`) and what each of them gave in Nim (`nim`). Here a gnet socket makes them (`nim_driver.py`)
to such a peer (`scripted_peer.py`).

gnet differs from Nim where a `Rule` says so, and nowhere else. What it gives instead is worked out by
a model of Nim's client with a switch for each rule (`nim_model.py`), so three things are checked: the
model without rules gives Nim's answers, with all rules it gives gnet's, and each rule changes
just the cases that are listed for it below.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gevent.pool import Pool

from tests.nim_driver import Replay, replay
from tests.nim_model import GNET, NIM, Answer, Rule, answers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peer reads Linux's TCP_INFO")

CORPUS = Path(__file__).parent / "data" / "nim_stream.jsonl.gz"

# Cases played at the same time. They sleep most of their time.
AT_ONCE = 25

# The cases in which a rule makes gnet answer something else than Nim, the rules applied in their order.
# fmt: off
DIFFERENCES: dict[Rule, list[int]] = {
    Rule.MAX_LENGTH: [
        1, 2, 4, 5, 11, 12, 17, 26, 27, 29, 31, 33, 36, 38, 43, 45, 46, 47, 48, 50, 56, 59, 62, 69, 74, 75,
        77, 78, 86, 93, 97, 113, 123, 129, 131, 132, 133, 135, 137, 192, 193, 194, 195, 196, 197, 198, 199,
        200, 201, 204, 205, 207, 208, 210, 214, 215, 217, 218, 222, 230, 235, 503, 516, 527, 531, 571,
    ],
    Rule.NEGATIVE_MAX_LENGTH: [192, 195, 198, 204, 205, 217],
    Rule.NEGATIVE_TIMEOUT: [345, 346, 348, 377, 378, 379],
    Rule.TIMEOUT_0_TRIES: [333, 362],
    Rule.TIMEOUT_KEEPS: [
        333, 336, 337, 338, 339, 340, 341, 351, 352, 354, 356, 362, 365, 366, 367, 368, 369, 370, 371, 383,
        385,
    ],
    Rule.TAIL_STAYS: [5, 64, 68, 77, 108, 121],
    Rule.CR_AT_END_ENDS_LINE: [
        2, 19, 26, 32, 35, 36, 54, 81, 106, 111, 112, 118, 123, 132, 133, 135, 139, 260, 270, 274, 278, 282,
        296, 298, 306, 581, 582, 585, 588, 591, 593, 594,
    ],
    Rule.RESET_LOSES_NOTHING: [271, 295, 307, 403, 416, 426, 429],
    Rule.RESET_IS_AN_END: [305],
    Rule.ERRORS_STICK: [
        20, 27, 32, 36, 47, 48, 86, 92, 111, 118, 133, 244, 256, 270, 278, 281, 306, 327, 417, 432, 441,
    ],
    Rule.OWN_SOCKET_ERROR: [471],
    Rule.CLOSED_IS_CLOSED: [477, 478],
    Rule.UNBUFFERED_READS_ONCE: [366, 367, 369, 370, 378, 379, 390],
    Rule.READS_GROW: [189],
    Rule.SEND_RAISES: [471],
}
# fmt: on

# Tags of the corpus that name a defect of Nim's which a rule does away with.
RULE_OF_TAG = {
    "cr-at-eof-raises-errno-0": Rule.CR_AT_END_ENDS_LINE,
    "input-ends-with-cr-then-rst": Rule.CR_AT_END_ENDS_LINE,
    "recv-returns-minus-1": Rule.RESET_IS_AN_END,
    "timeout-0-never-polls": Rule.TIMEOUT_0_TRIES,
    "timeout-drops-partial-line": Rule.TIMEOUT_KEEPS,
}

Case = dict[str, Any]


def load_cases() -> list[Case]:
    with gzip.open(CORPUS, "rt", encoding="ascii") as lines:
        next(lines)  # what the file is
        return [json.loads(line) for line in lines]


CASES = load_cases()
GROUPS = Counter(case["group"] for case in CASES)


def nim_answers(case: Case) -> list[Answer]:
    """What Nim gave, without the texts of errors and what a failed call left in its `var` argument."""
    found = []
    for op, recorded in zip(case["ops"], case["nim"]["out"], strict=True):
        answer = {key: value for key, value in recorded.items() if key in ("r", "ret", "exc", "errno")}
        if op["op"] == "skip" and "exc" not in answer:
            answer["ret"] = op["size"]  # Nim's gives no number, and does not return before it is reached
        found.append(answer)
    return found


@cache
def replays(group: str) -> dict[int, Replay]:
    """Play the cases of a group over loopback; by id."""
    cases = [case for case in CASES if case["group"] == group]
    pool = Pool(AT_ONCE)
    try:
        return dict(zip((case["id"] for case in cases), pool.map(replay, cases), strict=True))
    finally:
        pool.kill()


def gnet_answers(case: Case) -> list[Answer]:
    return replays(case["group"])[case["id"]].answers


@cache
def rules_of(case_id: int) -> tuple[Rule, ...]:
    """Which rules make the difference in a case, if there is one."""
    case = next(case for case in CASES if case["id"] == case_id)
    if answers(case, NIM) == answers(case, GNET):
        return ()
    found = []
    for count, rule in enumerate(Rule):
        before, after = list(Rule)[:count], list(Rule)[: count + 1]
        if answers(case, frozenset(before)) != answers(case, frozenset(after)):
            found.append(rule)
    return tuple(found)


def unequal(case: Case, wanted: list[Answer], found: list[Answer]) -> list[str]:
    calls = zip(case["ops"], wanted, found, strict=True)
    return [f"#{case['id']} {op}: wanted {a}, got {b}" for op, a, b in calls if a != b]


@pytest.mark.plain_only
def test_the_corpus_is_whole() -> None:
    assert len(CASES) == len({case["id"] for case in CASES}) == 300
    assert sum(len(case["ops"]) for case in CASES) == 3072
    assert len(GROUPS) == 13
    assert not any(case["nim"]["hang"] or case["nim"]["rc"] for case in CASES)


@pytest.mark.plain_only
def test_the_model_without_rules_gives_the_answers_of_nim() -> None:
    wrong = [line for case in CASES for line in unequal(case, nim_answers(case), answers(case, NIM))]
    assert wrong == []


@pytest.mark.parametrize("group", GROUPS)
def test_gnet_gives_the_answers_of_the_model_with_all_rules(group: str) -> None:
    cases = [case for case in CASES if case["group"] == group]
    wrong = [line for case in cases for line in unequal(case, answers(case, GNET), gnet_answers(case))]
    assert wrong == []


@pytest.mark.parametrize("group", GROUPS)
def test_the_peer_gets_what_it_got_from_nim(group: str) -> None:
    wanted = {case["id"]: case["nim"]["peer_got"] for case in CASES if case["group"] == group}
    assert {number: played.peer_got for number, played in replays(group).items()} == wanted


def test_gnet_differs_from_nim_in_the_listed_cases_and_in_no_other() -> None:
    differing = {case["id"] for case in CASES if gnet_answers(case) != nim_answers(case)}
    assert differing == {number for listed in DIFFERENCES.values() for number in listed}


@pytest.mark.plain_only
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name)
def test_a_rule_makes_the_difference_in_the_cases_listed_for_it_and_in_no_other(rule: Rule) -> None:
    assert DIFFERENCES[rule], f"no case for this rule is left: {rule.habit}, because {rule.reason}"
    assert [case["id"] for case in CASES if rule in rules_of(case["id"])] == DIFFERENCES[rule]


@pytest.mark.plain_only
@pytest.mark.parametrize("tag", RULE_OF_TAG)
def test_a_case_that_is_tagged_with_a_defect_of_nim_is_listed_for_the_rule_that_mends_it(tag: str) -> None:
    tagged = {case["id"] for case in CASES if tag in case.get("tags", ())}
    assert tagged
    assert tagged <= set(DIFFERENCES[RULE_OF_TAG[tag]])
