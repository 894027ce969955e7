"""Pre-shared keys: clients and servers of gnet with each other and with openssl's, on TLS 1.2 and 1.3.

Row E26 of the fault catalogue is the name that tests begin with.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import subprocess

import gnet
from gnet import SslCVerifyMode, SslError
from gnet.tls.psk import PskExchange
from tests.conftest import require_program
from tests.loopback import GUARD, listening
from tests.tls.authorities import root
from tests.tls.handshakes import (
    AS_CLIENT,
    AS_SERVER,
    client_context,
    handshake,
    outcome,
    server_context,
    versions,
)

KEY: Final = bytes(range(32))  # with a NUL in it, as a key may have

# On TLS 1.2 the key comes with the cipher; gnet's own list has none of these.
CIPHERS: Final = "PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384"

DEFAULTS: Final[dict[str, Any]] = {"verify_mode": SslCVerifyMode.NONE, "cipher_list": CIPHERS}


def psk_client(identity: Any = "me", key: Any = KEY, **arguments: Any) -> gnet.SslContext:
    return calling_client(lambda hint: (identity, key), **arguments)


def calling_client(function: Any, **arguments: Any) -> gnet.SslContext:
    """Make a client that asks `function` for its identity and key."""
    context = gnet.new_context(**DEFAULTS | arguments)
    context.client_get_psk_func = function
    return context


def psk_server(keys: dict[str, bytes] | None = None, **arguments: Any) -> gnet.SslContext:
    known = {"me": KEY} if keys is None else keys
    return calling_server(lambda identity: known.get(identity, b""), **arguments)


def calling_server(function: Any, **arguments: Any) -> gnet.SslContext:
    """Make a server that asks `function` for the key of an identity."""
    context = gnet.new_context(**DEFAULTS | arguments)
    context.server_get_psk_func = function
    return context


# Both ends of gnet


@versions
def test_both_ends_agree_on_the_identity_and_speak(version: Any) -> None:
    with handshake(psk_client(max_version=version), psk_server()) as ends:
        ends.exchange()
        assert ends.version == version
        assert ends.client.get_psk_identity() == ends.server.get_psk_identity() == "me"
        assert ends.client.get_peer_certificates() == ends.server.get_peer_certificates() == []


@pytest.mark.parametrize("hint", ["", "which key?", "Schlüssel", "h" * 256], ids=len)
def test_on_tls_1_2_the_client_is_given_the_hint(hint: str) -> None:
    given = []

    def choose(text: str) -> tuple[str, bytes]:
        given.append(text)
        return "me", KEY

    server = psk_server()
    if hint:
        server.psk_identity_hint = hint
    with handshake(calling_client(choose, max_version="TLSv1.2"), server) as ends:
        ends.exchange()
    assert given == [hint]


def test_on_tls_1_3_there_is_no_hint() -> None:
    given = []

    def choose(text: str) -> tuple[str, bytes]:
        given.append(text)
        return "me", KEY

    server = psk_server()
    server.psk_identity_hint = "which key?"
    with handshake(calling_client(choose, min_version="TLSv1.3"), server) as ends:
        ends.exchange()
    assert set(given) == {""}


@versions
@pytest.mark.parametrize(
    "identity", ["i", "mit Schlüssel", "i" * 128, "i" * 255, b"in bytes", "Schlüssel".encode()], ids=len
)
def test_an_identity_arrives_as_it_was_given(identity: str | bytes, version: Any) -> None:
    text = identity if isinstance(identity, str) else identity.decode()
    with handshake(psk_client(identity, max_version=version), psk_server({text: KEY})) as ends:
        ends.exchange()
        assert ends.server.get_psk_identity() == ends.client.get_psk_identity() == text


@versions
@pytest.mark.parametrize("key", [b"k", b"\0" * 16, bytes(range(256)), b"k" * 257, b"k" * 512], ids=len)
def test_keys_of_any_size_up_to_the_limit_serve(key: bytes, version: Any) -> None:
    client = psk_client(key=key, max_version=version)
    with handshake(client, psk_server({"me": key})) as ends:
        ends.exchange()


@versions
def test_each_connection_has_the_identity_of_its_own_client(version: Any) -> None:
    keys = {f"client {number}": bytes([number + 1]) * 32 for number in range(30)}

    def look_up(identity: str) -> bytes:
        gevent.sleep(0)  # others come between
        return keys[identity]

    server = calling_server(look_up)

    def connect(identity: str) -> tuple[str, str]:
        with handshake(psk_client(identity, keys[identity], max_version=version), server) as ends:
            ends.exchange()
            return ends.client.get_psk_identity(), ends.server.get_psk_identity()

    connecting = {identity: gevent.spawn(connect, identity) for identity in keys}
    gevent.joinall([*connecting.values()], timeout=GUARD / 1000, raise_error=True)
    assert {identity: each.value for identity, each in connecting.items()} == {
        identity: (identity, identity) for identity in keys
    }


@versions
def test_the_server_is_asked_at_every_connection_and_always_knows_who_it_is(version: Any) -> None:
    asked = []

    def look_up(identity: str) -> bytes:
        asked.append(identity)
        return KEY

    client, server = psk_client(max_version=version), calling_server(look_up)
    with listening() as at:
        for _ in range(3):
            with handshake(client, server, at=at) as ends:
                ends.exchange()
                assert ends.server.get_psk_identity() == ends.client.get_psk_identity() == "me"
    assert asked == ["me"] * 3


@versions
def test_a_connection_leaves_nothing_behind_in_its_context(version: Any) -> None:
    def left() -> int:
        gc.collect()
        return sum(isinstance(each, PskExchange) for each in gc.get_objects())

    before = left()
    client, server = psk_client(max_version=version), psk_server()
    stranger = psk_client("nobody", max_version=version)
    for each in (client, stranger) * 5:
        with handshake(each, server):
            pass
    assert left() == before
    for host in ("localhost\0", ".", "a b"):
        with handshake(client, server, host):
            pass
    assert left() == before


# Who has no key


@versions
@pytest.mark.parametrize(
    ("identity", "key"),
    [
        ("nobody", KEY),
        ("ME", KEY),
        (b"\xff\xfe", KEY),
        ("me", KEY[::-1]),
        ("me", KEY[:-1]),
        ("me", KEY + b"\0"),
    ],
    ids=["another name", "other letters", "no UTF-8", "another key", "a byte less", "a byte more"],
)
def test_another_identity_or_key_is_refused_at_both_ends(identity: Any, key: bytes, version: Any) -> None:
    with handshake(psk_client(identity, key, max_version=version), psk_server(), hang_up=False) as ends:
        assert isinstance(ends.client_error, SslError)
        assert "alert" in ends.client_error.reason
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason != "callback"
        assert ends.server.get_psk_identity() == ""
        assert isinstance(outcome(lambda: ends.server.send(b"secret")), SslError)
        assert isinstance(outcome(lambda: ends.client.send(b"secret")), SslError)


@pytest.mark.parametrize(
    ("key", "version", "reason"),
    [
        (None, "TLSv1.2", "psk identity not found"),
        (None, "TLSv1.3", "no suitable signature algorithm"),
        (KEY[::-1], "TLSv1.3", "binder does not verify"),
    ],
    ids=["another name 1.2", "another name 1.3", "another key 1.3"],
)
def test_the_server_is_told_what_was_wrong(key: bytes | None, version: Any, reason: str) -> None:
    client = psk_client(*(("nobody",) if key is None else ("me", key)), max_version=version)
    with handshake(client, psk_server()) as ends:
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason == reason


def test_an_identity_that_is_no_utf8_is_unknown_and_nobody_is_asked() -> None:
    asked = []

    def look_up(identity: str) -> bytes:
        asked.append(identity)
        return KEY

    server = calling_server(look_up)
    for version in ("TLSv1.2", "TLSv1.3"):
        with handshake(psk_client(b"\xff", max_version=version), server) as ends:
            assert isinstance(ends.server_error, SslError)
    assert asked == []


@versions
@pytest.mark.filterwarnings("ignore::gnet.InsecureWarning")
def test_a_client_without_a_key_is_refused_by_a_server_that_has_no_certificate(version: Any) -> None:
    client = gnet.new_context(verify_mode=SslCVerifyMode.NONE, max_version=version)
    with handshake(client, psk_server(cipher_list=gnet.CIPHERS_INTERMEDIATE + ":" + CIPHERS)) as ends:
        assert isinstance(ends.client_error, SslError)
        assert isinstance(ends.server_error, SslError)


# Keys and certificates


def both_ways(directory: Path, **arguments: Any) -> gnet.SslContext:
    """Make a server that has a certificate and knows a key."""
    server = server_context(directory, cipher_list=f"{CIPHERS}:{gnet.CIPHERS_INTERMEDIATE}", **arguments)
    server.server_get_psk_func = lambda identity: KEY if identity == "me" else b""
    return server


@versions
def test_a_client_with_a_key_refuses_a_server_with_a_certificate(version: Any, tmp_path: Path) -> None:
    # On TLS 1.3 the server just does not take the key, and nobody has verified its certificate.
    server = server_context(tmp_path, root().issue("localhost"), max_version=version)
    client = psk_client(cipher_list=f"{CIPHERS}:{gnet.CIPHERS_INTERMEDIATE}")
    arrived: list[Any] = []
    with handshake(client, server, hang_up=False) as ends:
        assert isinstance(ends.client_error, SslError)
        assert ends.client.get_psk_identity() == ""
        reading = gevent.spawn(lambda: outcome(lambda: arrived.append(ends.server.recv(6, GUARD))))
        errors = [outcome(lambda: ends.client.send(b"secret")), outcome(lambda: ends.client.recv(1, 500))]
        ends.client.close()
        reading.join(GUARD / 1000)
        assert [type(error) for error in errors] == [SslError, SslError]
        assert b"secret" not in arrived


@versions
def test_a_server_with_a_certificate_and_a_key_serves_who_has_either(version: Any, tmp_path: Path) -> None:
    server = both_ways(tmp_path, max_version=version)
    with handshake(psk_client(), server) as ends:
        ends.exchange()
        assert ends.server.get_psk_identity() == "me"
    with handshake(client_context(tmp_path), server) as ends:
        ends.exchange()
        assert ends.server.get_psk_identity() == ""
        assert len(ends.client.get_peer_certificates()) == 3


def test_nobody_gets_an_identity_without_its_key(tmp_path: Path) -> None:
    # The server looks the key up, but the cipher suite has another hash than the key: OpenSSL passes it over
    # without a look at the proof, and goes on with the certificate. Whoever that is, it is not `me`.
    client = client_context(tmp_path, ciphersuites="TLS_AES_256_GCM_SHA384", min_version="TLSv1.3")
    client.client_get_psk_func = lambda hint: ("me", b"a guess")
    with handshake(client, both_ways(tmp_path)) as ends:
        if ends.done:
            ends.exchange()
            assert ends.server.get_psk_identity() == ""
            assert ends.client.get_psk_identity() == ""


@versions
def test_a_client_that_verifies_may_have_a_key_too(version: Any, tmp_path: Path) -> None:
    client = client_context(
        tmp_path, cipher_list=f"{CIPHERS}:{gnet.CIPHERS_INTERMEDIATE}", max_version=version
    )
    client.client_get_psk_func = lambda hint: ("me", KEY)
    with handshake(client, both_ways(tmp_path)) as ends:
        ends.exchange()
        assert ends.client.get_psk_identity() == ends.server.get_psk_identity() == "me"
    with handshake(client, server_context(tmp_path)) as ends:
        ends.exchange()
        assert ends.client.get_psk_identity() == ""
        assert len(ends.client.get_peer_certificates()) == 3
    with handshake(client, server_context(tmp_path, root().issue("localhost"))) as ends:
        assert isinstance(ends.client_error, SslError)
        assert ends.client_error.verify_code == 20


# Callbacks that go wrong


def raising(error: BaseException) -> Callable[[str], Any]:
    def call(_text: str) -> Any:
        raise error

    return call


def giving(value: Any) -> Callable[[str], Any]:
    return lambda _text: value


BAD_CLIENTS: Final = {
    "an exception": (raising(LookupError("no key today")), "no key today"),
    "an OSError": (raising(OSError(2, "no such file")), "no such file"),
    "an SslError": (raising(SslError("mine")), "mine"),
    "None": (giving(None), ""),
    "the identity only": (giving("me"), ""),
    "three values": (giving(("me", KEY, 1)), ""),
    "a key that is str": (giving(("me", "key")), "key as bytes"),
    "a key that is None": (giving(("me", None)), "key as bytes"),
    "an identity that is None": (giving((None, KEY)), "identity as str or bytes"),
    "a key that is too long": (giving(("me", b"k" * 513)), "513 bytes (limit 512)"),
    "an identity that is too long": (giving(("i" * 256, KEY)), "256 bytes (limit 255"),
    "an identity with a NUL": (giving(("a\0b", KEY)), "no NUL"),
    "an identity that is no text": (giving(("\udcff", KEY)), ""),
}

BAD_SERVERS: Final = {
    "an exception": (raising(LookupError("no key today")), "no key today"),
    "an OSError": (raising(OSError(2, "no such file")), "no such file"),
    "an SslError": (raising(SslError("mine")), "mine"),
    "None": (giving(None), "key as bytes"),
    "str": (giving("key"), "key as bytes"),
    "a tuple": (giving(("me", KEY)), "key as bytes"),
    "a key that is too long": (giving(b"k" * 513), "513 bytes (limit 512)"),
}


def assert_callback_failed(error: Exception | None, words: str) -> None:
    assert isinstance(error, SslError), error
    assert error.reason == "callback", error
    assert "PSK callback" in str(error)
    assert words in str(error)
    assert error.__cause__ is not None


@versions
@pytest.mark.parametrize("kind", BAD_CLIENTS)
def test_e26_a_client_whose_callback_fails_says_how_and_no_more_is_harmed(
    kind: str, version: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    function, words = BAD_CLIENTS[kind]
    server = psk_server()
    with handshake(calling_client(function, max_version=version), server) as ends:
        assert_callback_failed(ends.client_error, words)
        assert isinstance(ends.server_error, SslError)
    with handshake(psk_client(max_version=version), server) as ends:
        ends.exchange()
    assert capfd.readouterr().err == ""


@versions
@pytest.mark.parametrize("kind", BAD_SERVERS)
def test_e26_a_server_whose_callback_fails_says_how_and_no_more_is_harmed(
    kind: str, version: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    function, words = BAD_SERVERS[kind]
    server = calling_server(lambda identity: KEY if identity == "good" else function(identity))
    with handshake(psk_client(max_version=version), server) as ends:
        assert_callback_failed(ends.server_error, words)
        assert isinstance(ends.client_error, SslError)
        assert "alert" in ends.client_error.reason
    with handshake(psk_client("good", max_version=version), server) as ends:
        ends.exchange()
    assert capfd.readouterr().err == ""


@versions
def test_e26_a_callback_that_fails_harms_no_handshake_under_way(version: Any) -> None:
    def look_up(identity: str) -> bytes:
        gevent.sleep(0)
        if identity == "bad":
            raise LookupError("no key today")
        return KEY

    server = calling_server(look_up)

    def connect(identity: str) -> bool:
        with handshake(psk_client(identity, max_version=version), server) as ends:
            if ends.done:
                ends.exchange()
            return ends.done

    connecting = [gevent.spawn(connect, identity) for identity in ("good", "bad") * 10]
    gevent.joinall(connecting, timeout=GUARD / 1000, raise_error=True)
    assert [each.value for each in connecting] == [True, False] * 10


@versions
@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt(), gevent.GreenletExit()], ids=repr)
def test_e26_what_is_no_exception_fails_the_handshake_as_well_and_is_not_just_printed(
    end: BaseException, version: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    server = calling_server(raising(end))
    with handshake(psk_client(max_version=version), server) as ends:
        assert_callback_failed(ends.server_error, type(end).__name__)
        assert isinstance(ends.client_error, SslError)
    assert capfd.readouterr().err == ""


@versions
def test_no_key_is_no_error_of_the_callback(version: Any) -> None:
    with handshake(calling_client(giving(("me", b"")), max_version=version), psk_server()) as ends:
        assert isinstance(ends.client_error, SslError)
        assert ends.client_error.reason != "callback"
    with handshake(psk_client(max_version=version), calling_server(giving(b""))) as ends:
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason != "callback"


# The properties


def test_the_properties_are_empty_until_set_and_give_back_what_was_set() -> None:
    context = gnet.new_context()
    assert context.client_get_psk_func is None
    assert context.server_get_psk_func is None
    assert context.psk_identity_hint == ""
    function = giving(("me", KEY))
    context.client_get_psk_func = context.server_get_psk_func = function
    context.psk_identity_hint = "hint"
    assert context.client_get_psk_func is function
    assert context.server_get_psk_func is function
    assert context.psk_identity_hint == "hint"
    context.psk_identity_hint = "Schlüssel".encode()
    assert context.psk_identity_hint == "Schlüssel"


@versions
def test_a_function_that_is_taken_away_is_not_called(version: Any, tmp_path: Path) -> None:
    server = both_ways(tmp_path, max_version=version)
    server.server_get_psk_func = None
    client = client_context(tmp_path)
    client.client_get_psk_func = raising(AssertionError("called"))
    client.client_get_psk_func = None
    with handshake(client, server) as ends:
        ends.exchange()
        assert ends.client.get_psk_identity() == ends.server.get_psk_identity() == ""


def test_setting_one_function_does_not_take_away_the_other() -> None:
    context = psk_server()
    context.client_get_psk_func = giving(("me", KEY))
    with handshake(context, context) as ends:
        ends.exchange()
        assert ends.server.get_psk_identity() == "me"


@pytest.mark.parametrize("name", ["client_get_psk_func", "server_get_psk_func"])
@pytest.mark.parametrize("value", [KEY, "key", 5, {"me": KEY}], ids=["bytes", "str", "int", "dict"])
def test_a_function_that_is_none_is_a_type_error(name: str, value: Any) -> None:
    context = gnet.new_context()
    with pytest.raises(TypeError, match=f"{name}: expected a callable or None, got"):
        setattr(context, name, value)
    assert getattr(context, name) is None


@pytest.mark.parametrize("hint", ["h" * 257, b"h" * 1000, "ü" * 129, "with\0NUL"], ids=len)
def test_a_hint_that_is_impossible_is_an_error_that_tells_the_limit(hint: Any) -> None:
    context = gnet.new_context()
    with pytest.raises(SslError, match=r"psk_identity_hint: \d+ bytes \(limit 256, no NUL\)"):
        context.psk_identity_hint = hint
    assert context.psk_identity_hint == ""


@pytest.mark.parametrize("hint", [5, None, ["hint"]])
def test_a_hint_of_another_type_is_a_type_error(hint: Any) -> None:
    with pytest.raises(TypeError, match="psk_identity_hint: expected str, got"):
        gnet.new_context().psk_identity_hint = hint


def test_the_functions_live_as_long_as_the_connections_need_them() -> None:
    client, server = psk_client(), psk_server()
    with listening() as at, handshake(client, server, at=at) as ends:
        for context in (client, server):
            context.destroy_context()
        del client, server, context
        gc.collect()
        ends.exchange()
        assert ends.server.get_psk_identity() == "me"


# With openssl's programs

OPENSSL_VERSIONS: Final = {"TLSv1.2": ["-tls1_2", "-cipher", "PSK"], "TLSv1.3": ["-tls1_3"]}


@contextmanager
def openssl(*arguments: str) -> Iterator[Any]:
    """Run openssl; its standard error goes where its output goes."""
    process = subprocess.Popen(
        [require_program("openssl"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()


@contextmanager
def s_server(version: str, *arguments: str) -> Iterator[int]:
    """An `openssl s_server` that gives back each line reversed. Gives its port."""
    with openssl(
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-nocert",
        "-rev",
        *OPENSSL_VERSIONS[version],
        *arguments,
    ) as process:
        for line in process.stdout:
            if line.startswith(b"ACCEPT "):
                break
        yield int(line.rpartition(b":")[2])


@versions
@pytest.mark.parametrize("hint", ["", "which key?"])
def test_a_client_gets_on_with_openssl_s_server(hint: str, version: Any) -> None:
    given = []

    def choose(text: str) -> tuple[str, bytes]:
        given.append(text)
        return "me", KEY

    # A client that would speak 1.3 too is asked twice, and the first time there is no hint yet.
    client = calling_client(choose, max_version=version)
    extra = ("-psk_hint", hint) if hint else ()
    with s_server(version, "-psk", KEY.hex(), "-psk_identity", "me", *extra) as port:
        for _ in range(2):
            with gnet.dial("127.0.0.1", port, timeout=GUARD, ssl_context=client) as socket:
                socket.send(b"hello\n")
                assert socket.read_line(GUARD) == b"olleh"
                assert socket.get_psk_identity() == "me"
                assert socket.ssl_handle.get_protocol_version_name() == version
    assert set(given) == {hint if version == "TLSv1.2" else ""}


@versions
def test_openssl_s_server_refuses_a_client_with_another_key(version: Any) -> None:
    with (
        s_server(version, "-psk", KEY.hex(), "-psk_identity", "me") as port,
        pytest.raises(SslError, match="alert"),
    ):
        gnet.dial("127.0.0.1", port, timeout=GUARD, ssl_context=psk_client(key=KEY[::-1]))


@versions
def test_a_server_gets_on_with_openssl_s_client(version: Any) -> None:
    server = psk_server()
    server.psk_identity_hint = "which key?"
    with listening() as at:
        host, port = at.get_local_addr()
        arguments = ["-connect", f"{host}:{port}", "-psk", KEY.hex(), "-psk_identity", "me", "-ign_eof"]
        with openssl("s_client", *arguments, *OPENSSL_VERSIONS[version]) as process:
            with at.accept(timeout=GUARD) as accepted:
                server.wrap_connected_socket(accepted, AS_SERVER, "", GUARD)
                assert accepted.get_psk_identity() == "me"
                assert accepted.ssl_handle.get_protocol_version_name() == version
                process.stdin.write(b"hello\n")
                process.stdin.flush()
                assert accepted.read_line(GUARD) == b"hello"
                accepted.send(b"from gnet\n")
            output = process.stdout.read()
            assert process.wait(GUARD / 1000) == 0
    assert b"from gnet\n" in output
    if version == "TLSv1.2":
        assert b"PSK identity hint: which key?" in output
        assert b"TLS session ticket" not in output


@versions
@pytest.mark.parametrize(
    ("identity", "key"), [("nobody", KEY), ("me", KEY[::-1])], ids=["another name", "another key"]
)
def test_openssl_s_client_with_another_identity_or_key_is_refused(
    identity: str, key: bytes, version: Any
) -> None:
    with listening() as at:
        host, port = at.get_local_addr()
        arguments = ["-connect", f"{host}:{port}", "-psk", key.hex(), "-psk_identity", identity]
        with openssl("s_client", *arguments, *OPENSSL_VERSIONS[version]) as process:
            with at.accept(timeout=GUARD) as accepted:
                error = outcome(lambda: psk_server().wrap_connected_socket(accepted, AS_SERVER, "", GUARD))
            assert isinstance(error, SslError)
            assert b"alert" in process.stdout.read()
            assert process.wait(GUARD / 1000) != 0


def test_a_session_of_somebody_with_a_key_goes_on_for_nobody_without_one(tmp_path: Path) -> None:
    # The server would not know who it is.
    server, session = psk_server(), tmp_path / "session"
    with_key = ["-psk", KEY.hex(), "-psk_identity", "me", "-sess_out", str(session)]
    with listening() as at:
        host, port = at.get_local_addr()
        for arguments in (with_key, ["-sess_in", str(session)]):
            connect = ["s_client", "-connect", f"{host}:{port}", "-ign_eof"]
            with openssl(*connect, *OPENSSL_VERSIONS["TLSv1.3"], *arguments) as process:
                with at.accept(timeout=GUARD) as accepted:
                    error = outcome(lambda: server.wrap_connected_socket(accepted, AS_SERVER, "", GUARD))
                    assert (error is None) == (arguments is with_key)
                    outcome(lambda: accepted.send(b"hello\n"))
                process.stdout.read()
                process.wait(GUARD / 1000)
        assert session.stat().st_size


def test_a_key_works_through_dial_and_accept() -> None:
    client, server = psk_client(), psk_server()
    with listening() as at:
        server.wrap_socket(at)

        def serve() -> str:
            with at.accept(timeout=GUARD) as accepted:
                accepted.send(accepted.read_line(GUARD) + b"\n")
                return accepted.get_psk_identity()

        serving = gevent.spawn(serve)
        with gnet.dial(*at.get_local_addr(), timeout=GUARD, ssl_context=client) as socket:
            socket.send(b"hello\n")
            assert socket.read_line(GUARD) == b"hello"
        assert serving.get(timeout=GUARD / 1000) == "me"


def test_before_the_handshake_nobody_has_an_identity() -> None:
    with listening() as at, gnet.dial(*at.get_local_addr()) as socket:
        error = outcome(lambda: psk_client().wrap_connected_socket(socket, AS_CLIENT, "localhost", 0))
        assert isinstance(error, gnet.TimeoutError)
        assert socket.get_psk_identity() == ""
