"""docs/scaling.md: real HAProxy and nginx in front of gnet servers, with the files of docs/configs.

The balancers take over a listening socket of the test's, HAProxy as `fd@N` and nginx as from a predecessor:
so there is no port for others to take, and who connects before they run waits in the kernel.
"""

from __future__ import annotations

import os
import re
import signal
import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from gevent import socket
from gevent.event import Event

import gnet
from gnet.server import Server
from tests.conftest import require_program
from tests.faults.peers import wait_until
from tests.server.peers import answer_lines, connect, receive_all, serving, silent_logs
from tests.server.talking import context
from tests.serving_programs import PATIENCE, ROOT, Program, gate, gnet_serve
from tests.tls_transport import keys

pytestmark = pytest.mark.plain_only  # the balancers and the servers that drain are processes of their own

CONFIGS: Final = ROOT / "docs" / "configs"
SCALING: Final = ROOT / "docs" / "scaling.md"
STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")

# What a test changes in a configuration: old text, new text.
Changes = tuple[tuple[str, str], ...]

V1: Final[Changes] = (("send-proxy-v2", "send-proxy"),)
CHECKSUM: Final[Changes] = (("send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"),)
FAST_CHECKS: Final[Changes] = (("inter 1s", "inter 20ms"),)
SLOW_CHECKS: Final[Changes] = (("inter 1s", "inter 1h"),)
QUESTIONS: Final[Changes] = (("#option tcp-check", "option tcp-check"), ("#tcp-check", "tcp-check"))


class Balancer(NamedTuple):
    """A balancer that runs."""

    address: tuple[str, int]
    program: Program


def changed(text: str, changes: Changes) -> str:
    """Change a configuration; each change must have something to do."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def haproxy(
    folder: Path, first: str, second: str, changes: Changes = (), host: str = "127.0.0.1"
) -> Iterator[Balancer]:
    """HAProxy with docs/configs/haproxy.cfg, which takes its addresses from the environment."""
    program = require_program("haproxy")
    config = folder / "haproxy.cfg"
    config.write_text(changed((CONFIGS / "haproxy.cfg").read_text(), changes))
    with listening(host) as listener:
        descriptor = listener.fileno()
        env = {"LISTEN": f"fd@{descriptor}", "FIRST": first, "SECOND": second}
        command = [program, "-db", "-f", config]
        with Program(command, env=env, pass_fds=[descriptor]) as process:
            yield Balancer(listener.getsockname()[:2], process)


@contextmanager
def nginx(
    folder: Path, first: str, second: str, changes: Changes = (), host: str = "127.0.0.1"
) -> Iterator[Balancer]:
    """nginx with docs/configs/nginx.conf."""
    program = require_program("nginx")
    require_stream_module()
    with listening(host) as listener:
        descriptor = listener.fileno()
        port = listener.getsockname()[1]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        text = changed((CONFIGS / "nginx.conf").read_text(), changes)
        config = folder / "nginx.conf"
        config.write_text(string.Template(text).substitute(LISTEN=place, FIRST=first, SECOND=second))
        settings = f"daemon off; pid {folder}/pid; error_log stderr notice;"
        command = [program, "-p", folder, "-e", "stderr", "-c", config, "-g", settings]
        with Program(command, env={"NGINX": f"{descriptor};"}, pass_fds=[descriptor]) as process:
            yield Balancer(listener.getsockname()[:2], process)


@contextmanager
def listening(host: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen(128)
        yield listener


def require_stream_module() -> None:
    """Where nginx has no module for streams, skip the test, or fail it as `require_program` would."""
    if not STREAM_MODULE.exists():
        message = f"{STREAM_MODULE} is not installed (Debian package libnginx-mod-stream)"
        if os.environ.get("GNET_TEST_REQUIRE_PROGRAMS") == "1":
            pytest.fail(message, False)
        pytest.skip(message)


def place(server: Server) -> str:
    return f"{server.address}:{server.port}"


def tell_address(client: gnet.Socket, address: str) -> None:
    """Answer each line with the client's address."""
    for _ in client.lines():
        client.send(address.encode() + b"\n")


def ask(balancer: Balancer, source: str = "") -> bytes:
    """Send a line through the balancer, end the stream, and give all that comes back."""
    with connect(balancer.address, source=source) as client:
        client.sendall(b"hello\n")
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)


Front = Callable[..., Any]

# What stands in front, the version of its header, and what the test changes in the configuration.
FRONTS: Final = {
    "haproxy-v2": (haproxy, "v2", ()),
    "haproxy-v2-with-checksum": (haproxy, "v2", CHECKSUM),
    "haproxy-v1": (haproxy, "v1", V1),
    "nginx-v1": (nginx, "v1", ()),
}
fronts: Final = pytest.mark.parametrize(("front", "version", "changes"), FRONTS.values(), ids=FRONTS)
both: Final = pytest.mark.parametrize(("front", "version"), [(haproxy, "v2"), (nginx, "v1")])


# The client's address


@fronts
def test_the_handler_sees_the_clients_address(
    front: Front, version: Any, changes: Changes, tmp_path: Path
) -> None:
    with (
        serving(tell_address, proxy_protocol=version, proxy_trusted=LOOPBACK) as server,
        front(tmp_path, place(server), place(server), changes) as balancer,
    ):
        for number in range(2, 12):
            source = f"127.0.0.{number}"
            assert ask(balancer, source) == source.encode() + b"\n"
        assert server._terms.statistics.proxy_failures == 0


@fronts
def test_any_takes_what_the_balancer_sends(
    front: Front, version: Any, changes: Changes, tmp_path: Path
) -> None:
    with (
        serving(tell_address, proxy_protocol="any", proxy_trusted=LOOPBACK) as server,
        front(tmp_path, place(server), place(server), changes) as balancer,
    ):
        assert ask(balancer, "127.0.0.7") == b"127.0.0.7\n"


@fronts
def test_the_handler_sees_an_ipv6_clients_address(
    front: Front, version: Any, changes: Changes, tmp_path: Path
) -> None:
    with (
        serving(tell_address, proxy_protocol=version, proxy_trusted=LOOPBACK) as server,
        front(tmp_path, place(server), place(server), changes, host="::1") as balancer,
    ):
        assert ask(balancer) == b"::1\n"


@fronts
def test_tls_passes_through_and_the_header_comes_before_it(
    front: Front, version: Any, changes: Changes, tmp_path: Path
) -> None:
    trusting = keys.client_context()
    with (
        serving(
            tell_address, ssl_context=context(), proxy_protocol=version, proxy_trusted=LOOPBACK
        ) as server,
        front(tmp_path, place(server), place(server), changes) as balancer,
        gnet.dial(
            *balancer.address,
            ssl_context=trusting,
            source=("127.0.0.9", 0),
            timeout=PATIENCE * 1000,
        ) as client,
    ):
        client.timeout = PATIENCE * 1000
        client.send(b"hello\r\n")
        assert client.read_line() == b"127.0.0.9"  # the server's certificate was verified, end to end


@fronts
def test_a_client_that_has_ended_its_half_gets_a_large_answer_whole(
    front: Front, version: Any, changes: Changes, tmp_path: Path
) -> None:
    answer = bytes(range(256)) * 20_000

    def handle(client: gnet.Socket, _address: str) -> None:
        assert client.recv_until(b"\n", 100) == b"hello\n"
        assert client.recv(1) == b""
        client.send(answer)

    with (
        serving(handle, proxy_protocol=version, proxy_trusted=LOOPBACK) as server,
        front(tmp_path, place(server), place(server), changes) as balancer,
    ):
        assert ask(balancer) == answer


@both
def test_a_balancer_that_is_not_trusted_gets_nobody_served(
    front: Front, version: Any, tmp_path: Path
) -> None:
    with (
        silent_logs(),
        serving(tell_address, proxy_protocol=version, proxy_trusted=("10.0.0.10",)) as server,
        front(tmp_path, place(server), place(server)) as balancer,
        connect(balancer.address) as client,
    ):
        answer = b""
        try:
            client.sendall(b"hello\n")
            answer = receive_all(client)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert answer == b""
        assert server._terms.statistics.rejected["untrusted proxy"] >= 1


@pytest.mark.parametrize(
    ("front", "version", "prefix"),
    [(haproxy, "v2", "unix@"), (nginx, "v1", "unix:")],
    ids=["haproxy", "nginx"],
)
def test_a_unix_socket_between_the_two_needs_no_list_of_networks(
    front: Front, version: Any, prefix: str, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # where this runs as root, nginx's workers are somebody else
        path = Path(folder, "socket")
        with serving(tell_address, unix_path=path, proxy_protocol=version) as server:
            path.chmod(0o666)
            with front(tmp_path, f"{prefix}{path}", f"{prefix}{path}") as balancer:
                assert ask(balancer, "127.0.0.6") == b"127.0.0.6\n"
                assert server._terms.statistics.proxy_failures == 0


@both
def test_limits_count_the_clients_address_and_not_the_balancers(
    front: Front, version: Any, tmp_path: Path
) -> None:
    with (
        silent_logs(),
        serving(
            answer_lines,
            proxy_protocol=version,
            proxy_trusted=LOOPBACK,
            max_per_address=2,
            overflow=b"-ERR too many\r\n",
        ) as server,
        front(tmp_path, place(server), place(server)) as balancer,
        ExitStack() as stack,
    ):
        for source in ("127.0.0.3", "127.0.0.3", "127.0.0.4"):
            client = stack.enter_context(connect(balancer.address, source=source))
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        with connect(balancer.address, source="127.0.0.3") as third:
            assert receive_all(third) == b"-ERR too many\r\n"


# Health checks


@pytest.mark.parametrize(("version", "changes"), [("v2", ()), ("v1", V1)], ids=["v2 LOCAL", "v1 UNKNOWN"])
def test_a_health_check_is_a_connection_of_the_balancers_own(
    version: Any, changes: Changes, tmp_path: Path
) -> None:
    addresses = []
    enough = Event()

    def handle(client: gnet.Socket, address: str) -> None:
        addresses.append(address)
        if len(addresses) >= 6:
            enough.set()
        for line in client.lines():
            client.send(line + b"\n")

    with (
        silent_logs(),
        serving(handle, proxy_protocol=version, proxy_trusted=LOOPBACK) as server,
        haproxy(tmp_path, place(server), place(server), (*changes, *FAST_CHECKS)) as balancer,
    ):
        assert enough.wait(PATIENCE)
        assert set(addresses) == {"127.0.0.1"}
        assert ask(balancer, "127.0.0.5") == b"hello\n"
        assert "127.0.0.5" in addresses
        assert server._terms.statistics.proxy_failures == 0
        assert server._terms.statistics.handler_errors == 0
        assert not [line for line in balancer.program.errors if "DOWN" in line]


def test_a_check_that_asks_finds_a_server_that_listens_and_does_not_answer(tmp_path: Path) -> None:
    def pong(client: gnet.Socket, _address: str) -> None:
        for line in client.lines():
            client.send(b"PONG\r\n" if line == b"PING" else b"good\r\n")

    def mute(client: gnet.Socket, _address: str) -> None:
        for _ in client.lines():
            pass

    behind = {"proxy_protocol": "v2", "proxy_trusted": LOOPBACK}
    changes = (*FAST_CHECKS, *QUESTIONS, ("timeout check 2s", "timeout check 1s"))
    with (
        silent_logs(),
        serving(pong, **behind) as good,
        serving(mute, **behind) as bad,
        haproxy(tmp_path, place(good), place(bad), changes) as balancer,
    ):
        balancer.program.wait_for_error("Server gnet/second is DOWN")
        assert [ask(balancer) for _ in range(10)] == [b"good\r\n"] * 10
        assert not [line for line in balancer.program.errors if "gnet/first is DOWN" in line]


# Draining


DRAINS: Final = {
    # Without checks only the retry can help; with them, the server is also found to be down.
    "haproxy": (haproxy, "v2", SLOW_CHECKS),
    "haproxy-with-checks": (haproxy, "v2", FAST_CHECKS),
    "nginx": (nginx, "v1", ()),
}


@pytest.mark.parametrize(("front", "version", "changes"), DRAINS.values(), ids=DRAINS)
def test_a_server_drains_while_the_balancer_tries_another_one(
    front: Front, version: str, changes: Changes, tmp_path: Path
) -> None:
    options = ("--proxy-protocol", version, "--proxy-trusted", ",".join(LOOPBACK))
    with (
        gate() as waiting,
        gnet_serve("held", *options, env=waiting.env) as one,
        gnet_serve("held", *options, env=waiting.env) as two,
        front(tmp_path, f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}", changes) as balancer,
        connect(balancer.address) as under_way,
        ExitStack() as stack,
    ):
        servers = {one.pid: one, two.pid: two}
        under_way.sendall(b"hello\n")
        leaving = servers.pop(int(under_way.recv(100)))
        (staying,) = servers.values()
        leaving.send(signal.SIGTERM)
        # From now on: also in the moment when it does not listen any more and nobody knows yet.
        for _ in range(20):
            client = stack.enter_context(connect(balancer.address))
            client.sendall(b"hello\n")
            answer = client.recv(100)
            if answer and int(answer) == leaving.pid:
                continue  # it was in the accept queue when the drain began: served, too
            assert answer == b"%d\r\n" % staying.pid
        waiting.open()
        assert receive_all(under_way) == b"done\r\n"
        assert (leaving.wait(), leaving.errors) == (0, [])
        with connect(balancer.address) as client:
            client.sendall(b"hello\n")
            assert receive_all(client) == b"%d\r\ndone\r\n" % staying.pid


@both
def test_a_server_that_comes_back_is_used_again(front: Front, version: Any, tmp_path: Path) -> None:
    behind: dict[str, Any] = {"proxy_protocol": version, "proxy_trusted": LOOPBACK}
    changes: Changes = FAST_CHECKS if front is haproxy else (("fail_timeout=2s", "fail_timeout=1s"),)
    with (
        silent_logs(),
        socket.socket() as held,  # a port that nobody else gets
        serving(lambda client, _: client.send(b"stays\n"), **behind) as stays,
    ):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with front(tmp_path, f"127.0.0.1:{port}", place(stays), changes) as balancer:
            assert [ask(balancer) for _ in range(5)] == [b"stays\n"] * 5
            with serving(lambda client, _: client.send(b"is back\n"), port=port, **behind):
                wait_until(lambda: ask(balancer) == b"is back\n", "it is used again")


# The files


def test_haproxy_has_nothing_to_say_against_its_file() -> None:
    program = require_program("haproxy")
    env = {"LISTEN": ":7000", "FIRST": "10.0.0.11:7000", "SECOND": "10.0.0.12:7000"}
    with Program([program, "-c", "-f", CONFIGS / "haproxy.cfg"], env=env) as check:
        assert (check.wait(), check.errors) == (0, [])


def test_what_the_document_shows_of_the_files_is_in_them() -> None:
    shown = re.findall(
        r"^```(haproxy|nginx)\n(.*?)^```", SCALING.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert {name for name, _ in shown} == {"haproxy", "nginx"}
    for name, text in shown:
        file = CONFIGS / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[name]
        lines = {line.strip() for line in file.read_text(encoding="utf-8").splitlines()}
        assert [line for line in text.splitlines() if line.strip() and line.strip() not in lines] == []


def test_the_files_name_no_port_but_in_their_comments() -> None:
    for name in ("haproxy.cfg", "nginx.conf"):
        text = (CONFIGS / name).read_text(encoding="utf-8")
        code = "\n".join(line.partition("#")[0] for line in text.splitlines())
        assert re.findall(r":\d+", code) == []
        assert set(re.findall(r"\$\{(\w+)\}", code)) == {"LISTEN", "FIRST", "SECOND"}
