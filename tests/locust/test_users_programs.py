"""Locust's own command with users of gnet, and what importing them does: in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import gnet
from tests.loopback import GUARD, listening

pytestmark = pytest.mark.plain_only

LOCUSTFILE: Final = """
from locust import constant, task
from gnet.locust import LineUser

class Good(LineUser):
    wait_time = constant(0.01)

    @task
    def ping(self):
        self.client.request(b"PING", expect=b"+PONG", name="ping")

class Wrong(LineUser):
    @task
    def ping(self):
        self.client.request(b"PING", expect="+PONG")
"""


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=GUARD / 1000,
        check=False,
    )


# Importing


def test_without_locust_there_is_one_clear_error() -> None:
    done = python("""
import sys
sys.modules["locust"] = None
try:
    import gnet.locust
except ImportError as error:
    print(error, error.__cause__)
""")
    assert done.stdout == "gnet.locust needs Locust: pip install 'gnet-gevent[locust]' None\n"
    assert done.stderr == ""


def test_a_locust_that_lacks_something_itself_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "locust.py").write_text("import no_such_module")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport gnet.locust"
    assert "No module named 'no_such_module'" in python(code).stderr


def test_importing_patches_the_process_and_warns_of_nothing() -> None:
    code = """
import gnet, gevent.monkey
assert not gevent.monkey.saved
import gnet.locust
print(gevent.monkey.is_module_patched("socket"))
"""
    done = python(code, "-W", "error")
    assert (done.stdout, done.stderr) == ("True\n", "")


# Locust's command


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, str]]]:
    """Status and output of a few runs at once."""
    directory = tmp_path_factory.mktemp("locust")
    locustfile = directory / "locustfile.py"
    locustfile.write_text(LOCUSTFILE)
    with listening() as probe:
        nobody = probe.get_local_addr()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "gnet", "serve", "handlers:ping", "--address", "127.0.0.1"],
        cwd=_with_handlers(directory),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        asked = {
            "good": ("Good", f"tcp://127.0.0.1:{port}"),
            "wrong expect": ("Wrong", f"tcp://127.0.0.1:{port}"),
            "wrong host": ("Good", "http://127.0.0.1"),
            "no server": ("Good", f"tcp://127.0.0.1:{nobody}"),
        }
        started = {
            name: subprocess.Popen(
                [
                    *(sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"),
                    *("-u", "2", "-r", "2", "-t", "2", "--host", host, user),
                ],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name, (user, host) in asked.items()
        }
        ended = {}
        for name, process in started.items():
            output = process.communicate(timeout=2 * GUARD / 1000)[0]
            ended[name] = (process.returncode, output)
        yield ended
    finally:
        server.terminate()
        server.communicate()


def _with_handlers(directory: Path) -> Path:
    (directory / "handlers.py").write_text(
        "def ping(client, address):\n    for _ in client.lines():\n        client.send(b'+PONG\\r\\n')\n"
    )
    return directory


def test_a_good_run_ends_with_0_and_has_its_rows(runs: dict[str, tuple[int, str]]) -> None:
    status, output = runs["good"]
    assert status == 0, output
    assert "CONNECT  127.0.0.1:" in output
    assert "LINE     ping " in output


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("wrong expect", "expect: expected bytes, got str '+PONG'; encode it"),
        ("wrong host", "Good: host 'http://127.0.0.1': there is no http; expected tcp://HOST:PORT"),
    ],
)
def test_a_mistake_is_one_message_and_status_1(
    runs: dict[str, tuple[int, str]], run: str, message: str
) -> None:
    status, output = runs[run]
    assert status == 1, output
    assert output.count(message) == 1, output
    assert "Traceback" not in output


def test_a_server_that_is_not_there_is_a_row_of_failures_and_status_1(
    runs: dict[str, tuple[int, str]],
) -> None:
    status, output = runs["no server"]
    assert status == 1, output
    assert "Connection refused" in output
    assert "Traceback" not in output
    assert "LINE" not in output


def test_gnet_itself_imports_no_locust() -> None:
    assert python("import sys, gnet; print('locust' in sys.modules)").stdout == "False\n"
    assert not hasattr(gnet, "LineUser")
