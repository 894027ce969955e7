"""Fixtures of the tests of the TLS transport."""

from __future__ import annotations

import pytest

from gnet.tls import bindings


@pytest.fixture(params=["fast", "public"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: on the calls below pyOpenSSL, and on its public ones."""
    if request.param == "public":
        monkeypatch.setattr(bindings, "raw_calls_work", lambda: False)
    else:
        assert bindings.raw_calls_work(), "the fast engine does not work here: nothing to test"
