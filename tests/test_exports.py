"""gnet: what it exports, that each export belongs to a row with tests and is called as was decided, what
imports what, and what importing does.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import gevent
import pytest
from gevent import subprocess
from OpenSSL import SSL

import gnet
from tests.api_rows import NIM_ROWS, ROWS, TABLES
from tests.api_rows_tls import NIM_TLS_ROWS
from tests.api_signatures import FOR_OTHER_MODULES, PROPERTIES, SIGNATURES
from tests.loopback import GUARD

PACKAGE = Path(gnet.__file__).parent

# Methods with two underscores that a user meets; the others are Python's business.
OPERATORS = {"__del__", "__enter__", "__exit__", "__iand__", "__iter__", "__repr__"}


def names_of_sockets() -> set[str]:
    return {name for name in dir(gnet.Socket) if not name.startswith("_")} | OPERATORS


def names_of_contexts() -> set[str]:
    return {name for name in dir(gnet.SslContext) if not name.startswith("_")}


def names_of_gnet() -> set[str]:
    sockets = {f"Socket.{name}" for name in names_of_sockets()}
    return set(gnet.__all__) | sockets | {f"SslContext.{name}" for name in names_of_contexts()}


def names_of_rows() -> set[str]:
    return {name for row in ROWS.values() for name in row.names.split()}


def look_up(name: str) -> Any:
    """Give what a name of a row stands for."""
    owner, _, attribute = name.rpartition(".")
    return getattr(getattr(gnet, owner) if owner else gnet, attribute)


# The rows


def test_every_export_and_whatever_sockets_and_contexts_have_belongs_to_a_row() -> None:
    assert names_of_gnet() - names_of_rows() - FOR_OTHER_MODULES == set()


def test_what_is_for_other_modules_only_is_there_and_in_no_row() -> None:
    assert names_of_gnet() - names_of_rows() >= FOR_OTHER_MODULES


def test_every_name_of_a_row_is_there() -> None:
    assert names_of_rows() - names_of_gnet() == set()


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_tests_and_they_are_there(name: str) -> None:
    assert ROWS[name].tests
    for test in ROWS[name].tests:
        module, _, function = test.partition("::")
        assert function.startswith("test_"), test
        found = getattr(importlib.import_module(f"tests.{module}"), function, None)
        assert inspect.isfunction(found), test
        marks = {mark.name for mark in getattr(found, "pytestmark", [])}
        assert not marks & {"skip", "xfail"}, f"{test} proves nothing"


def test_no_row_of_nims_names_is_missing() -> None:
    # 35 rows of the table of Nim's names have nothing to do with TLS; 19 have.
    assert (len(NIM_ROWS), len(NIM_TLS_ROWS)) == (35, 19)


def test_no_row_replaces_another() -> None:
    assert sum(map(len, TABLES)) == len(ROWS)


# How they are called


def signatures() -> list[str]:
    return [" ".join(text.split()) for text in re.findall(r"\S[^()]*\((?:[^()]|\([^()]*\))*\)", SIGNATURES)]


def defaults_of(parameters: str) -> list[tuple[str, bool, str | None]]:
    """Give name, whether by keyword only, and default of each parameter as written."""
    found, by_keyword = [], False
    for parameter in filter(None, re.split(r",\s*(?![^()]*\))", parameters)):
        name, _, default = parameter.partition("=")
        if name == "*":
            by_keyword = True
        else:
            found.append((name, by_keyword, default or None))
    return found


def check_signature(text: str) -> None:
    name, _, rest = text.partition("(")
    written, thing = defaults_of(rest.removesuffix(")")), look_up(name)
    real = list(inspect.signature(thing).parameters.values())
    if inspect.isfunction(thing) and "." in name:
        del real[0]  # self
    positional = [parameter.name for parameter in real if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    asked = [parameter for parameter, by_keyword, _ in written if not by_keyword]
    assert positional[: len(asked)] == asked
    by_name = {parameter.name: parameter for parameter in real}
    for parameter, by_keyword, default in written:
        found = by_name.pop(parameter)
        assert (found.kind is found.KEYWORD_ONLY) == by_keyword, parameter
        if default is not None:
            assert found.default is not found.empty, parameter
        if default not in (None, "..."):
            assert found.default == eval(default, dict(vars(gnet))), parameter
    others = [other for other in by_name.values() if other.kind is not other.VAR_KEYWORD]
    assert [other.name for other in others if other.default is other.empty] == []


@pytest.mark.parametrize("text", signatures(), ids=lambda text: text.partition("(")[0])
def test_what_can_be_called_is_called_as_was_decided(text: str) -> None:
    check_signature(text)


def test_whatever_can_be_called_has_its_signature_checked() -> None:
    names = names_of_gnet() - FOR_OTHER_MODULES - {f"Socket.{name}" for name in OPERATORS}
    functions = {name for name in names if inspect.isroutine(look_up(name)) or name == "deadline"}
    assert {text.partition("(")[0] for text in signatures()} == functions


@pytest.mark.parametrize("name", PROPERTIES.split())
def test_what_is_no_call_is_a_property(name: str) -> None:
    assert isinstance(look_up(name), property)


@pytest.mark.parametrize(
    "wrong",
    [
        "Port(n)",
        "Port()",
        "Port(number=1)",
        "new_socket(sock_type, domain)",
        "new_socket(fd)",
        "new_socket(*, fd=1)",
        "SslContext.wrap_connected_socket(socket)",
        "SslContext.wrap_connected_socket(socket, handshake, hostname=None)",
        "dial(address, port, source=None)",
    ],
)
def test_a_wrong_signature_would_be_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_signature(wrong)


# The exports


def test_each_export_is_listed_once_and_there() -> None:
    assert sorted(gnet.__all__) == sorted(set(gnet.__all__))
    assert [name for name in gnet.__all__ if not hasattr(gnet, name)] == []


def test_the_package_shows_its_exports_and_its_modules_and_nothing_else() -> None:
    shown = {name for name in vars(gnet) if not name.startswith("_")} - {"annotations"}
    modules = {name for name in shown if isinstance(getattr(gnet, name), ModuleType)}
    assert shown - modules == set(gnet.__all__) - {"__version__"}
    assert modules <= {path.stem for path in PACKAGE.glob("*.py")} | {
        *("benchmarking", "commands", "locust", "serving", "tls")
    }


def test_the_module_of_the_exports_is_nothing_but_imports() -> None:
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    docstring, *statements, exports = body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(statement, ast.ImportFrom) for statement in statements)
    assert isinstance(exports, ast.Assign)


def test_whatever_is_exported_says_what_it_does() -> None:
    things = {name: getattr(gnet, name) for name in gnet.__all__}
    things |= {f"Socket.{name}": getattr(gnet.Socket, name) for name in names_of_sockets() - OPERATORS}
    things |= {f"SslContext.{name}": getattr(gnet.SslContext, name) for name in names_of_contexts()}
    functions = {
        name: thing for name, thing in things.items() if callable(thing) or isinstance(thing, property)
    }
    constants_of_typing = {"IpAddress", "SslClientGetPskFunc", "SslServerGetPskFunc"}
    silent = {name for name, thing in functions.items() if not (thing.__doc__ or "").strip()}
    assert silent - constants_of_typing == set()


def test_recv_line_is_read_line() -> None:
    assert gnet.Socket.recv_line is gnet.Socket.read_line


def test_a_certificate_is_bytes() -> None:
    assert gnet.Certificate is bytes


def test_the_callables_of_pre_shared_keys_have_names_for_their_types() -> None:
    assert get_args(gnet.SslClientGetPskFunc) == ([str], tuple[str | bytes, bytes])
    assert get_args(gnet.SslServerGetPskFunc) == ([str], bytes)


def test_a_context_wraps_one_of_pyopenssls_and_is_a_context_manager() -> None:
    with gnet.new_context() as context:
        assert isinstance(context, gnet.SslContext)
        assert isinstance(context.context, SSL.Context)
        assert context.context is context.context
    with pytest.raises(ValueError, match="destroyed"):
        _ = context.context


def test_there_are_no_names_in_camel_case() -> None:
    functions = [name for name in gnet.__all__ if inspect.isfunction(getattr(gnet, name)) and name != "Port"]
    assert [name for name in [*functions, *names_of_sockets()] if name != name.lower()] == []


def test_a_socket_takes_no_attributes_that_it_does_not_know() -> None:
    with gnet.new_socket() as socket, pytest.raises(AttributeError):
        socket.time_out = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_socket_is_not_duplicated(duplicate: Callable[[gnet.Socket], object]) -> None:
    # The duplicate would close the descriptor of the other one when it is dropped.
    with gnet.new_socket() as socket:
        with pytest.raises(TypeError):
            duplicate(socket)
        assert not socket.closed


# The imports between the modules


def module_of(path: Path) -> str:
    """Give a module's name within gnet, as `sockets` or `tls.psk`; `tls` is that of the package."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def modules() -> dict[str, Path]:
    return {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Give the modules of gnet that a module imports when it runs, inside functions too."""
    found = set()
    for node in ast.walk(without_type_checking(ast.parse(path.read_text()))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: a relative import"
            if node.module in ("gnet", "gnet.locust", "gnet.tls"):
                package = node.module.removeprefix("gnet").removeprefix(".")
                found |= {f"{package}.{alias.name}".removeprefix(".") for alias in node.names}
            elif node.module is not None and node.module.startswith("gnet."):
                found.add(node.module.removeprefix("gnet."))
        elif isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "gnet" for alias in node.names), path.name
    return found


def needed_by(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Give the modules that one imports, those that these import, and so on."""
    found: set[str] = set()
    rest = {module}
    while rest:
        rest = set().union(*(graph[each] for each in rest)) - found
        found |= rest
    return found


def without_type_checking(tree: ast.Module) -> ast.Module:
    def kept(node: ast.stmt) -> bool:
        return not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")

    tree.body = [node for node in tree.body if kept(node)]
    return tree


def test_the_modules_import_each_other_in_one_direction_only() -> None:
    graph = {module: imports_of(path) for module, path in modules().items()}
    order = list(TopologicalSorter(graph).static_order())  # raises if there is a cycle
    assert set(order) == set(graph)
    assert all(not {"__init__", "__main__"} & imports for imports in graph.values())


def test_tls_stands_between_the_transports_and_the_sockets() -> None:
    graph = {module: imports_of(path) for module, path in modules().items()}
    tls = {module for module in graph if module.split(".")[0] == "tls"}
    above = {module for module in graph if needed_by(module, graph) & tls} - tls
    # A report is made by a client: it belongs to the command line.
    for module in tls - {"tls.report"}:
        assert needed_by(module, graph) & above == set(), module
    assert {"handles", "sockets", "dialing"} <= above
    # Readers and writers know a transport by what it offers, and not by its kind.
    assert above & {"transports", "reading", "writing", "datagrams", "turns", "deadlines", "names"} == set()


# What importing does

IMPORT = """
import gc, os, sys

def state():
    return len(os.listdir("/proc/self/task")), set(os.listdir("/proc/self/fd"))

before = state()
import gevent, gevent.hub, gevent.monkey, socket, threading
plain = socket.socket, threading.Thread, socket.getaddrinfo
import gnet
assert state() == before, (before, state())
assert not gevent.monkey.saved, gevent.monkey.saved
assert (socket.socket, threading.Thread, socket.getaddrinfo) == plain
assert not [thing for thing in gc.get_objects() if isinstance(thing, gevent.hub.Hub)]
from OpenSSL import SSL
made = [thing for thing in gc.get_objects() if type(thing) in (SSL.Context, SSL.Connection)]
heavy = {"locust", "prometheus_client", "service_identity"} & set(sys.modules)
print(made, sorted(heavy))
"""


@pytest.mark.plain_only
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of threads and descriptors")
def test_importing_gnet_patches_nothing_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        capture_output=True,
        timeout=GUARD / 1000,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"[] []\n", b"")


def test_a_process_that_is_patched_stays_so_and_one_that_is_not_too() -> None:
    patched = dict(gevent.monkey.saved)
    with gnet.new_socket() as server:
        server.listen()
        gnet.dial("127.0.0.1", server.get_local_addr()[1]).close()
    assert gevent.monkey.saved == patched
