"""docs/load-testing.md and the Locust examples are true: their users run, in Locust processes of their own.

Each Python block of the document has a comment before it. `<!-- locustfile -->`: its users, with those of all
other such blocks, run in one test without a failure. `<!-- server -->`: what they talk to. `<!-- before -->`
and `<!-- after -->`: what the document says of them is counted. `<!-- run -->`: a whole program.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
import trustme
from gevent import subprocess

import gnet
from tests.example_programs import EXAMPLES, Server
from tests.locust.locust_processes import PATIENCE, ROOT, run
from tests.test_examples import redis_port  # noqa: F401  # a fixture

pytestmark = pytest.mark.plain_only

DOCUMENT: Final = ROOT / "docs" / "load-testing.md"
TEXT: Final = DOCUMENT.read_text(encoding="utf-8")
CHATTERS: Final = 10


@dataclass
class Run:
    """What came of a run of Locust."""

    status: int
    output: str
    rows: dict[tuple[str, str], dict[str, Any]]
    """Those of --gnet-figures, by type and name."""
    failures: list[dict[str, Any]]
    mails: list[dict[str, Any]] = field(default_factory=list)
    """What the mail server got."""
    said: list[bytes] = field(default_factory=list)
    """What another client of the chat has heard."""

    def requests(self, kind: str, name: str) -> int:
        return int(self.rows[kind, name]["requests"])


def blocks(mark: str) -> list[str]:
    return re.findall(rf"^<!-- {mark} -->\n```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def run_users(folder: Path, locustfile: str, users: int, *arguments: object) -> Run:
    """Run the users of a locustfile, with warnings as errors."""
    figures = folder / "figures.json"
    options = ["--only-summary", "--stop-timeout", 10, "--gnet-figures", figures, *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error")
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        status, output = run(folder, *options, "-u", users, "-r", users, locustfile=locustfile)
    assert figures.exists(), output
    found = json.loads(figures.read_text())
    rows = {(row["type"], row["name"]): row for row in found["rows"]}
    return Run(status, output, rows, found["failures"])


def run_mail_and_chat(
    folder: Path, code: str, mail: Server, chat: Server, users: int, *arguments: object
) -> Run:
    """Run five senders of mail and ten users of the chat that speak often, beside the users in `code`."""
    changes = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
from locust import between
from locust_chat import ChatUser
from locust_smtp import MailUser

MailUser.host = "tcp://localhost:{mail.port}"
MailUser.fixed_count = 5
ChatUser.host = "tcp://127.0.0.1:{chat.port}"
ChatUser.fixed_count = {CHATTERS}
ChatUser.wait_time = between(0.05, 0.1)
ChatUser.timeout = 500
"""
    with chat.connect() as client:
        client.settimeout(None)
        mails, said = (gevent.spawn(list, lines) for lines in (mail.process.stdout, client.makefile("rb")))
        done = run_users(folder, code + changes, 5 + CHATTERS + users, *arguments)
        mail.process.terminate()
        chat.process.terminate()
        done.mails = [json.loads(line) for line in mails.get(timeout=PATIENCE)]
        done.said = [line for line in said.get(timeout=PATIENCE) if line.endswith(b" hello, all\r\n")]
    return done


def new_certificate(folder: Path) -> Path:
    """Make an authority, `ca.pem`; give the file with a certificate of localhost and its key."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pair = folder / "server.pem"
    pair.touch(mode=0o600)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pair)
    return pair


# The document


def test_every_python_block_of_the_document_says_how_it_is_checked() -> None:
    marks = ("server", "locustfile", "run", "before", "after")
    assert sum(len(blocks(mark)) for mark in marks) == TEXT.count("```python") > 10


def echo_frames(client: gnet.Socket, address: str) -> None:
    """Answer each frame with itself."""
    while client.peek(1):
        size = int.from_bytes(client.recv_exactly(4))
        client.send(size.to_bytes(4) + client.recv_exactly(size))


def test_all_users_of_the_document_run_without_a_failure(tmp_path: Path) -> None:
    pair = new_certificate(tmp_path)
    app: dict[str, Any] = {}
    exec(blocks("server")[0], app)
    names = re.findall(r"""name="([^"]+)["]""", "".join(blocks("locustfile")))
    with ExitStack() as stack:
        lines = stack.enter_context(gnet.Server(app["answer"], "127.0.0.1"))
        context = gnet.new_context(cert_file=str(pair), key_file=str(pair))
        over_tls = stack.enter_context(gnet.Server(app["answer"], "localhost", ssl_context=context))
        frames = stack.enter_context(gnet.Server(echo_frames, "127.0.0.1"))
        datagrams = stack.enter_context(closing(Server("udp_echo.py", "serve")))
        code = "\n".join(blocks("locustfile"))
        servers = {7000: lines, 7443: over_tls, 7002: frames, 7001: datagrams}
        for written, server in servers.items():
            assert f":{written}" in code
            code = code.replace(f":{written}", f":{server.port}")
        users = len(re.findall(r"^class \w+\(\w+User\):", code, re.MULTILINE))
        done = run_users(tmp_path, code, users, "-t", 3)
    assert (done.status, done.failures) == (0, []), done.output
    counted = {name for kind, name in done.rows if kind not in ("CONNECT", "TLS")}
    assert counted == {*names, "PING"}
    assert {kind for kind, _ in done.rows} == {"CONNECT", "TLS", "LINE", "UDP", "FRAME", "RAW", "STREAM"}


@pytest.mark.parametrize("block", blocks("run"))
def test_the_program_of_the_document_runs(block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_option_in_the_commands_of_the_document_is_there() -> None:
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    locusts = "\n".join(re.findall(r"^locust .*", commands, re.MULTILINE))
    written = set(re.findall(r" (--?[a-z][a-z-]*)", locusts))
    command = [sys.executable, "-m", "locust", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    there = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", done.stdout))
    # Locust's help is made before it has read the locustfile, and so before gnet has added its options.
    sources = "".join(path.read_text() for path in (ROOT / "gnet" / "locust").glob("*.py"))
    there |= set(re.findall(r'"(--gnet-[a-z]+)"', sources))
    assert len(written) > 12
    assert written - there == set(), done.stdout + done.stderr


# Before and after


def misbehave(client: gnet.Socket, address: str) -> None:
    """Answer a request at once, the next one in two parts, and then none."""
    for number, _ in enumerate(client.lines()):
        if number == 0:
            client.send(b"+PONG\r\n")
        elif number == 1:
            client.send(b"+PO")
            client.flush()
            gevent.sleep(0.15)  # far from the timeout, and long for a process that has no turn
            client.send(b"NG\r\n")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What came of two users each, before and after, at such a server; of mail, and of a chat with losses."""
    folder = tmp_path_factory.mktemp("locust")
    code = "\n".join(blocks("before") + blocks("after"))
    assert code.count("7000") == 2
    code = code.replace("User):\n", "User):\n    fixed_count = 2\n")
    forget = "None if line.endswith(b'-49 hello, all') else say(self, line, speaker)"
    change = f"say = program.Room.say; program.Room.say = lambda self, line, speaker: {forget}"
    with (
        gnet.Server(misbehave, "127.0.0.1") as server,
        closing(Server("smtp_sink.py")) as mail,
        closing(Server("chat_server.py", change=change)) as chat,
    ):
        code = code.replace("7000", str(server.port))
        return run_mail_and_chat(folder, code, mail, chat, 4, "-t", 3)


def test_raw_sockets_count_timeouts_as_success_lose_bytes_and_users(bad: Run) -> None:
    assert [name for kind, name in bad.rows if kind == "TCP"] == ["ping"]
    row = bad.rows["TCP", "ping"]
    assert (row["requests"], row["failures"]) == (8, 4)  # four for each user, which then was gone
    assert row["max_ms"] >= 500  # of one that went well
    assert "AssertionError" in {each["error"].partition("(")[0] for each in bad.failures}
    assert bad.output.count("gevent.timeout.Timeout: 0.5 seconds") == bad.output.count("Traceback") == 2


def test_a_line_user_counts_each_timeout_and_goes_on(bad: Run) -> None:
    ping = bad.rows["LINE", "ping"]
    assert 2 < ping["failures"] <= ping["requests"] / 2  # each user more than once: it connected anew
    (error,) = [each["error"] for each in bad.failures if (each["method"], each["name"]) == ("LINE", "ping")]
    assert "no answer within 500 ms" in error


# The examples


def test_locust_redis_agrees_with_the_count_of_redis(tmp_path: Path, redis_port: int) -> None:  # noqa: F811
    code = (EXAMPLES / "locust_redis.py").read_text()
    done = run_users(tmp_path, code, 10, "-t", 2, "--host", f"tcp://127.0.0.1:{redis_port}")
    assert (done.status, done.failures) == (0, []), done.output
    with gnet.dial("127.0.0.1", redis_port) as client:
        client.send(b"INFO commandstats\r\n")
        size = int(client.read_line(timeout=PATIENCE * 1000)[1:])
        text = client.recv_exactly(size, timeout=PATIENCE * 1000).decode()
    calls = {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", text)}
    asked = {name.lower(): done.requests("LINE", name) for name in ("GET", "SET", "PING", "pipeline")}
    assert min(asked.values()) > 10
    half = asked.pop("pipeline") / 2
    assert asked == {"get": calls["get"] - half, "set": calls["set"] - half, "ping": calls["ping"]}
    assert done.requests("CONNECT", f"127.0.0.1:{redis_port}") == 10


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What came of mail with STARTTLS and of the chat."""
    folder = tmp_path_factory.mktemp("locust")
    pair = new_certificate(folder)
    with (
        closing(Server("smtp_sink.py", "--tls-cert", pair)) as mail,
        closing(Server("chat_server.py")) as chat,
    ):
        return run_mail_and_chat(folder, "", mail, chat, 0, "-t", 2)


def test_mail_and_chat_end_with_0_and_no_failure(good: Run) -> None:
    assert (good.status, good.failures) == (0, []), good.output


def test_locust_smtp_sends_each_mail_that_it_counts(good: Run, bad: Run) -> None:
    for done, offers_tls in ((good, True), (bad, False)):
        count = done.requests("LINE", "message")
        assert count == len(done.mails) > 10
        assert {mail["tls"] for mail in done.mails} == {offers_tls}
        assert {mail["message"].splitlines()[-1] for mail in done.mails} == {".starts with a dot"}


def test_locust_smtp_begins_tls_where_it_is_offered(good: Run, bad: Run) -> None:
    greetings = good.requests("LINE", "greeting")
    assert greetings == good.requests("LINE", "handshake") == good.requests("LINE", "EHLO") / 2
    assert ("LINE", "handshake") not in bad.rows
    assert bad.requests("LINE", "greeting") == bad.requests("LINE", "EHLO")


def test_locust_chat_counts_what_each_of_the_others_gets(good: Run) -> None:
    most = (CHATTERS - 1) * len(good.said)
    assert len(good.said) > 3 * CHATTERS
    # The first lines are not expected by those who may not be in the room yet, nor the last ones by those who
    # are stopped before.
    assert 0.6 * most <= good.requests("STREAM", "delivery") <= most


def test_locust_chat_counts_what_is_lost(bad: Run) -> None:
    # One line, to each of the others.
    (lost,) = [each for each in bad.failures if each["method"] == "STREAM"]
    assert 1 <= lost["occurrences"] <= CHATTERS - 1
    assert "lost: nothing within 500 ms" in lost["error"]
