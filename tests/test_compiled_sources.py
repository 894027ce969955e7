"""The sources of the compiled modules keep clear of what mypyc 2.4 translates to something else."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.plain_only

ROOT = Path(__file__).resolve().parent.parent
COMPILED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["gnet"]["compiled"]
PURE = {"len", "max", "min"}  # calls that may be made twice


def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", COMPILED)
def test_a_compiled_module_sets_causes_by_because_as_the_compiler_drops_the_from(module: str) -> None:
    lines = [
        node.lineno
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Raise) and node.cause is not None
    ]
    assert lines == []


@pytest.mark.parametrize("module", COMPILED)
def test_a_compiled_module_calls_nothing_in_a_slice_as_the_compiler_calls_it_twice(module: str) -> None:
    calls = [
        f"{node.lineno}: {ast.unparse(call)}"
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Slice)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and not (isinstance(call.func, ast.Name) and call.func.id in PURE)
    ]
    assert calls == []
