"""gnet's TLS and that of others: the stdlib's ssl, OpenSSL's own programs, curl, nginx and redis."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess

import gnet
from tests.tls_transport.keys import HOST, client_context, keys, server_context
from tests.tls_transport.peers import GUARD, tls_listener

_ROOT: Final = Path(__file__).parents[2]

every_version = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])

PAGE: Final = b"".join(b"line %06d of the page\r\n" % number for number in range(40_000))


@contextmanager
def running(*command: object, **arguments: Any) -> Iterator[Any]:
    """A program, with its standard streams; its errors are in its output."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **arguments,
    )
    try:
        with gevent.Timeout(GUARD / 1000, AssertionError(f"{command[0]} does not come to its end")):
            yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not flushed
                stream.close()


def output_up_to(process: Any, pattern: bytes) -> bytes:
    """Read what a program prints until it matches."""
    output = b""
    while not re.search(pattern, output):
        part = process.stdout.read1(4096)
        assert part, f"the program has ended: {output.decode()}"
        output += part
    return output


def run(*command: object, stdin: bytes = b"") -> bytes:
    """Run a program to its good end; give its output."""
    with running(*command) as process:
        output, _ = process.communicate(stdin)
        assert process.returncode == 0, output.decode()
        return bytes(output)


@contextmanager
def echo_server(**arguments: Any) -> Iterator[tuple[str, int]]:
    """A gnet server that sends each line back; fails if a connection ends badly."""
    with serving(echo, **arguments) as address:
        yield address


def echo(client: gnet.Socket) -> None:
    for line in client.lines():
        client.send(line + b"\n")


@contextmanager
def serving(handle: Callable[[gnet.Socket], None], **arguments: Any) -> Iterator[tuple[str, int]]:
    """A gnet server with a handler; `arguments` go to its context."""
    failures: list[Exception] = []

    def serve(client: gnet.Socket) -> None:
        try:
            with client:
                client.timeout = GUARD
                handle(client)
        except OSError as error:
            failures.append(error)

    with tls_listener(server_context(**arguments)) as listener:
        listener.timeout = -1
        handlers: list[Any] = []

        def accept() -> None:
            while True:
                handlers.append(gevent.spawn(serve, listener.accept()))

        accepting = gevent.spawn(accept)
        try:
            yield listener.get_local_addr()
            gevent.joinall(handlers, timeout=GUARD / 1000)
            assert not failures
        finally:
            gevent.killall([accepting, *handlers])


def dial(port: int, **arguments: Any) -> gnet.Socket:
    client = gnet.dial(HOST, port, ssl_context=client_context(**arguments), timeout=GUARD)
    client.timeout = GUARD
    return client


# The stdlib's ssl, in a process of its own

_STDLIB_SERVER: Final = """
import socket, ssl, sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[1]]
context.load_cert_chain(*sys.argv[2:])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    plain, _ = listener.accept()
    client = context.wrap_socket(plain, server_side=True)
    stream = client.makefile("rwb")
    for line in stream:
        stream.write(line)
        stream.flush()
    client.unwrap().close()
print("the client said goodbye")
"""

_STDLIB_CLIENT: Final = """
import socket, ssl, sys

context = ssl.create_default_context(cafile=sys.argv[2])
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[1]]
plain = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
with context.wrap_socket(plain, server_hostname="localhost") as client:
    stream = client.makefile("rwb")
    for number in range(1000):
        stream.write(b"line %d\\n" % number)
        stream.flush()
        assert stream.readline() == b"line %d\\n" % number
    stream.write(b"x" * 1_000_000 + b"\\n")
    stream.flush()
    assert stream.readline() == b"x" * 1_000_000 + b"\\n"
    print(client.version(), client.cipher()[0])
    client.unwrap()
"""


@every_version
def test_a_client_of_the_stdlibs_server(version: str) -> None:
    pair = keys().server
    name = version.replace(".", "_")
    with running(sys.executable, "-c", _STDLIB_SERVER, name, pair.cert_file, pair.key_file) as process:
        with dial(int(process.stdout.readline())) as client:
            assert client.ssl_handle.get_protocol_version_name() == version
            for line in [b"first", b"second", b"x" * 1_000_000]:
                client.send(line + b"\n")
                assert client.read_line() == line
        assert process.stdout.read() == b"the client said goodbye\n"
        assert process.wait() == 0


@every_version
def test_a_server_of_the_stdlibs_client(version: str) -> None:
    def echo_all(client: gnet.Socket) -> None:
        for line in client.lines(max_length=2_000_000):
            client.send(line + b"\n")

    with serving(echo_all) as (_, port):
        name = version.replace(".", "_")
        output = run(sys.executable, "-c", _STDLIB_CLIENT, name, keys().ca_file, port)
        assert output.startswith(version.encode())


# openssl s_client and s_server


@contextmanager
def s_client(port: int, openssl: str, *arguments: str) -> Iterator[Any]:
    """`openssl s_client`, which has verified the server."""
    command = [openssl, "s_client", "-connect", f"{HOST}:{port}", "-CAfile", keys().ca_file]
    command += ["-verify_return_error", "-verify_hostname", "localhost", "-servername", "localhost"]
    with running(*command, *arguments) as process:
        assert b"Verification: OK" in output_up_to(process, rb"Verify return code: 0 \(ok\)\n[^-]*---\n")
        yield process


def say(process: Any, text: bytes) -> None:
    process.stdin.write(text)
    process.stdin.flush()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_server_of_s_client(version: str, needs_program: Callable[[str], str]) -> None:
    with echo_server() as (_, port), s_client(port, needs_program("openssl"), version) as process:
        for line in b"first\n", b"second\n", b"x" * 5000 + b"\n":
            say(process, line)
            assert line in output_up_to(process, b"\\A[^\\0]*\n\\Z" if len(line) < 100 else b"x\n")
        say(process, b"Q\n")
        assert process.wait() == 0


def test_a_server_of_a_client_that_updates_its_keys(needs_program: Callable[[str], str]) -> None:
    with echo_server() as (_, port), s_client(port, needs_program("openssl"), "-tls1_3") as process:
        for command in b"K", b"k", b"K", b"K":  # K: and asks for ours
            say(process, command + b"\n")
            output_up_to(process, b"KEYUPDATE")
            say(process, b"after " + command + b"\n")
            output_up_to(process, b"after " + command)
        say(process, b"Q\n")
        assert process.wait() == 0


def test_a_server_refuses_to_renegotiate_with_s_client(needs_program: Callable[[str], str]) -> None:
    def read(client: gnet.Socket) -> None:
        with suppress(gnet.SslError):  # the client gives up
            echo(client)

    with serving(read) as (_, port), s_client(port, needs_program("openssl"), "-tls1_2") as process:
        say(process, b"R\n")
        output = output_up_to(process, b"no renegotiation")
        assert b"RENEGOTIATING" in output


@contextmanager
def s_server(openssl: str, *arguments: str) -> Iterator[tuple[Any, int]]:
    """`openssl s_server` and its port."""
    pair = keys().server
    command = [openssl, "s_server", "-accept", f"{HOST}:0", "-cert", pair.cert_file, "-key", pair.key_file]
    with running(*command, *arguments) as process:
        output = output_up_to(process, rb"ACCEPT \S+:\d+\n")
        (port,) = re.findall(rb"ACCEPT \S+:(\d+)\n", output)
        yield process, int(port)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_client_of_s_server(version: str, needs_program: Callable[[str], str]) -> None:
    with s_server(needs_program("openssl"), version, "-rev") as (_, port), dial(port) as client:
        for line in [b"a line that comes back reversed", b"and one more"]:
            client.send(line + b"\n")
            assert client.read_line() == line[::-1]


def test_a_client_of_a_server_that_updates_its_keys(needs_program: Callable[[str], str]) -> None:
    with s_server(needs_program("openssl"), "-tls1_3") as (process, port), dial(port) as client:
        client.send(b"hello\n")
        output_up_to(process, b"hello")
        for command in b"K", b"k", b"K":  # K: and asks for ours
            say_alone(process, command + b"\n")
            say(process, b"after " + command + b"\n")
            assert client.read_line() == b"after " + command
            client.send(b"answer to " + command + b"\n")
            output_up_to(process, b"answer to " + command)


def say_alone(process: Any, text: bytes) -> None:
    """Say something and wait until it was read: what follows a command in one read is lost."""
    say(process, text)
    while struct.unpack("i", fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, bytes(4)))[0]:
        gevent.sleep(0.001)


# curl, of a server in the test


def http(client: gnet.Socket) -> None:
    """Serve HTTP/1.1: the page for GET, the length of what came for POST."""
    while request := client.read_line():
        length = 0
        while (header := client.read_line()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"expect":
                client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"%d\n" % len(client.recv_exactly(length)) if request.startswith(b"POST") else PAGE
        client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_server_of_curl(version: str, needs_program: Callable[[str], str], tmp_path: Path) -> None:
    curl = needs_program("curl")
    upload = tmp_path / "upload"
    upload.write_bytes(PAGE)
    limits = [f"--tlsv{version}", "--tls-max", version]
    with serving(http, alpn=["http/1.1"]) as (_, port):
        command = [curl, "--silent", "--show-error", "--fail", "--cacert", keys().ca_file, *limits]
        url = f"https://localhost:{port}/"
        assert run(*command, url) == PAGE
        assert run(*command, url, url) == 2 * PAGE  # over one connection
        assert run(*command, "--data-binary", f"@{upload}", url) == b"%d\n" % len(PAGE)


def test_curl_does_not_trust_a_strange_server(needs_program: Callable[[str], str]) -> None:
    def read(client: gnet.Socket) -> None:
        with pytest.raises(gnet.SslError, match="unknown ca"):
            client.do_handshake()

    with serving(read) as (_, port):
        command = [needs_program("curl"), "--silent", "--show-error", "--cacert", keys().other_ca_file]
        with running(*command, f"https://localhost:{port}/") as process:
            output, _ = process.communicate()
            assert process.returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
            assert b"certificate" in output


# nginx

_NGINX: Final = """
daemon off;
worker_processes 1;
user {user};
error_log stderr error;
pid {directory}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {host}:{port} ssl;
        ssl_certificate {cert_file};
        ssl_certificate_key {key_file};
        ssl_protocols {version};
        root {directory};
    }}
}}
"""


@contextmanager
def nginx(program: str, directory: Path, version: str) -> Iterator[int]:
    """nginx with TLS, and its port; it serves `page.txt`."""
    (directory / "page.txt").write_bytes(PAGE)
    with socket.socket() as listener:
        # It takes over a listener, as it does from a predecessor: so there is no port for others to take.
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        pair = keys().server
        config = directory / "nginx.conf"
        config.write_text(
            _NGINX.format(
                directory=directory,
                user=pwd.getpwuid(os.getuid()).pw_name,
                host=HOST,
                port=port,
                version=version,
                cert_file=pair.cert_file,
                key_file=pair.key_file,
            )
        )
        descriptor = listener.fileno()
        environment = os.environ | {"NGINX": f"{descriptor};"}
        command = [program, "-p", directory, "-e", "stderr", "-c", config]
        with running(*command, env=environment, pass_fds=[descriptor]) as process:
            try:
                yield port
            finally:
                process.terminate()  # its worker would outlive a kill
                process.wait()


def get(client: gnet.Socket, path: str) -> bytes:
    client.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    assert client.read_line() == b"HTTP/1.1 200 OK"
    length = 0
    while (header := client.read_line()) != b"\r\n":
        if header.lower().startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
    return client.recv_exactly(length)


@every_version
def test_a_client_of_nginx(version: str, needs_program: Callable[[str], str], tmp_path: Path) -> None:
    with nginx(needs_program("nginx"), tmp_path, version) as port:
        for _ in range(2):
            with dial(port, alpn=["http/1.1"]) as client:
                assert client.ssl_handle.get_protocol_version_name() == version
                assert client.alpn_protocol == "http/1.1"
                assert get(client, "/page.txt") == PAGE
                assert get(client, "/page.txt") == PAGE


def test_a_client_of_nginx_that_ends_the_connection(
    needs_program: Callable[[str], str], tmp_path: Path
) -> None:
    with nginx(needs_program("nginx"), tmp_path, "TLSv1.3") as port, dial(port) as client:
        client.send(b"GET /page.txt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert client.recv(2 * len(PAGE)) == PAGE
        assert client.recv(1) == b""


# redis


@contextmanager
def redis(program: str, directory: Path, *arguments: str) -> Iterator[int]:
    """redis-server with a TLS port."""
    pair = keys().server
    for _attempt in range(5):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]  # Redis has no port 0; another may take this one meanwhile
        command = [program, "--port", 0, "--tls-port", port, "--bind", HOST, "--save", "", "--dir", directory]
        command += ["--tls-cert-file", pair.cert_file, "--tls-key-file", pair.key_file]
        command += ["--tls-ca-cert-file", keys().ca_file, *arguments]
        with running(*command) as process:
            if any(b"eady to accept connections" in line for line in process.stdout):
                yield port
                return
    pytest.fail("redis-server did not start")


def command(client: gnet.Socket, *words: bytes) -> bytes:
    client.send(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    answer = client.read_line()
    if answer.startswith(b"$"):
        return client.recv_exactly(int(answer[1:]) + 2)[:-2]
    return answer


def test_a_client_of_redis(needs_program: Callable[[str], str], tmp_path: Path) -> None:
    program = needs_program("redis-server")
    with redis(program, tmp_path, "--tls-auth-clients", "no") as port, dial(port) as client:
        assert command(client, b"PING") == b"+PONG"
        assert command(client, b"SET", b"page", PAGE) == b"+OK"
        assert command(client, b"GET", b"page") == PAGE
        client.send(b"PING\r\n" * 10_000)
        assert client.recv(7 * 10_000) == b"+PONG\r\n" * 10_000


def test_a_client_with_a_certificate_of_redis(needs_program: Callable[[str], str], tmp_path: Path) -> None:
    with redis(needs_program("redis-server"), tmp_path, "--tls-auth-clients", "yes") as port:
        with dial(port, pair=keys().client) as client:
            assert command(client, b"PING") == b"+PONG"
        # On TLS 1.3 the refusal comes after the handshake, as far as the client is concerned.
        with dial(port) as client, pytest.raises(gnet.SslError, match="certificate required"):
            client.read_line()


@contextmanager
def ping_server() -> Iterator[int]:
    """`examples/ping_server.py` with TLS."""
    pair = keys().server
    path = os.pathsep.join([str(Path(gnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    program = _ROOT / "examples" / "ping_server.py"
    with running(
        sys.executable,
        program,
        "--tls-cert",
        pair.cert_file,
        "--tls-key",
        pair.key_file,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        output = output_up_to(process, rb"listening on \S+:\d+\n")
        yield int(output.split(b"\n")[0].rpartition(b":")[2])


@pytest.mark.parametrize("pipeline", [1, 32])
def test_a_server_of_redis_benchmark(pipeline: int, needs_program: Callable[[str], str]) -> None:
    with ping_server() as port:
        output = run(
            needs_program("redis-benchmark"),
            "--tls",
            "--cacert",
            keys().ca_file,
            "-p",
            port,
            "-t",
            "ping_inline",
            "-n",
            20_000,
            "-c",
            20,
            "-P",
            pipeline,
            "--csv",
        )
        assert b"PING_INLINE" in output


def test_a_server_of_redis_cli(needs_program: Callable[[str], str]) -> None:
    def answer(client: gnet.Socket) -> None:
        for line in client.lines():
            if line == b"PING":  # the last line of the command
                client.send(b"+PONG\r\n")

    with serving(answer, allow_truncated=True) as (_, port):
        tls = ["--tls", "--cacert", keys().ca_file, "--sni", "localhost"]
        assert run(needs_program("redis-cli"), *tls, "-p", port, "PING") == b"PONG\n"
