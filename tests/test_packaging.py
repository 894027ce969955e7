"""The wheel and the source distribution: built here, unpacked, and looked at as a user gets them.

The wheel with compiled modules is in test_compiled.py.
"""

from __future__ import annotations

import configparser
import re
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from gnet import __version__
from tests.building import ROOT, build, clone, run
from tests.conftest import DEBIAN_PACKAGES

pytestmark = pytest.mark.plain_only

# One key, two spellings: what setup.cfg calls a thing, and where pyproject.toml would have it.
TWINS = {
    "metadata": {
        "author": "project.authors",
        "author_email": "project.authors",
        "keywords": "project.keywords",
        "license_files": "project.license-files",
        "long_description": "project.readme",
        "project_urls": "project.urls",
        "url": "project.urls",
        "version": "tool.setuptools.dynamic.version",
    },
    "options": {
        "install_requires": "project.dependencies",
        "python_requires": "project.requires-python",
    },
    "options.entry_points": {"console_scripts": "project.scripts"},
}
TWIN_SECTIONS = {
    "metadata": "project",
    "options": "tool.setuptools",
    "options.extras_require": "project.optional-dependencies",
    "options.entry_points": "project.entry-points",
    "tool:pytest": "tool.pytest.ini-options",
}


class Built(NamedTuple):
    """The two files, as the names in them (the sdist's without its top folder) and their paths."""

    wheel: Path
    wheel_names: set[str]
    sdist_names: set[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tree = clone(tmp_path_factory.mktemp("clone"))
    build(tree, GNET_COMPILE="0")
    (wheel,) = (tree / "dist").glob("*.whl")
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        wheel_names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata_name,) = (name for name in wheel_names if name.endswith(".dist-info/METADATA"))
        metadata = BytesParser().parsebytes(archive.read(metadata_name))
    with tarfile.open(sdist) as tar:
        sdist_names = {member.name.partition("/")[2] for member in tar if member.isfile()}
    return Built(wheel, wheel_names, sdist_names, metadata)


def files_below(folder: str) -> set[str]:
    """Give the sources under a folder of the project, as paths from its root; at least one."""
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".so")
    }
    assert found, f"nothing in {folder}"
    return found


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    outside = {name for name in built.wheel_names if ".dist-info/" not in name}
    assert outside == files_below("gnet")
    assert "gnet/py.typed" in outside
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built.wheel_names)


@pytest.mark.parametrize("folder", ["gnet", "tests", "examples", "loadtests", "docs"])
def test_the_sdist_holds_every_source(built: Built, folder: str) -> None:
    assert files_below(folder) - built.sdist_names == set()


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci/run", "setup.cfg", "setup.py"]
)
def test_the_sdist_holds_what_the_project_is_worked_on_with(built: Built, name: str) -> None:
    assert name in built.sdist_names


def test_the_metadata_says_what_the_project_says(built: Built) -> None:
    assert built.metadata["Name"] == "gnet-gevent"
    assert built.metadata["Version"] == __version__
    assert built.metadata["Requires-Python"] == ">=3.11"
    assert built.metadata["License-Expression"] == "MIT"
    payload = built.metadata.get_payload(decode=True)  # bytes: what is not ASCII comes as 8 bits
    assert payload == (ROOT / "README.md").read_bytes()


def test_the_run_time_needs_four_packages_each_with_a_lower_bound_only(built: Built) -> None:
    needs = [Requirement(text) for text in built.metadata.get_all("Requires-Dist", [])]
    run_time = {need.name.lower(): need for need in needs if need.marker is None}
    assert set(run_time) == {"gevent", "pyopenssl", "certifi", "service-identity"}
    assert [str(need.specifier)[:2] for need in run_time.values()] == [">="] * 4
    assert all("," not in str(need.specifier) for need in run_time.values())


def test_the_extras_are_there_and_bring_what_they_are_for(built: Built) -> None:
    needs = [Requirement(text) for text in built.metadata.get_all("Requires-Dist", [])]
    extras = {
        extra: {need.name for need in needs if need.marker and need.marker.evaluate({"extra": extra})}
        for extra in built.metadata.get_all("Provides-Extra", [])
    }
    assert set(extras) == {"locust", "metrics", "bench", "test", "dev"}
    assert extras["locust"] == {"locust"}
    assert extras["metrics"] == {"prometheus-client"}
    assert extras["bench"] == {"matplotlib", "trio", "uvloop"}
    assert {"pytest", "pytest-timeout", "hypothesis", "trustme"} <= extras["test"]
    assert {"mypy", "ruff"} <= extras["dev"]


def test_the_wheel_without_compiled_modules_is_for_every_machine(built: Built) -> None:
    assert built.wheel.name.endswith("-py3-none-any.whl")


def test_the_installed_wheel_imports_and_knows_its_version(built: Built, tmp_path: Path) -> None:
    run("-m", "pip", "install", "--no-index", "--no-deps", "--target", str(tmp_path), str(built.wheel))
    code = "import gnet; print(gnet.__version__, gnet.__file__)"
    printed = run("-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}", cwd=tmp_path)
    assert printed.split() == [__version__, str(tmp_path / "gnet" / "__init__.py")]


def test_no_key_stands_in_both_setup_cfg_and_pyproject() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(ROOT / "setup.cfg")
    assert set(keys_in_pyproject_terms(setup_cfg)) & set(flat_keys(pyproject)) == set()


def test_a_key_that_stands_in_both_is_found() -> None:
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read_string(
        "[options]\npython_requires = >=3.11\n[metadata]\nname = x\n[tool:pytest]\nxfail_strict = 1\n"
    )
    tools = {"pytest": {"ini_options": {"timeout": 60}}}
    pyproject = {"project": {"name": "x", "requires-python": ">=3.11"}, "tool": tools}
    both = set(keys_in_pyproject_terms(setup_cfg)) & set(flat_keys(pyproject))
    assert both == {"project.name", "project.requires-python", "tool.pytest.ini-options"}


def test_ci_installs_every_program_that_tests_ask_for() -> None:
    pairs = dict(re.findall(r"([\w-]+)=([\w-]+)(?=[ \n])", needed_in_ci()))
    asked = set()
    for path in (ROOT / "tests").rglob("*.py"):
        asked |= set(re.findall(r"(?:require|needs)_program\(\"([\w-]+)\"", path.read_text()))
    assert {"nginx", "openssl", "redis-server", "strace"} <= asked
    assert asked - set(DEBIAN_PACKAGES) == set()
    assert {program: pairs.get(program) for program in asked} == {
        program: DEBIAN_PACKAGES[program] for program in asked
    }


def needed_in_ci() -> str:
    """Give the part of `.ci/run` that lists programs and their packages."""
    _, _, rest = (ROOT / ".ci" / "run").read_text().partition("\nneeded=(\n")
    return rest.partition("\n)")[0] + "\n"


def keys_in_pyproject_terms(setup_cfg: configparser.ConfigParser) -> list[str]:
    """Give each key of setup.cfg as the dotted key that pyproject.toml would have for the same thing.

    A section counts as a key too, so that no tool has its settings in two files; only what describes the
    project itself may stand in both, key by key.
    """
    keys = []
    for section in setup_cfg.sections():
        if section in TWIN_SECTIONS:
            target = TWIN_SECTIONS[section]
        elif section.startswith("options."):
            target = "tool.setuptools." + section.removeprefix("options.").replace("_", "-")
        else:
            target = "tool." + section.removeprefix("tool:")
        if target not in ("project", "tool.setuptools"):
            keys.append(target)
        for key in setup_cfg[section]:
            keys.append(TWINS.get(section, {}).get(key, f"{target}.{key.replace('_', '-')}"))
    return keys


def flat_keys(table: dict[str, object], before: str = "") -> list[str]:
    """Give the dotted key of every value and every table below `table`."""
    keys = []
    for key, value in table.items():
        name = f"{before}{key}".replace("_", "-")
        keys.append(name)
        if isinstance(value, dict):
            keys += flat_keys(value, f"{name}.")
    return keys
