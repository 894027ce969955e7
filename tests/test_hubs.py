"""Whether there is a hub: each in an interpreter of its own, which has none yet."""

from __future__ import annotations

import sys

import gevent.subprocess
import pytest

from tests.serving_programs import PATIENCE, ROOT

pytestmark = pytest.mark.plain_only


def run(code: str) -> tuple[str, str]:
    done = gevent.subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.stdout, done.stderr


def test_asking_for_the_hub_makes_none() -> None:
    code = """
import gevent, gnet
from gnet.hubs import hub_exists
print(hub_exists(), hub_exists())
gevent.get_hub()
print(hub_exists())
"""
    assert run(code) == ("False False\nTrue\n", "")


@pytest.mark.parametrize(
    "sabotage",
    ["del local.get_hub_if_exists", "local.get_hub_if_exists = lambda: 'no hub'"],
    ids=["gone", "other"],
)
def test_a_gevent_that_does_not_tell_is_refused_at_import(sabotage: str) -> None:
    # Parts of gevent want it, too: they come first.
    begin = "import gevent._hub_local as local, gnet, sys\ndel sys.modules['gnet.hubs']"
    errors = run(f"{begin}\n{sabotage}\nimport gnet.hubs")[1]
    assert "ImportError: gnet: gevent " in errors.splitlines()[-1]
    assert "get_hub_if_exists" in errors.splitlines()[-1]
