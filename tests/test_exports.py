"""gnet: what it exports, that each export belongs to a row with tests, and what importing it does."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import gevent
import pytest
from gevent import subprocess

import gnet
from tests.api_rows import NIM_ROWS, ROWS, TLS_NAMES
from tests.loopback import GUARD

PACKAGE = Path(gnet.__file__).parent

# Methods with two underscores that a user meets; the others are Python's business.
OPERATORS = {"__del__", "__enter__", "__exit__", "__iand__", "__iter__", "__repr__"}


def names_of_sockets() -> set[str]:
    return {name for name in dir(gnet.Socket) if not name.startswith("_")} | OPERATORS


def names_of_rows() -> set[str]:
    return {name for row in ROWS.values() for name in row.names.split()}


# The rows


def test_every_export_and_everything_that_a_socket_has_belongs_to_a_row() -> None:
    exported = set(gnet.__all__) | {f"Socket.{name}" for name in names_of_sockets()}
    assert exported - names_of_rows() == set()


def test_every_name_of_a_row_is_there() -> None:
    exported = set(gnet.__all__) | {f"Socket.{name}" for name in names_of_sockets()}
    assert names_of_rows() - exported == set()


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_tests_and_they_are_there(name: str) -> None:
    assert ROWS[name].tests
    for test in ROWS[name].tests:
        module, _, function = test.partition("::")
        assert function.startswith("test_"), test
        assert inspect.isfunction(getattr(importlib.import_module(f"tests.{module}"), function, None)), test


def test_the_rows_of_nim_are_those_that_need_no_tls() -> None:
    # 35 rows of the table of Nim's names have nothing to do with TLS.
    assert len(NIM_ROWS) == 35
    assert not names_of_rows() & set(TLS_NAMES.split())


@pytest.mark.parametrize("name", TLS_NAMES.split())
def test_names_that_need_tls_are_not_there_yet(name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    assert not hasattr(gnet.Socket if owner else gnet, attribute)


# The exports


def test_each_export_is_listed_once_and_there() -> None:
    assert sorted(gnet.__all__) == sorted(set(gnet.__all__))
    assert [name for name in gnet.__all__ if not hasattr(gnet, name)] == []


def test_the_package_shows_its_exports_and_its_modules_and_nothing_else() -> None:
    shown = {name for name in vars(gnet) if not name.startswith("_")} - {"annotations"}
    modules = {name for name in shown if isinstance(getattr(gnet, name), ModuleType)}
    assert shown - modules == set(gnet.__all__) - {"__version__"}
    assert modules <= {path.stem for path in PACKAGE.glob("*.py")}


def test_the_module_of_the_exports_is_nothing_but_imports() -> None:
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    docstring, *statements, exports = body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(statement, ast.ImportFrom) for statement in statements)
    assert isinstance(exports, ast.Assign)


def test_whatever_is_exported_says_what_it_does() -> None:
    things = {name: getattr(gnet, name) for name in gnet.__all__}
    things |= {f"Socket.{name}": getattr(gnet.Socket, name) for name in names_of_sockets() - OPERATORS}
    functions = {
        name: thing for name, thing in things.items() if callable(thing) or isinstance(thing, property)
    }
    constants_of_typing = {"IpAddress"}
    silent = {name for name, thing in functions.items() if not (thing.__doc__ or "").strip()}
    assert silent - constants_of_typing == set()


def test_recv_line_is_read_line() -> None:
    assert gnet.Socket.recv_line is gnet.Socket.read_line


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


def imports_of(path: Path) -> set[str]:
    """Give the modules of gnet that a module imports when it runs, inside functions too."""
    found = set()
    for node in ast.walk(without_type_checking(ast.parse(path.read_text()))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: a relative import"
            if node.module == "gnet":
                found |= {alias.name for alias in node.names}
            elif node.module is not None and node.module.startswith("gnet."):
                found.add(node.module.removeprefix("gnet."))
        elif isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "gnet" for alias in node.names), path.name
    return found


def without_type_checking(tree: ast.Module) -> ast.Module:
    def kept(node: ast.stmt) -> bool:
        return not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")

    tree.body = [node for node in tree.body if kept(node)]
    return tree


def test_the_modules_import_each_other_in_one_direction_only() -> None:
    graph = {path.stem: imports_of(path) for path in PACKAGE.glob("*.py")}
    order = list(TopologicalSorter(graph).static_order())  # raises if there is a cycle
    assert set(order) == set(graph)
    assert order[-1] == "__init__"
    assert all("__init__" not in imports for imports in graph.values())


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
heavy = {"OpenSSL", "certifi", "locust", "prometheus_client", "service_identity", "ssl"} & set(sys.modules)
"""


@pytest.mark.plain_only
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of threads and descriptors")
def test_importing_gnet_patches_nothing_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT + "print(sorted(heavy - {'ssl'}))"],
        capture_output=True,
        timeout=GUARD / 1000,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"[]\n", b"")


def test_a_process_that_is_patched_stays_so_and_one_that_is_not_too() -> None:
    patched = dict(gevent.monkey.saved)
    with gnet.new_socket() as server:
        server.listen()
        gnet.dial("127.0.0.1", server.get_local_addr()[1]).close()
    assert gevent.monkey.saved == patched
