"""gnet.errors: what the classes are, that they survive pickle and copy, what a disconnection is."""

from __future__ import annotations

import builtins
import copy
import errno
import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import gnet.errors
from gnet.errors import (
    BrokenSendError,
    BusyError,
    ClosedError,
    IncompleteReadError,
    InsecureWarning,
    LineTooLongError,
    SslError,
    TimeoutError,
    is_disconnection_error,
)
from gnet.options import SocketFlag

pytestmark = pytest.mark.plain_only  # no sockets

# Class, attributes with values that are not the defaults.
ERRORS: list[tuple[type[Exception], dict[str, Any]]] = [
    (TimeoutError, {"bytes_sent": 7}),
    (ClosedError, {}),
    (BusyError, {}),
    (BrokenSendError, {"bytes_sent": 4096}),
    (IncompleteReadError, {"received": 3, "expected": 10}),
    (LineTooLongError, {"limit": 65536}),
    (
        SslError,
        {
            "reason": "certificate verify failed",
            "library": "SSL routines",
            "verify_code": 10,
            "verify_message": "certificate has expired",
        },
    ),
    (InsecureWarning, {}),
]
BY_NAME = pytest.mark.parametrize(("kind", "attributes"), ERRORS, ids=[kind.__name__ for kind, _ in ERRORS])


def pickled(error: Exception, protocol: int) -> Exception:
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert isinstance(twin, Exception)
    return twin


COPIES: dict[str, Callable[[Exception], Exception]] = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle {protocol}": partial(pickled, protocol=protocol)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
}
# Number and name of what Nim 1.6.10's isDisconnectionError says yes to, of all errnos from 0 to 140.
DISCONNECTIONS_ON_LINUX = [32, 102, 104]
DISCONNECTIONS = {errno.EPIPE, errno.ENETRESET, errno.ECONNRESET}


def test_every_error_of_the_module_is_in_the_table_of_these_tests() -> None:
    classes = {value for name in gnet.errors.__all__ if isinstance(value := getattr(gnet.errors, name), type)}
    assert classes == {kind for kind, _ in ERRORS}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
@BY_NAME
def test_an_error_keeps_message_and_attributes_in_a_copy(
    kind: type[Exception], attributes: dict[str, Any], duplicate: Callable[[Exception], Exception]
) -> None:
    error = kind("recv from 192.0.2.1:80: it broke", **attributes)
    error.add_note("while saying hello")
    twin = duplicate(error)
    assert twin is not error
    assert type(twin) is kind
    assert str(twin) == "recv from 192.0.2.1:80: it broke"
    assert twin.args == error.args
    assert vars(twin) == vars(error) == attributes | {"__notes__": ["while saying hello"]}


@BY_NAME
def test_an_error_can_be_made_of_its_message_alone(kind: type[Exception], attributes: dict[str, Any]) -> None:
    error = kind("just words")
    assert str(error) == "just words"
    empty = {"expected": None, "reason": "", "library": "", "verify_message": ""}
    assert {name: getattr(error, name) for name in attributes} == {
        name: empty.get(name, 0) for name in attributes
    }


@BY_NAME
def test_attributes_are_keyword_only(kind: type[Exception], attributes: dict[str, Any]) -> None:
    error = kind("message", **attributes)
    assert {name: getattr(error, name) for name in attributes} == attributes
    if attributes:
        with pytest.raises(TypeError):
            kind("message", *attributes.values())


@pytest.mark.parametrize(
    "kind", [ClosedError, BrokenSendError, IncompleteReadError, LineTooLongError, SslError, TimeoutError]
)
def test_errors_of_the_connection_are_os_errors_without_a_number(kind: type[OSError]) -> None:
    error = kind("message")
    assert isinstance(error, OSError)
    assert error.errno is None, "the program would take it for the kernel's"
    assert not is_disconnection_error(SocketFlag.SAFE_DISCONN, error)


def test_none_of_the_connection_errors_is_caught_as_another_one() -> None:
    for kind, _ in ERRORS:
        for other, _ in ERRORS:
            assert issubclass(kind, other) == (kind is other)
        assert not issubclass(kind, ConnectionError), "the peer's doing, which these are not"


def test_a_busy_error_is_a_runtime_error_and_no_os_error() -> None:
    assert issubclass(BusyError, RuntimeError)
    assert not issubclass(BusyError, OSError)


def test_the_warning_of_a_client_that_verifies_nobody_is_the_users_and_shown_unless_filtered() -> None:
    assert issubclass(InsecureWarning, UserWarning)
    assert not issubclass(InsecureWarning, OSError)


def test_gnets_timeout_is_the_builtins_and_the_kernels_etimedout_is_not_gnets() -> None:
    assert TimeoutError is not builtins.TimeoutError
    assert issubclass(TimeoutError, builtins.TimeoutError)
    kernels = OSError(errno.ETIMEDOUT, "Connection timed out")
    assert isinstance(kernels, builtins.TimeoutError)
    assert not isinstance(kernels, TimeoutError)


# Disconnections


@pytest.mark.parametrize(
    "flags", [SocketFlag.SAFE_DISCONN, SocketFlag.SAFE_DISCONN | SocketFlag.PEEK], ids=str
)
def test_just_three_errnos_are_disconnections_when_the_flags_ask(flags: SocketFlag) -> None:
    assert {number for number in range(141) if is_disconnection_error(flags, number)} == DISCONNECTIONS
    errors = [OSError(number, "text") for number in range(141)]
    assert {error.errno for error in errors if is_disconnection_error(flags, error)} == DISCONNECTIONS


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")
def test_the_three_errnos_have_the_numbers_recorded_from_nim() -> None:
    # Recorded from Nim 1.6.10.
    flags = SocketFlag.SAFE_DISCONN
    assert [
        number for number in range(141) if is_disconnection_error(flags, number)
    ] == DISCONNECTIONS_ON_LINUX


@pytest.mark.parametrize("flags", [SocketFlag(0), SocketFlag.PEEK], ids=str)
def test_without_safe_disconn_nothing_is_a_disconnection(flags: SocketFlag) -> None:
    assert [number for number in range(141) if is_disconnection_error(flags, number)] == []
    assert not is_disconnection_error(flags, ConnectionResetError(errno.ECONNRESET, "reset"))


@pytest.mark.parametrize("error", [-1, 2**40, OSError("no number"), OSError()], ids=repr)
def test_an_error_with_an_odd_number_or_none_is_no_disconnection(error: int | OSError) -> None:
    assert is_disconnection_error(SocketFlag.SAFE_DISCONN, error) is False


@pytest.mark.parametrize("flags", [2, None, {SocketFlag.SAFE_DISCONN}, "SAFE_DISCONN"], ids=repr)
def test_flags_that_are_no_socket_flag_are_a_type_error(flags: Any) -> None:
    with pytest.raises(TypeError, match=f"flags: expected a SocketFlag, got {type(flags).__name__}"):
        is_disconnection_error(flags, errno.EPIPE)


@pytest.mark.parametrize("error", ["32", 32.0, None, ValueError("x")], ids=repr)
def test_an_error_that_is_neither_number_nor_os_error_is_a_type_error(error: Any) -> None:
    with pytest.raises(TypeError, match=f"error: expected .*, got {type(error).__name__}"):
        is_disconnection_error(SocketFlag.SAFE_DISCONN, error)
