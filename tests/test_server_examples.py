"""The programs in examples/ that are built on `gnet.Server`, each as its own process against real peers.

ping_server.py is in test_examples.py and test_tls_examples.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket as stdlib_socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import gevent.subprocess as subprocess
import pytest
import trustme

import gnet
from tests.example_programs import PATIENCE, Server, is_one_line, read_to_end, run

pytestmark = pytest.mark.plain_only

MILLISECONDS = PATIENCE * 1000


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:
        yield lambda *arguments, **more: stack.enter_context(closing(Server(*arguments, **more)))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of an authority (`ca`) and of a certificate of localhost with its key (`both`)."""
    folder = tmp_path_factory.mktemp("certificates")
    files = {name: folder / f"{name}.pem" for name in ("ca", "both")}
    authority = trustme.CA()
    authority.cert_pem.write_to_path(files["ca"])
    files["both"].touch(mode=0o600)
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files["both"])
    return files


def reset(client: gevent.socket.socket) -> None:
    client.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def rss_bytes(process: subprocess.Popen[str]) -> int:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


# kv_server.py


@pytest.fixture
def redis_cli(
    serve: Callable[..., Server], needs_program: Callable[[str], str]
) -> Iterator[Callable[..., str]]:
    """`redis_cli(*words)` has redis-cli ask a kv_server and gives what it prints."""
    program = needs_program("redis-cli")
    server = serve("kv_server.py")

    def ask(*words: str, stdin: str | None = None) -> str:
        command = [program, "-p", str(server.port), *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE)
        assert done.stderr == ""
        return str(done.stdout)

    yield ask
    server.signal_and_wait()


def test_redis_cli_stores_and_gets_and_deletes(redis_cli: Callable[..., str]) -> None:
    assert redis_cli("ping") == "PONG\n"
    assert redis_cli("ping", "hello") == "hello\n"
    assert redis_cli("set", "greeting", "good day") == "OK\n"
    assert redis_cli("get", "greeting") == "good day\n"
    assert redis_cli("set", "greeting", "") == "OK\n"
    assert redis_cli("get", "greeting") == "\n"
    assert redis_cli("--no-raw", "get", "nothing") == "(nil)\n"
    assert redis_cli("--no-raw", "del", "greeting", "nothing") == "(integer) 1\n"
    assert redis_cli("--no-raw", "get", "greeting") == "(nil)\n"


def test_redis_cli_takes_commands_from_its_input(redis_cli: Callable[..., str]) -> None:
    assert redis_cli(stdin="set a 1\nset b 2\nget a\nget b\n") == "OK\nOK\n1\n2\n"
    assert redis_cli("-x", "set", "binary", stdin="one\r\ntwo\r\n$3\r\n") == "OK\n"
    assert redis_cli("get", "binary") == "one\n" + "two\n" + "$3\n" + "\n"  # in text mode


def test_redis_cli_is_told_what_was_wrong(redis_cli: Callable[..., str]) -> None:
    assert "unknown command" in redis_cli("incr", "n")
    assert "wrong number of arguments for 'GET'" in redis_cli("get")
    assert "wrong number of arguments for 'SET'" in redis_cli("set", "key", "value", "EX", "10")
    assert redis_cli("config", "get", "save") == "save\n\n"


def test_redis_benchmark_drives_kv_server(
    serve: Callable[..., Server], needs_program: Callable[[str], str]
) -> None:
    program = needs_program("redis-benchmark")
    server = serve("kv_server.py")
    assert server.hint == f"try: redis-cli -h 127.0.0.1 -p {server.port} set greeting hello\n"
    for more in (("-P", "1"), ("-P", "16", "-d", "1000", "-r", "100")):
        command = [program, "-p", str(server.port), "-t", "set,get", "-n", "2000", *more, "--csv"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert '"SET' in done.stdout
        assert '"GET' in done.stdout
    with server.connect() as client:
        client.sendall(b"GET key:__rand_int__\r\n")  # what the first of them stored
        assert client.recv(100) == b"$3\r\nVXK\r\n"
    server.signal_and_wait()


def test_redis_client_talks_to_kv_server(serve: Callable[..., Server]) -> None:
    server = serve("kv_server.py")
    where = f"127.0.0.1:{server.port}"
    assert run("redis_client.py", where, "SET", "greeting", "grüße") == (0, "OK\n", "")
    assert run("redis_client.py", where, "GET", "greeting") == (0, "grüße\n", "")
    status, _, errors = run("redis_client.py", where, "BOGUS")
    assert status == 1
    assert is_one_line(errors, "unknown command")
    server.signal_and_wait()


COMMANDS = (
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6\r\na\r\n\r\nb\r\n"
    b"\r\n"  # nothing asked, nothing answered
    b"GET  k\n"
    b"*0\r\n"
    b"*2\r\n$3\r\ndel\r\n$1\r\nk\r\n"
    b"GET k\r\n"
    b"*1\r\n$2\r\n\r\n\r\n"
    b"ping\r\n"
)
ANSWERS = b"+OK\r\n$6\r\na\r\n\r\nb\r\n:1\r\n$-1\r\n-ERR unknown command b'\\r\\n'\r\n+PONG\r\n"


@pytest.mark.parametrize("size", [1, 7, len(COMMANDS)])
def test_kv_server_answers_in_order_however_commands_are_cut(serve: Callable[..., Server], size: int) -> None:
    server = serve("kv_server.py")
    with server.connect() as client:
        client.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        for start in range(0, len(COMMANDS), size):
            client.sendall(COMMANDS[start : start + size])
        client.shutdown(stdlib_socket.SHUT_WR)
        assert read_to_end(client) == ANSWERS
    server.signal_and_wait()


WRONG_COMMANDS = {
    "too many arguments": b"*1025\r\n",
    "no number": b"*x\r\n",
    "a negative number": b"*-1\r\n",
    "no argument": b"*1\r\nPING\r\n",
    "an argument too large": b"*1\r\n$4194305\r\n",
    "arguments too large together": b"*2\r\n$1000000\r\n" + b"x" * 1_000_000 + b"\r\n$3194305\r\n",
    "a number too long": b"*" + b"9" * 5000 + b"\r\n",
    "an argument longer than it says": b"*1\r\n$4\r\nPINGPONG\r\n",
}


@pytest.mark.parametrize("case", WRONG_COMMANDS)
def test_kv_server_ends_a_connection_that_is_out_of_step(serve: Callable[..., Server], case: str) -> None:
    server = serve("kv_server.py")
    with server.connect() as client:
        client.sendall(b"PING\r\n" + WRONG_COMMANDS[case] + b"PING\r\n")
        answer = read_to_end(client)
        assert answer.startswith(b"+PONG\r\n-ERR Protocol error: expected ")
        assert answer.count(b"\r\n") == 2
        assert len(answer) < 200
    server.signal_and_wait()


def test_kv_server_is_full_some_time_and_what_is_deleted_makes_room(serve: Callable[..., Server]) -> None:
    server = serve("kv_server.py", change="program.LARGEST_STORE = 10")
    with server.connect() as client, client.makefile("rb") as answers:
        for command, answer in (
            ("set a 12345", "+OK"),
            ("set b 1234", "-OOM the store is full"),
            ("get b", "$-1"),
            ("set b 123", "+OK"),
            ("set a 123456", "-OOM the store is full"),
            ("set a 1", "+OK"),
            ("set a 12345", "+OK"),
            ("del a", ":1"),
            ("set b 123456789", "+OK"),
        ):
            client.sendall(f"{command}\r\n".encode())
            assert answers.readline() == f"{answer}\r\n".encode()
    server.signal_and_wait()


# line_proxy.py


class LineServer:
    """A plain server of one connection, in the hands of a test."""

    def __init__(self, receive_buffer: int | None = None) -> None:
        self.listener = gevent.socket.socket()
        if receive_buffer is not None:
            self.listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, receive_buffer)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.listener.settimeout(PATIENCE)
        self.where = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> gevent.socket.socket:
        client, _ = self.listener.accept()
        client.settimeout(PATIENCE)
        return client

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def line_server() -> Iterator[LineServer]:
    with closing(LineServer()) as server:
        yield server


@pytest.fixture
def proxy(serve: Callable[..., Server], certificates: dict[str, Path], line_server: LineServer) -> Server:
    """A proxy in front of `line_server`."""
    return serve("line_proxy.py", "--to", line_server.where, "--tls-cert", certificates["both"])


def dial_tls(server: Server, certificates: dict[str, Path]) -> gnet.Socket:
    context = gnet.new_context(ca_file=certificates["ca"])
    client = gnet.dial("localhost", server.port, ssl_context=context, timeout=MILLISECONDS)
    client.timeout = MILLISECONDS
    return client


def test_openssl_talks_through_the_proxy_to_ping_server(
    serve: Callable[..., Server], certificates: dict[str, Path], needs_program: Callable[[str], str]
) -> None:
    needs_program("openssl")
    ping = serve("ping_server.py")
    proxy = serve("line_proxy.py", "--to", f"127.0.0.1:{ping.port}", "--tls-cert", certificates["both"])
    assert proxy.hint.startswith("try: openssl s_client -quiet -CAfile CA_FILE -connect 127.0.0.1:")
    command = proxy.hint.replace("CA_FILE", str(certificates["ca"])).split()[1:]
    client = subprocess.Popen(
        [*command, "-verify_return_error"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    try:
        for part in (b"PI", b"NG\r", b"\nanother\n"):
            client.stdin.write(part)
        with gevent.Timeout(PATIENCE):
            assert [client.stdout.readline() for _ in range(2)] == [b"+PONG\r\n"] * 2
        proxy.signal_and_wait()
        with gevent.Timeout(PATIENCE):
            assert client.stdout.read() == b""
    finally:
        client.kill()
        client.wait()
        client.stdin.close()
        client.stdout.close()
    ping.signal_and_wait()


def test_a_client_that_has_asked_its_last_question_gets_its_answers(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer
) -> None:
    with dial_tls(proxy, certificates) as client, closing(line_server.accept()) as server:
        client.send(b"one\ntwo\n")
        client.shutdown(stdlib_socket.SHUT_WR)
        assert read_to_end(server) == b"one\ntwo\n"
        server.sendall(b"first answer\n")
        assert client.read_line() == b"first answer"  # it is on its way before the stream ends
        data = os.urandom(1_000_000)
        sending = gevent.spawn(server.sendall, data)
        assert client.recv_exactly(len(data)) == data
        sending.get()
        server.close()
        assert client.recv(1) == b""
    proxy.signal_and_wait()


def test_a_server_that_has_said_its_last_word_still_hears(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer
) -> None:
    with dial_tls(proxy, certificates) as client, closing(line_server.accept()) as server:
        server.sendall(b"welcome\n")
        server.shutdown(stdlib_socket.SHUT_WR)
        assert client.read_line() == b"welcome"
        assert client.recv(1) == b""
        data = os.urandom(1_000_000)
        sending = gevent.spawn(lambda: (client.send(data), client.shutdown(stdlib_socket.SHUT_WR)))
        assert read_to_end(server) == data
        sending.get()
    proxy.signal_and_wait()


@pytest.mark.parametrize("slow", ["server", "client"])
def test_a_side_that_does_not_read_stops_the_other_and_fills_no_memory(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer, slow: str
) -> None:
    with dial_tls(proxy, certificates) as client, closing(line_server.accept()) as server:
        client.send(b"hello\n")
        assert server.recv(100) == b"hello\n"
        before, piece, sent = rss_bytes(proxy.process), os.urandom(65536), 0
        server.settimeout(0.5)
        with suppress(TimeoutError):  # when no more is taken
            while sent < 1 << 28:
                if slow == "server":
                    client.send(piece, timeout=500)
                else:
                    server.sendall(piece)
                sent += len(piece)
        assert 0 < sent < 1 << 26  # the buffers of the kernel's are a few MiB
        assert rss_bytes(proxy.process) - before < 8 << 20
        with dial_tls(proxy, certificates) as other, closing(line_server.accept()) as its_server:
            other.send(b"and I\n")  # nobody else has to wait
            assert its_server.recv(100) == b"and I\n"
        proxy.signal_and_wait()


def test_bytes_come_through_the_proxy_as_they_are(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer
) -> None:
    questions, answers = os.urandom(3_000_000), os.urandom(3_000_000)
    with dial_tls(proxy, certificates) as client, closing(line_server.accept()) as server:
        sending = [gevent.spawn(client.send, questions), gevent.spawn(server.sendall, answers)]
        received = gevent.spawn(client.recv_exactly, len(answers))
        with server.makefile("rb") as file:
            assert file.read(len(questions)) == questions
        assert received.get() == answers
        gevent.joinall(sending, raise_error=True)
    proxy.signal_and_wait()


@pytest.mark.parametrize("how", ["a reset", "no close_notify"])
def test_a_client_that_breaks_off_is_gone_for_the_server_too(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer, how: str
) -> None:
    context = gevent.ssl.create_default_context(cafile=certificates["ca"])
    with (
        context.wrap_socket(proxy.connect(), server_hostname="localhost") as client,
        closing(line_server.accept()) as server,
    ):
        client.sendall(b"the first half and\n")
        assert server.recv(100) == b"the first half and\n"
        if how == "a reset":
            reset(client)
        else:
            client.close()
        with suppress(ConnectionResetError):
            assert server.recv(1) == b""
    proxy.signal_and_wait()


def test_an_answer_that_the_server_broke_off_does_not_look_whole(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer
) -> None:
    with dial_tls(proxy, certificates) as client, closing(line_server.accept()) as server:
        server.sendall(b"the first half and\n")
        assert client.read_line() == b"the first half and"
        reset(server)
        with pytest.raises(gnet.SslError):  # the end of TLS without its close_notify, or a reset
            client.recv(1)
    proxy.signal_and_wait()


def test_a_proxy_without_its_server_says_so_in_one_line(
    serve: Callable[..., Server], certificates: dict[str, Path]
) -> None:
    with stdlib_socket.create_server(("127.0.0.1", 0)) as probe:
        where = f"127.0.0.1:{probe.getsockname()[1]}"
    proxy = serve("line_proxy.py", "--to", where, "--tls-cert", certificates["both"])
    with dial_tls(proxy, certificates) as client:
        assert client.recv(1) == b""
    proxy.process.send_signal(signal.SIGTERM)
    output, errors = proxy.process.communicate(timeout=PATIENCE)
    assert (proxy.process.returncode, output) == (0, "")
    assert is_one_line(errors, "refused")


def test_a_proxy_that_is_told_to_end_lets_its_server_answer(
    proxy: Server, certificates: dict[str, Path], line_server: LineServer
) -> None:
    with dial_tls(proxy, certificates) as client, closing(line_server.accept()) as server:
        client.send(b"a question\n")
        assert server.recv(100) == b"a question\n"
        proxy.process.send_signal(signal.SIGTERM)
        assert read_to_end(server) == b""  # the client is not heard any more, but hears
        server.sendall(b"the answer\n")
        server.close()
        assert client.read_line() == b"the answer"
        assert client.recv(1) == b""
        proxy.signal_and_wait()


@pytest.mark.parametrize("where", ["nowhere", "127.0.0.1:99999", "127.0.0.1:"])
def test_a_proxy_to_nowhere_does_not_start(certificates: dict[str, Path], where: str) -> None:
    status, output, errors = run("line_proxy.py", "--to", where, "--tls-cert", certificates["both"])
    assert (status, output) == (1, "")
    assert is_one_line(errors, "line_proxy: ")


# smtp_sink.py


def mail(text: str = "Good day,\n.\n..\nfrom here.\n") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@example.org", "bob@example.org", "A test"
    message.set_content(text)
    return message


def taken(server: Server) -> dict[str, Any]:
    """Give the next mail that the sink says it has."""
    with gevent.Timeout(PATIENCE):
        found: dict[str, Any] = json.loads(server.process.stdout.readline())
    return found


@pytest.fixture
def sink(serve: Callable[..., Server], certificates: dict[str, Path]) -> Server:
    return serve("smtp_sink.py", "--tls-cert", certificates["both"])


def test_smtplib_sends_mail(serve: Callable[..., Server]) -> None:
    sink = serve("smtp_sink.py")
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=PATIENCE) as client:
        assert client.send_message(mail()) == {}
        assert not client.has_extn("starttls")
        client.sendmail("<>", ["one@x", "two@x"], "a\n")
    first, second = taken(sink), taken(sink)
    assert (first["from"], first["to"], first["tls"]) == ("ann@example.org", ["bob@example.org"], False)
    assert first["message"].endswith("\r\n\r\nGood day,\r\n.\r\n..\r\nfrom here.\r\n")
    assert second == {"from": "", "to": ["one@x", "two@x"], "tls": False, "message": "a\r\n"}
    sink.signal_and_wait()


def test_smtplib_sends_mail_over_starttls(sink: Server, certificates: dict[str, Path]) -> None:
    with smtplib.SMTP("localhost", sink.port, timeout=PATIENCE) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        client.starttls(context=ssl.create_default_context(cafile=str(certificates["ca"])))
        client.ehlo()
        assert not client.has_extn("starttls")
        client.send_message(mail())
        client.send_message(mail("and one more\n"))
    assert [taken(sink)["tls"], taken(sink)["tls"]] == [True, True]
    sink.signal_and_wait()


def test_curl_sends_mail_as_the_sink_says(
    sink: Server, tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    needs_program("curl")
    file = tmp_path / "mail"
    file.write_bytes(b"Subject: x\r\n\r\nhello\r\n")
    command = sink.hint.replace("FILE", str(file)).split()[1:]
    done = subprocess.run([*command, "-sS"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert taken(sink) == {
        "from": "a@x",
        "to": ["b@x"],
        "tls": False,
        "message": "Subject: x\r\n\r\nhello\r\n",
    }
    sink.signal_and_wait()


def test_a_message_over_the_limit_is_refused_before_it_is_sent(serve: Callable[..., Server]) -> None:
    sink = serve("smtp_sink.py", change="program.LARGEST = 1000")
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=PATIENCE) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail("a@x", ["b@x"], "x" * 1001)
        assert refused.value.smtp_code == 552
        client.sendmail("a@x", ["b@x"], "x" * 998)
    assert len(taken(sink)["message"]) == 1000
    sink.signal_and_wait()


def test_a_message_over_the_limit_is_refused_after_it_was_sent(serve: Callable[..., Server]) -> None:
    sink = serve("smtp_sink.py", change="program.LARGEST = 1000")
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=PATIENCE) as client:
        client.helo()  # so that smtplib does not say how large it is
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("a@x", ["b@x"], "a line\n" * 100_000)
        assert refused.value.smtp_code == 552
        client.sendmail("a@x", ["b@x"], "small")
    assert taken(sink)["message"] == "small\r\n"
    sink.signal_and_wait()


def test_no_more_recipients_than_are_allowed(sink: Server) -> None:
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=PATIENCE) as client:
        refused = client.sendmail("a@x", [f"{number}@x" for number in range(102)], "hello")
    assert {code for code, _ in refused.values()} == {452}
    assert sorted(refused) == ["100@x", "101@x"]
    assert len(taken(sink)["to"]) == 100
    sink.signal_and_wait()


def test_commands_out_of_order_are_refused_and_the_connection_goes_on(sink: Server) -> None:
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=PATIENCE) as client:
        said = [
            client.docmd(line)[0]
            for line in ("DATA", "RCPT TO:<b@x>", "MAIL a@x", "", "BOGUS", "NOOP", "MAIL FROM:<a@x>", "DATA")
        ]
        assert said == [503, 503, 503, 503, 503, 250, 250, 503]
        client.sendmail("a@x", ["b@x"], "hello")
    assert taken(sink)["message"] == "hello\r\n"
    sink.signal_and_wait()


DIALOGUE = (
    b"EHLO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
    b"one\n.\nMAIL FROM:<evil@x>\r\n..two\r\n\r.\r\n.\r\nQUIT\r\n"
)


@pytest.mark.parametrize("size", [1, 13, len(DIALOGUE)])
def test_only_a_dot_between_two_crlf_ends_a_message(sink: Server, size: int) -> None:
    with sink.connect() as client:
        client.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        for start in range(0, len(DIALOGUE), size):
            client.sendall(DIALOGUE[start : start + size])
        codes = [line[:3] for line in read_to_end(client).splitlines() if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    assert taken(sink)["message"] == "one\n.\nMAIL FROM:<evil@x>\r\n.two\r\n\r.\r\n"
    sink.signal_and_wait()


def test_what_came_in_clear_behind_starttls_is_not_obeyed(sink: Server) -> None:
    with sink.connect() as client:
        client.sendall(b"STARTTLS\r\nMAIL FROM:<evil@x>\r\n")
        with suppress(ConnectionResetError):
            assert b"250" not in read_to_end(client)
    sink.signal_and_wait()


def test_a_client_that_goes_without_quit_is_no_trouble(sink: Server) -> None:
    for part in (b"", b"EHLO", b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nhalf"):
        with sink.connect() as client:
            client.sendall(part)
            assert client.recv(1) == b"2"
    with sink.connect() as client:
        assert client.recv(1) == b"2"
        reset(client)
    sink.signal_and_wait()


def test_smtp_clients_are_told_that_the_sink_is_closing(sink: Server, certificates: dict[str, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificates["ca"]))
    with (
        closing(smtplib.SMTP("localhost", sink.port, timeout=PATIENCE)) as plain,
        closing(smtplib.SMTP("localhost", sink.port, timeout=PATIENCE)) as tls,
    ):
        plain.ehlo()
        tls.starttls(context=context)
        tls.ehlo()
        sink.signal_and_wait()
        for client in (plain, tls):
            assert client.getreply() == (421, b"smtp_sink is closing")
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.getreply()


# legacy_gevent_app.py

KINDS = ("gevent", "gnet")


@pytest.mark.parametrize("kind", KINDS)
def test_both_apps_give_the_same_service(serve: Callable[..., Server], kind: str) -> None:
    server = serve("legacy_gevent_app.py", kind)
    with server.connect() as client:
        client.sendall(b"ann\r\nbob\nann\n\n")
        client.shutdown(stdlib_socket.SHUT_WR)
        assert read_to_end(client) == (
            b"hello ann, visit 1\r\nhello bob, visit 1\r\nhello ann, visit 2\r\nhello , visit 1\r\n"
        )
    server.signal_and_wait()


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_client_holds_the_end_of_one_app_only(serve: Callable[..., Server], kind: str) -> None:
    # Difference 6, with a drain that no test could wait for.
    server = serve("legacy_gevent_app.py", kind, change="program.DRAIN_SECONDS = 1000")
    with server.connect() as client:
        client.sendall(b"ann\n")
        assert client.recv(100) == b"hello ann, visit 1\r\n"
        if kind == "gnet":
            server.signal_and_wait()
            assert client.recv(1) == b""
        else:
            server.process.send_signal(signal.SIGTERM)
            client.settimeout(1.0)
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert server.process.poll() is None


@pytest.mark.parametrize("kind", KINDS)
def test_both_apps_end_with_idle_clients(serve: Callable[..., Server], kind: str) -> None:
    server = serve("legacy_gevent_app.py", kind, change="program.DRAIN_SECONDS = 0.2")
    with server.connect() as client:
        client.sendall(b"ann\n")
        assert client.recv(100) == b"hello ann, visit 1\r\n"
        server.signal_and_wait()
        assert read_to_end(client) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_breaks_off_is_a_traceback_in_one_app_only(
    serve: Callable[..., Server], kind: str
) -> None:
    # Difference 3.
    server = serve("legacy_gevent_app.py", kind)
    with server.connect() as client:
        client.sendall(b"ann\n")
        assert client.recv(100) == b"hello ann, visit 1\r\n"
        reset(client)
    with server.connect() as client:  # by whose answer the first one is known to be served to its end
        client.sendall(b"ann\n")
        assert client.recv(100) == b"hello ann, visit 2\r\n"
    server.process.send_signal(signal.SIGTERM)
    _, errors = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 0
    assert ("Traceback" in errors) == (kind == "gevent")


def test_a_long_line_ends_the_connection_of_one_app_and_is_cut_by_the_other(
    serve: Callable[..., Server],
) -> None:
    # Difference 4.
    server = serve("legacy_gevent_app.py", "gevent")
    with server.connect() as client:
        client.sendall(b"x" * 1500 + b"\n")
        client.shutdown(stdlib_socket.SHUT_WR)
        assert read_to_end(client).count(b"hello") == 2
    server = serve("legacy_gevent_app.py", "gnet")
    with server.connect() as client:
        client.sendall(b"ann\n" + b"x" * 1500 + b"\n")
        with suppress(ConnectionResetError):
            assert read_to_end(client) == b"hello ann, visit 1\r\n"
