"""`new_context` and `SslContext`: versions, ciphers, names, protocols, settings, and the life of a context.

Rows E9, E21 and E22 of the fault catalogue, and C19 for TLS, are the names that tests begin with.
Files and authorities are in `tests/tls/test_certificates.py`, pre-shared keys in `tests/tls/test_psk.py`.
"""

from __future__ import annotations

import gc
import os
import ssl as stdlib_ssl
import stat
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, ssl
from OpenSSL import SSL

import gnet
from gnet import SslCVerifyMode, SslError, SslProtVersion
from gnet.tls import bindings, name_choice
from tests.loopback import GUARD, listening, pair, udp_socket, unix_socket
from tests.tls.authorities import Issued, authority, top
from tests.tls.handshakes import (
    AS_CLIENT,
    AS_SERVER,
    client_context,
    handshake,
    outcome,
    run_program,
    server_context,
    versions,
)

# What OpenSSL still speaks if nobody keeps it from it.
ANCIENT: Final = "ALL:@SECLEVEL=0"


# Versions


@pytest.mark.parametrize(
    ("client", "server", "spoken"),
    [
        ({}, {}, "TLSv1.3"),
        ({"max_version": "TLSv1.2"}, {}, "TLSv1.2"),
        ({}, {"max_version": "TLSv1.2"}, "TLSv1.2"),
        ({"min_version": "TLSv1.3"}, {}, "TLSv1.3"),
        ({"prot_version": SslProtVersion.SSLV23}, {}, "TLSv1.3"),
        ({"min_version": "TLSv1.2", "max_version": "TLSv1.2"}, {}, "TLSv1.2"),
    ],
)
def test_the_newest_version_that_both_allow_is_spoken(
    client: dict[str, Any], server: dict[str, Any], spoken: str, tmp_path: Path
) -> None:
    with handshake(client_context(tmp_path, **client), server_context(tmp_path, **server)) as ends:
        ends.exchange()
        assert ends.version == spoken


def test_without_a_version_in_common_both_learn_it(tmp_path: Path) -> None:
    client = client_context(tmp_path, min_version="TLSv1.3")
    with handshake(client, server_context(tmp_path, max_version="TLSv1.2")) as ends:
        assert isinstance(ends.client_error, SslError)
        assert "alert protocol version" in ends.client_error.reason
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason == "unsupported protocol"
        assert "no TLS version in common" in str(ends.server_error)


@pytest.mark.parametrize("version", [SslProtVersion.SSLV2, SslProtVersion.SSLV3])
def test_broken_versions_are_an_error_that_says_what_to_use(version: SslProtVersion) -> None:
    with pytest.raises(SslError, match=f"{version.name} is broken and not supported; use SSLV23"):
        gnet.new_context(version)


def test_tls_1_0_must_be_asked_for_twice() -> None:
    with pytest.raises(SslError, match=r"TLSV1 is below the floor, TLS 1.2"):
        gnet.new_context(SslProtVersion.TLSV1)
    gnet.new_context(SslProtVersion.TLSV1, min_version="TLSv1")


@pytest.mark.parametrize("name", ["min_version", "max_version"])
@pytest.mark.parametrize("version", ["", "TLSv1.4", "SSLv3", "tlsv1.2", 3, SslProtVersion.SSLV23])
def test_an_unknown_version_is_a_value_error_that_lists_the_known_ones(name: str, version: Any) -> None:
    with pytest.raises(ValueError, match=f"new_context: {name}: expected one of TLSv1, .*, TLSv1.3, got"):
        gnet.new_context(**{name: version})


@pytest.mark.parametrize(
    "versions",
    [
        {"min_version": "TLSv1.3", "max_version": "TLSv1.2"},
        {"max_version": "TLSv1.1"},
        {"min_version": "TLSv1.2", "max_version": "TLSv1"},
    ],
)
def test_a_range_of_versions_with_nothing_in_it_is_an_error(versions: dict[str, Any]) -> None:
    with pytest.raises((ValueError, SslError), match="max_version"):
        gnet.new_context(**versions)


@pytest.mark.parametrize("name", ["prot_version", "verify_mode"])
@pytest.mark.parametrize("value", [0, 1, "PEER", None, SslProtVersion, stdlib_ssl.CERT_REQUIRED])
def test_a_mode_of_another_type_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"new_context: {name}: expected an Ssl"):
        gnet.new_context(**{name: value})


@contextmanager
def old_peer(raw: gnet.Socket, *, server_side: bool, directory: Path, version: Any) -> Iterator[Any]:
    """The stdlib's TLS on a socket's descriptor, speaking one version only and all ciphers there are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    if server_side:
        files = authority().issue("localhost").write(directory)
        context.load_cert_chain(files["cert_file"], files["key_file"])
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(ANCIENT)
    context.minimum_version = context.maximum_version = version
    with socket.socket(fileno=raw.detach()) as plain:
        plain.settimeout(GUARD / 1000)
        yield lambda: context.wrap_socket(plain, server_side=server_side)


OLD: Final = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])


@OLD
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_e9_a_server_that_speaks_old_versions_only_is_refused(version: Any, tmp_path: Path) -> None:
    with (
        pair() as (client, accepted),
        old_peer(accepted, server_side=True, directory=tmp_path, version=version) as serve,
    ):
        serving = gevent.spawn(outcome, serve)
        with pytest.raises(SslError, match=r"alert protocol version|unsupported protocol"):
            client_context(tmp_path).wrap_connected_socket(client, AS_CLIENT, "localhost", GUARD)
        client.close()
        assert isinstance(serving.get(timeout=GUARD / 1000), ssl.SSLError)


@OLD
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_e9_a_client_that_speaks_old_versions_only_is_refused(version: Any, tmp_path: Path) -> None:
    with (
        pair() as (client, accepted),
        old_peer(client, server_side=False, directory=tmp_path, version=version) as connect,
    ):
        connecting = gevent.spawn(outcome, connect)
        with pytest.raises(SslError, match="unsupported protocol"):
            server_context(tmp_path).wrap_connected_socket(accepted, AS_SERVER, "", GUARD)
        accepted.close()
        assert isinstance(connecting.get(timeout=GUARD / 1000), ssl.SSLError)


@OLD
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_e9_old_versions_are_spoken_only_by_who_asks_for_them_by_name(version: Any, tmp_path: Path) -> None:
    # Which also shows that the peer of the two tests above could have spoken.
    server = server_context(tmp_path, min_version="TLSv1", cipher_list=ANCIENT)
    with (
        pair() as (client, accepted),
        old_peer(client, server_side=False, directory=tmp_path, version=version) as connect,
    ):
        connecting = gevent.spawn(connect)
        server.wrap_connected_socket(accepted, AS_SERVER, "", GUARD)
        assert accepted.ssl_handle.get_protocol_version_name() in ("TLSv1", "TLSv1.1")
        connecting.get(timeout=GUARD / 1000).close()


# Ciphers


@pytest.mark.parametrize(
    "ciphers",
    [
        "",
        "NONE",
        "no such cipher",
        "TLS_AES_128_GCM_SHA256",
        "DEFAULT:@SECLEVEL=9",
        "ECDHE-ÖLDSA",
        "\0",
    ],
)
def test_a_cipher_list_without_a_usable_cipher_is_an_error_that_names_it(ciphers: str) -> None:
    with pytest.raises(SslError, match=r"new_context: cipher_list .*: no cipher match") as refused:
        gnet.new_context(cipher_list=ciphers)
    assert repr(ciphers) in str(refused.value)


@pytest.mark.parametrize(
    "suites",
    ["", "NONE", "no such cipher", "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ÖES", "TLS_AES_128_GCM_SHA999"],
)
def test_ciphersuites_without_a_usable_one_are_an_error_that_names_them(suites: str) -> None:
    with pytest.raises(SslError, match=r"new_context: ciphersuites .*: no cipher match") as refused:
        gnet.new_context(ciphersuites=suites)
    assert repr(suites) in str(refused.value)


@pytest.mark.parametrize("name", ["cipher_list", "ciphersuites"])
@pytest.mark.parametrize("value", [5, b"HIGH", ["HIGH"]])
def test_ciphers_that_are_no_str_are_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"new_context: {name}: expected str, got"):
        gnet.new_context(**{name: value})


def test_the_ciphers_that_are_given_are_used(tmp_path: Path) -> None:
    one = "ECDHE-ECDSA-CHACHA20-POLY1305"
    client = client_context(tmp_path, cipher_list=one, max_version="TLSv1.2")
    with handshake(client, server_context(tmp_path)) as ends:
        assert ends.client.ssl_handle.get_cipher_name() == one
    client = client_context(tmp_path, ciphersuites="TLS_CHACHA20_POLY1305_SHA256")
    with handshake(client, server_context(tmp_path)) as ends:
        assert ends.client.ssl_handle.get_cipher_name() == "TLS_CHACHA20_POLY1305_SHA256"


def test_without_a_cipher_in_common_both_learn_it(tmp_path: Path) -> None:
    client = client_context(tmp_path, ciphersuites="TLS_CHACHA20_POLY1305_SHA256", min_version="TLSv1.3")
    server = server_context(tmp_path, ciphersuites="TLS_AES_128_GCM_SHA256")
    with handshake(client, server) as ends:
        assert isinstance(ends.client_error, SslError)
        assert ends.client_error.reason.endswith("alert handshake failure")
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason == "no shared cipher"


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"])
def test_the_default_list_has_no_cipher_without_forward_secrecy_or_authentication(
    cipher: str, tmp_path: Path
) -> None:
    client = client_context(tmp_path, cipher_list=cipher, max_version="TLSv1.2")
    with handshake(client, server_context(tmp_path, authority().issue("localhost"))) as ends:
        assert isinstance(ends.client_error, SslError)
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason == "no shared cipher"


def test_ciphers_that_encrypt_nothing_or_authenticate_nobody_are_not_spoken_whoever_lists_them(
    tmp_path: Path,
) -> None:
    for cipher in ("eNULL", "aNULL"):
        client = client_context(tmp_path, cipher_list=cipher, max_version="TLSv1.2")
        with handshake(client, server_context(tmp_path, cipher_list=cipher)) as ends:
            assert isinstance(ends.client_error, SslError)
            assert isinstance(ends.server_error, SslError)


def test_compression_and_renegotiation_are_off(tmp_path: Path) -> None:
    options = gnet.new_context().context.set_options(0)
    assert options & SSL.OP_NO_COMPRESSION
    assert options & SSL.OP_NO_RENEGOTIATION
    assert not options & SSL.OP_IGNORE_UNEXPECTED_EOF


# Names: SNI out and in


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("localhost", b"localhost"),
        ("www.example.test", b"www.example.test"),
        ("www.example.test.", b"www.example.test"),
        ("127.0.0.1", None),
        ("::1", None),
    ],
)
def test_e21_the_name_is_sent_and_an_address_never(host: str, sent: bytes | None, tmp_path: Path) -> None:
    leaf = authority().issue(host.removesuffix("."))
    with handshake(client_context(tmp_path), server_context(tmp_path, leaf), host) as ends:
        ends.exchange()
        assert ends.server.ssl_handle.get_servername() == sent


def named_server(directory: Path, **named: gnet.SslContext) -> gnet.SslContext:
    """A server for localhost, with contexts for `<name>.example.test`."""
    contexts = {f"{name}.example.test": context for name, context in named.items()}
    return server_context(directory, alpn=["default"], contexts_by_name=contexts)


@versions
@pytest.mark.parametrize("host", ["a.example.test", "b.example.test", "A.Example.TEST"])
def test_e21_a_server_shows_the_certificate_for_the_name(host: str, version: Any, tmp_path: Path) -> None:
    leaves = {name: authority().issue(f"{name}.example.test") for name in "ab"}
    server = named_server(
        tmp_path, **{name: server_context(tmp_path, leaf, alpn=[name]) for name, leaf in leaves.items()}
    )
    client = client_context(tmp_path, max_version=version, alpn=["a", "b", "default"])
    with handshake(client, server, host) as ends:
        ends.exchange()
        assert ends.client.get_peer_certificates()[0] == leaves[host[0].lower()].der
        assert ends.client.alpn_protocol == host[0].lower()


@versions
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "c.example.test"])
def test_e21_a_name_that_is_unknown_or_missing_gets_the_default_certificate(
    host: str, version: Any, tmp_path: Path
) -> None:
    own = authority().issue("localhost", "127.0.0.1", "c.example.test")
    named = server_context(tmp_path, authority().issue("a.example.test"))
    server = server_context(tmp_path, own, contexts_by_name={"a.example.test": named})
    with handshake(client_context(tmp_path, max_version=version), server, host) as ends:
        ends.exchange()
        assert ends.client.get_peer_certificates()[0] == own.der


@versions
def test_e21_what_is_asked_of_clients_goes_by_the_name(version: Any, tmp_path: Path) -> None:
    strict = server_context(
        tmp_path,
        authority().issue("a.example.test"),
        verify_mode=SslCVerifyMode.PEER,
        require_client_cert=True,
        **top().write_ca(tmp_path),
    )
    server = named_server(tmp_path, a=strict)
    nobody = client_context(tmp_path, max_version=version)
    with handshake(nobody, server) as ends:
        ends.exchange()
    with handshake(nobody, server, "a.example.test") as ends:
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason == "peer did not return a certificate"


def client_hello(server_name: bytes | None, name_type: int = 0) -> bytes:
    """A ClientHello of TLS 1.2, with whatever one likes for a name (RFC 5246, 7.4.1.2, and RFC 6066, 3)."""

    def sized(data: bytes) -> bytes:
        return struct.pack(">H", len(data)) + data

    extensions = b"\x00\x0a" + sized(sized(b"\x00\x17")) + b"\x00\x0d" + sized(sized(b"\x04\x03"))
    if server_name is not None:
        extensions += b"\x00\x00" + sized(sized(bytes([name_type]) + sized(server_name)))
    body = b"\x03\x03" + bytes(32) + b"\x00" + sized(b"\xc0\x2b") + b"\x01\x00" + sized(extensions)
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + sized(message)


SERVER_NAMES: Final[dict[str, tuple[bytes | None, int]]] = {
    "none": (None, 0),
    "unknown": (b"unknown.test", 0),
    "empty": (b"", 0),
    "NUL": (b"\0", 0),
    "NUL inside": (b"a.example.test\0.evil.test", 0),
    "255 bytes": (b"a" * 255, 0),
    "256 bytes": (b"a" * 256, 0),
    "5,000 bytes": (b"a" * 5000, 0),
    "no ASCII": (b"\xff\xfe.test", 0),
    "UTF-8": ("bücher.test".encode(), 0),
    "an address": (b"127.0.0.1", 0),
    "a line end": (b"a\r\n.test", 0),
    "another type": (b"a.example.test", 1),
}


@pytest.mark.parametrize("kind", SERVER_NAMES)
@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "one certificate"])
def test_e21_a_strange_name_gets_an_alert_or_the_default_and_harms_nobody(
    kind: str, by_name: bool, tmp_path: Path
) -> None:
    named = {"a": server_context(tmp_path, authority().issue("a.example.test"))} if by_name else {}
    server = named_server(tmp_path, **named)
    with pair() as (peer, accepted):
        serving = gevent.spawn(outcome, lambda: server.wrap_connected_socket(accepted, AS_SERVER, "", GUARD))
        peer.send(client_hello(*SERVER_NAMES[kind]))
        answer = peer.recv_some(5, GUARD)
        assert answer[:1] in (b"\x15", b"\x16")  # an alert, or a ServerHello
        peer.close()
        assert isinstance(serving.get(timeout=GUARD / 1000), SslError)
    with handshake(client_context(tmp_path), server) as ends:
        ends.exchange()


JUNK: Final = {
    "NUL": "localhost\0.evil.test",
    "300 characters": "a." * 150 + "test",
    "a label of 64 characters": "a" * 64 + ".test",
    "a dot": ".",
    "a dot before it": ".example.test",
    "two dots": "www..example.test",
    "a space": "www example.test",
    "a line end": "localhost\r\n",
    "a port": "localhost:443",
    "an address cut short": "127.1",
    "an address in hex": "0x7f.0.0.1",
    "no name in IDNA": "\u2024.test",
    "a surrogate": "\udcff.test",
}


@pytest.mark.parametrize("verify_mode", [SslCVerifyMode.PEER, SslCVerifyMode.NONE])
@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.filterwarnings("ignore::gnet.InsecureWarning")
def test_c19_a_name_that_is_none_is_a_value_error_and_the_socket_is_as_before(
    kind: str, verify_mode: SslCVerifyMode, tmp_path: Path
) -> None:
    context = client_context(tmp_path, verify_mode=verify_mode)
    with pair() as (client, accepted):
        with pytest.raises(ValueError, match=r"host|address"):
            context.wrap_connected_socket(client, AS_CLIENT, JUNK[kind], 500)
        assert not client.is_ssl()
        client.send(b"in clear\n")
        assert accepted.read_line(GUARD) == b"in clear"


@pytest.mark.parametrize(
    "contexts",
    [
        {"a.test": stdlib_ssl.create_default_context()},
        {"a.test": SSL.Context(SSL.TLS_METHOD)},
        {"a.test": None},
        {5: None},
        {b"a.test": None},
        [("a.test", None)],
    ],
    ids=["stdlib", "pyOpenSSL", "None", "int", "bytes", "list"],
)
def test_contexts_by_name_that_are_none_are_a_type_error_of_new_context(
    contexts: Any, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="contexts_by_name"):
        server_context(tmp_path, contexts_by_name=contexts)


def test_a_destroyed_context_by_name_fails_its_own_handshakes_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = server_context(tmp_path, authority().issue("a.example.test"))
    server = named_server(tmp_path, a=named)
    named.destroy_context()
    with handshake(client_context(tmp_path), server, "a.example.test") as ends:
        assert isinstance(ends.client_error, SslError)
        assert isinstance(ends.server_error, SslError)
        assert "destroyed" in str(ends.server_error)
    with handshake(client_context(tmp_path), server) as ends:
        ends.exchange()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["", "a b", "*.example.test", "127.0.0.1", "::1", "a..test", "a\0.test"])
def test_a_name_that_no_client_can_ask_for_is_a_value_error_of_new_context(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="new_context: contexts_by_name"):
        server_context(tmp_path, contexts_by_name={name: gnet.new_context()})


@pytest.mark.parametrize("name", ["bücher.example.test", "XN--Bcher-KVA.example.test."])
def test_a_context_by_name_is_found_whatever_way_its_name_is_written(name: str, tmp_path: Path) -> None:
    leaf = authority().issue("xn--bcher-kva.example.test")
    server = server_context(tmp_path, contexts_by_name={name: server_context(tmp_path, leaf)})
    with handshake(client_context(tmp_path), server, "bücher.example.test") as ends:
        ends.exchange()


def test_a_context_by_name_that_is_destroyed_already_is_a_value_error(tmp_path: Path) -> None:
    with server_context(tmp_path) as named:
        pass
    with pytest.raises(ValueError, match=r"contexts_by_name: the context for 'a.test' was destroyed"):
        server_context(tmp_path, contexts_by_name={"a.test": named})


@versions
def test_a_destroyed_context_by_name_is_no_good_for_a_session_that_goes_on_either(
    version: Any, tmp_path: Path
) -> None:
    # Such a handshake shows no certificate: the server itself must end it.
    named = server_context(tmp_path, authority().issue("a.example.test"))
    server, client = named_server(tmp_path, a=named), client_context(tmp_path, max_version=version)
    with listening() as at:
        for resumed in (False, True):
            with handshake(client, server, "a.example.test", at=at) as ends:
                ends.exchange()
                assert ends.resumed == resumed
        named.destroy_context()
        with handshake(client, server, "a.example.test", at=at, hang_up=False) as ends:
            for call in (
                ends.server.do_handshake,
                lambda: ends.server.send(b"x"),
                lambda: ends.server.recv(1),
            ):
                refused = outcome(call)
                assert isinstance(refused, SslError)
                assert refused.reason == "destroyed context"
            ends.server.close()
            assert isinstance(ends.client_error or outcome(lambda: ends.client.recv(1, GUARD)), SslError)


@versions
@pytest.mark.parametrize("error", [RuntimeError("no way"), KeyboardInterrupt("no way")], ids=repr)
def test_what_goes_wrong_in_the_choice_by_name_fails_that_handshake_and_is_reported(
    error: BaseException,
    version: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(name_choice, "_switch", fail)
    server = named_server(tmp_path, a=server_context(tmp_path, authority().issue("a.example.test")))
    client = client_context(tmp_path, max_version=version)
    with handshake(client, server, "a.example.test") as ends:
        assert isinstance(ends.server_error, SslError)
        assert ends.server_error.reason == "callback"
        assert repr(error) in str(ends.server_error)
        assert isinstance(ends.client_error, SslError)
        assert ends.client_error.reason.endswith("alert handshake failure")
    with handshake(client, server) as ends:
        ends.exchange()
    assert capfd.readouterr().err == ""


def test_a_context_by_name_is_frozen_by_its_first_connection_and_serves_without_the_other_too(
    tmp_path: Path,
) -> None:
    named = server_context(tmp_path, authority().issue("a.example.test"))
    server, client = named_server(tmp_path, a=named), client_context(tmp_path)
    with handshake(client, server) as ends:
        ends.exchange()
    named.session_id_context = "not used yet"
    with handshake(client, server, "a.example.test") as ends:
        ends.exchange()
    with pytest.raises(ValueError, match="can not be changed after its first connection"):
        named.session_id_context = "too late"
    with handshake(client, named, "a.example.test") as ends:
        ends.exchange()


# Application protocols


@versions
@pytest.mark.parametrize(
    ("client", "server", "agreed"),
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"),  # the server's order counts
        (["http/1.1"], ["h2", "http/1.1"], "http/1.1"),
        ([b"h2"], ["h2"], "h2"),
        (["a" * 255], ["a" * 255], "a" * 255),
        (["h2"], [], None),
        ([], ["h2"], None),
        (["h2"], ["h3"], None),
        (["h2"], ["H2"], None),
        ([b"\xff\x01"], [b"\xff\x01"], "\\xff\x01"),
    ],
)
def test_e22_both_agree_on_a_protocol_or_on_none(
    client: list[Any], server: list[Any], agreed: str | None, version: Any, tmp_path: Path
) -> None:
    ours = client_context(tmp_path, alpn=client, max_version=version)
    with handshake(ours, server_context(tmp_path, alpn=server)) as ends:
        ends.exchange()  # without one in common the connection goes on without
        assert ends.client.alpn_protocol == ends.server.alpn_protocol == agreed


@pytest.mark.parametrize(("alpn", "problem"), [([""], "1 to 255 bytes"), (["a" * 256], "1 to 255 bytes")])
def test_a_protocol_of_an_impossible_size_is_a_value_error(alpn: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"new_context: alpn: .*: expected {problem}"):
        gnet.new_context(alpn=alpn)


def test_a_protocol_that_is_no_ascii_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"ascii|ASCII"):
        gnet.new_context(alpn=["é"])


def test_more_protocols_than_a_hello_holds_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="alpn"):
        gnet.new_context(alpn=[f"{number:0255}" for number in range(300)])


def test_protocols_may_come_from_an_iterator(tmp_path: Path) -> None:
    client = client_context(tmp_path, alpn=iter(["h2"]))
    with handshake(client, server_context(tmp_path, alpn=("h2",))) as ends:
        assert ends.client.alpn_protocol == "h2"


@pytest.mark.parametrize("alpn", ["h2", b"h2", [5], [None], [["h2"]], 5])
def test_protocols_of_another_type_are_a_type_error(alpn: Any) -> None:
    with pytest.raises(TypeError, match="alpn"):
        gnet.new_context(alpn=alpn)


# Key logs


def labels(file: Path) -> set[str]:
    return {line.split()[0] for line in file.read_text().splitlines() if line and not line.startswith("#")}


SECRETS: Final = {
    "TLSv1.2": {"CLIENT_RANDOM"},
    "TLSv1.3": {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    },
}


@versions
def test_the_key_log_has_what_wireshark_needs_and_is_for_its_owner_only(version: Any, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "client", tmp_path / "server"
    client = client_context(tmp_path, max_version=version, keylog_file=ours)
    with handshake(client, server_context(tmp_path, keylog_file=str(theirs))) as ends:
        ends.exchange()
    assert labels(ours) >= SECRETS[version]
    assert labels(theirs) >= SECRETS[version]
    assert set(ours.read_text().splitlines()) & set(theirs.read_text().splitlines())
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600


def test_the_key_log_is_added_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("# before\n")
    server = server_context(tmp_path)
    sizes = []
    for _ in range(2):
        with handshake(client_context(tmp_path, keylog_file=file), server) as ends:
            ends.exchange()
        sizes.append(len(file.read_text().splitlines()))
    assert file.read_text().startswith("# before\n")
    assert sizes[1] > sizes[0] > 1


def test_the_variable_for_the_key_log_counts_in_its_mode_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(file))
    with_variables = SslCVerifyMode.PEER_USE_ENV_VARS
    server = server_context(tmp_path)
    with handshake(client_context(tmp_path), server) as ends:
        ends.exchange()
    assert not file.exists()
    own = client_context(tmp_path, verify_mode=with_variables, keylog_file=tmp_path / "own")
    with handshake(own, server) as ends:
        ends.exchange()
    assert not file.exists()
    with handshake(client_context(tmp_path, verify_mode=with_variables), server) as ends:
        ends.exchange()
    assert labels(file) >= SECRETS["TLSv1.3"]


def test_a_key_log_on_a_full_disk_ends_no_connection(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = client_context(tmp_path, keylog_file="/dev/full")
    with handshake(client, server_context(tmp_path)) as ends:
        ends.exchange()
    assert capfd.readouterr().err == ""


def test_a_key_log_that_can_not_be_written_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing" / "log"
    for path in (missing, tmp_path):
        with pytest.raises(SslError, match=f"new_context: keylog_file '{path}': "):
            gnet.new_context(keylog_file=path)
    monkeypatch.setenv("SSLKEYLOGFILE", str(missing))
    with pytest.raises(SslError, match=f"new_context: SSLKEYLOGFILE '{missing}'"):
        gnet.new_context(verify_mode=SslCVerifyMode.PEER_USE_ENV_VARS)


# Settings that freeze


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 32, "text"])
def test_a_session_id_context_of_up_to_32_bytes_is_kept(value: Any, tmp_path: Path) -> None:
    server = server_context(tmp_path)
    server.session_id_context = value
    assert server.session_id_context == (value.encode() if isinstance(value, str) else value)
    with handshake(client_context(tmp_path), server) as ends:
        ends.exchange()


@pytest.mark.parametrize("value", [b"x" * 33, "ü" * 17])
def test_a_session_id_context_over_32_bytes_is_an_error_that_tells_the_limit(value: Any) -> None:
    context = gnet.new_context()
    before = context.session_id_context
    with pytest.raises(SslError, match=r"session_id_context: 3[34] bytes \(limit 32\)"):
        context.session_id_context = value
    assert context.session_id_context == before


@pytest.mark.parametrize("value", [5, None, ["x"]])
def test_a_session_id_context_of_another_type_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="session_id_context: expected bytes, got"):
        gnet.new_context().session_id_context = value


SETTINGS: Final = {
    "session_id_context": b"x",
    "psk_identity_hint": "hint",
    "client_get_psk_func": lambda hint: ("me", b"key"),
    "server_get_psk_func": lambda identity: b"key",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_after_its_first_connection_a_context_does_not_change(name: str, tmp_path: Path) -> None:
    client, server = client_context(tmp_path), server_context(tmp_path)
    with handshake(client, server) as ends:
        ends.exchange()
    for context in (client, server):
        before = getattr(context, name)
        with pytest.raises(
            ValueError, match=f"{name}: a context can not be changed after its first connection"
        ):
            setattr(context, name, SETTINGS[name])
        assert getattr(context, name) == before
    with handshake(client, server) as ends:
        ends.exchange()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_destroyed_context_does_not_change(name: str) -> None:
    context = gnet.new_context()
    context.destroy_context()
    with pytest.raises(ValueError, match="destroyed"):
        setattr(context, name, SETTINGS[name])


def test_extra_data_is_kept_under_numbers_that_nobody_else_has(tmp_path: Path) -> None:
    index, other = gnet.get_ssl_context_extra_data_index(), gnet.get_ssl_context_extra_data_index()
    assert index != other
    context, data = client_context(tmp_path), object()
    context.set_extra_data(index, data)
    assert context.get_extra_data(index) is data
    with handshake(context, server_context(tmp_path)) as ends:
        ends.exchange()
    context.set_extra_data(index, None)  # this is the user's own, and does not freeze
    assert context.get_extra_data(index) is None
    for unknown in (other, -1, 10**30):
        with pytest.raises(SslError, match=f"get_extra_data: no data with index {unknown}"):
            context.get_extra_data(unknown)


@pytest.mark.parametrize("index", ["1", None, 1.0])
def test_an_index_of_another_type_is_a_type_error(index: Any) -> None:
    context = gnet.new_context()
    for call in (lambda: context.get_extra_data(index), lambda: context.set_extra_data(index, 1)):
        with pytest.raises(TypeError, match="extra_data: index"):
            call()


# The end of a context


@versions
def test_connections_go_on_when_their_context_is_destroyed(version: Any, tmp_path: Path) -> None:
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path)
    with handshake(client, server) as ends:
        for context in (client, server):
            context.destroy_context()
            context.destroy_context()
        gc.collect()
        ends.exchange()
        ends.client.close()
        assert ends.server.recv(1, GUARD) == b""


def test_a_destroyed_context_makes_no_connections(tmp_path: Path) -> None:
    with client_context(tmp_path) as context:
        assert repr(context) == "<gnet.SslContext PEER>"
    assert repr(context) == "<gnet.SslContext destroyed>"
    with pair() as (client, _server), listening() as server, gnet.new_socket() as fresh:
        for call in (
            lambda: context.wrap_connected_socket(client, AS_CLIENT, "localhost", GUARD),
            lambda: context.wrap_socket(fresh),
            lambda: context.context,
            lambda: gnet.dial(*server.get_local_addr(), ssl_context=context, timeout=GUARD),
        ):
            with pytest.raises(ValueError, match="SslContext: it was destroyed"):
                call()
        assert not client.is_ssl()
        assert not fresh.is_ssl()


def test_a_listener_whose_context_is_destroyed_says_so_and_leaks_nothing(tmp_path: Path) -> None:
    context = server_context(tmp_path)
    with listening() as server:
        context.wrap_socket(server)
        context.destroy_context()
        with gnet.dial(*server.get_local_addr()) as client:
            with pytest.raises(ValueError, match="destroyed"):
                server.accept(timeout=GUARD)
            assert client.recv(1, GUARD) == b""  # nobody is left holding the other end


def test_a_destroyed_context_lets_go_of_what_it_held(tmp_path: Path) -> None:
    class Data:
        pass

    data = Data()
    gone = weakref.ref(data)
    file = tmp_path / "log"
    context = client_context(tmp_path, keylog_file=file)
    context.set_extra_data(1, data)
    del data
    assert gone() is not None
    context.destroy_context()
    gc.collect()
    assert gone() is None
    with pytest.raises(SslError, match="no data"):
        context.get_extra_data(1)
    open_files = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}
    assert str(file) not in open_files


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# Without verification

_COUNT_WARNINGS: Final = """
import json, sys, warnings
import gevent, gnet
from gnet import SslCVerifyMode, SslHandshakeType

def wrap(context, server, client, role):
    with gnet.new_socket() as listener:
        listener.bind_addr(address="127.0.0.1")
        listener.listen()
        with gnet.dial(*listener.get_local_addr()) as ours, listener.accept() as theirs:
            socket = ours if role is SslHandshakeType.AS_CLIENT else theirs
            try:
                context.wrap_connected_socket(socket, role, "localhost", 0)
            except gnet.TimeoutError:
                pass

counts = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for role in (SslHandshakeType.AS_SERVER, SslHandshakeType.AS_CLIENT, SslHandshakeType.AS_CLIENT):
        wrap(gnet.new_context(verify_mode=SslCVerifyMode.NONE), None, None, role)
        counts.append(len(caught))
print(json.dumps({
    "counts": counts,
    "category": caught[0].category.__name__ if caught else "",
    "text": str(caught[0].message) if caught else "",
}))
"""


def test_a_client_without_verification_warns_once_in_a_process_and_a_server_never() -> None:
    found = run_program(_COUNT_WARNINGS)
    assert found["counts"] == [0, 1, 1]
    assert found["category"] == "InsecureWarning"
    assert "anybody can be the server" in found["text"]


_WHERE_IT_WARNS: Final = """
import json, sys, warnings
import gnet
from gnet import SslCVerifyMode, SslHandshakeType

context = gnet.new_context(verify_mode=SslCVerifyMode.NONE)
with warnings.catch_warnings(record=True) as caught, gnet.new_socket() as listener:
    warnings.simplefilter("always")
    listener.bind_addr(address="127.0.0.1")
    listener.listen()
    host, port = listener.get_local_addr()
    try:
        if sys.argv[1] == "dial":
            gnet.dial(host, port, timeout=200, ssl_context=context)
        elif sys.argv[1] == "connect":
            with gnet.new_socket() as socket:
                context.wrap_socket(socket)
                socket.connect(host, port, 200)
        else:
            with gnet.dial(host, port) as socket:
                context.wrap_connected_socket(socket, SslHandshakeType.AS_CLIENT, "localhost", 0)
    except gnet.TimeoutError:
        pass
print(json.dumps({"files": [warning.filename for warning in caught]}))
"""


@pytest.mark.parametrize("way", ["dial", "connect", "wrap_connected_socket"])
def test_the_warning_points_to_the_line_of_the_program(way: str) -> None:
    assert run_program(_WHERE_IT_WARNS, way)["files"] == ["<string>"]


@pytest.mark.filterwarnings("ignore::gnet.InsecureWarning")
def test_without_verification_anybody_can_be_the_server(tmp_path: Path) -> None:
    stranger = authority().issue("other.test", not_before=-3, not_after=-1)
    client = gnet.new_context(verify_mode=SslCVerifyMode.NONE)
    assert not client.verifies
    for hostname in ("localhost", ""):
        with handshake(client, server_context(tmp_path, stranger), hostname) as ends:
            ends.exchange()


# What is no context, no socket, or not the right one


@pytest.mark.parametrize(
    "context", [stdlib_ssl.create_default_context(), SSL.Context(SSL.TLS_METHOD), True, "tls"]
)
def test_a_context_that_is_none_is_a_type_error_of_dial(context: Any) -> None:
    with (
        listening() as server,
        pytest.raises(TypeError, match="dial: ssl_context: expected an SslContext, got"),
    ):
        gnet.dial(*server.get_local_addr(), timeout=GUARD, ssl_context=context)


def test_tls_is_for_streams(tmp_path: Path) -> None:
    context = client_context(tmp_path)
    with pytest.raises(ValueError, match="dial: ssl_context needs protocol IPPROTO_TCP"):
        gnet.dial("127.0.0.1", 1, gnet.IPPROTO_UDP, ssl_context=context)
    with udp_socket() as datagrams:
        for call in (
            lambda: context.wrap_socket(datagrams),
            lambda: context.wrap_connected_socket(datagrams, AS_CLIENT, "localhost"),
        ):
            with pytest.raises(ValueError, match="needs a stream socket"):
                call()


@pytest.mark.parametrize("thing", [None, 5, "socket"])
def test_what_is_no_socket_of_gnet_is_a_type_error(thing: Any, tmp_path: Path) -> None:
    context = client_context(tmp_path)
    for call in (
        lambda: context.wrap_socket(thing),
        lambda: context.wrap_connected_socket(thing, AS_CLIENT, "localhost"),
    ):
        with pytest.raises(TypeError, match=r"expected a .*Socket, got"):
            call()


def test_a_socket_of_the_stdlib_is_a_type_error(tmp_path: Path) -> None:
    with socket.socket() as theirs, pytest.raises(TypeError, match=r"expected a .*Socket, got"):
        client_context(tmp_path).wrap_socket(theirs)  # type: ignore[arg-type]


def test_a_handshake_of_another_type_is_a_type_error(tmp_path: Path) -> None:
    with pair() as (client, _server):
        for part in (0, "client", None):
            with pytest.raises(TypeError, match="handshake: expected an SslHandshakeType, got"):
                client_context(tmp_path).wrap_connected_socket(client, part, "localhost")  # type: ignore[arg-type]
        assert not client.is_ssl()


def test_the_wrong_way_to_wrap_is_an_error_that_names_the_right_one(tmp_path: Path) -> None:
    context = client_context(tmp_path)
    with pair() as (client, _server), gnet.new_socket() as fresh:
        with pytest.raises(ValueError, match="the socket is connected; use wrap_connected_socket"):
            context.wrap_socket(client)
        with pytest.raises(ValueError, match="the socket is not connected; use wrap_socket"):
            context.wrap_connected_socket(fresh, AS_CLIENT, "localhost")
        context.wrap_socket(fresh)
        with pytest.raises(TypeError, match="speaks TLS already"):
            context.wrap_socket(fresh)
    with pytest.raises(gnet.ClosedError):
        context.wrap_socket(fresh)


def test_a_connection_speaks_tls_once_only(tmp_path: Path) -> None:
    client, server = client_context(tmp_path), server_context(tmp_path)
    with handshake(client, server) as ends:
        with pytest.raises(TypeError, match="speaks TLS already"):
            client.wrap_connected_socket(ends.client, AS_CLIENT, "localhost", GUARD)
        ends.exchange()


TLS_CALLS: Final[dict[str, Callable[[gnet.Socket], object]]] = {
    "do_handshake": lambda plain: plain.do_handshake(GUARD),
    "got_handshake": lambda plain: plain.got_handshake(),
    "ssl_handle": lambda plain: plain.ssl_handle,
    "alpn_protocol": lambda plain: plain.alpn_protocol,
    "get_peer_certificates": lambda plain: plain.get_peer_certificates(),
    "get_psk_identity": lambda plain: plain.get_psk_identity(),
}


@pytest.mark.parametrize("name", TLS_CALLS)
def test_a_tls_call_on_a_plain_socket_is_an_error_that_says_so(name: str) -> None:
    with pair() as (client, _server):
        with pytest.raises(SslError, match=f"{name}: not an SSL socket"):
            TLS_CALLS[name](client)
        assert not client.is_ssl()


@pytest.mark.parametrize("name", [name for name in TLS_CALLS if name != "got_handshake"])
def test_a_tls_call_before_there_is_a_connection_is_an_error_that_says_so(name: str, tmp_path: Path) -> None:
    with gnet.new_socket() as fresh:
        client_context(tmp_path).wrap_socket(fresh)
        assert fresh.is_ssl()
        assert not fresh.got_handshake()
        with pytest.raises(SslError, match=f"{name}: .*not connected"):
            TLS_CALLS[name](fresh)


def test_got_handshake_tells_whether_it_is_complete(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    with pair() as (ours, _theirs):
        assert isinstance(
            outcome(lambda: client.wrap_connected_socket(ours, AS_CLIENT, "localhost", 0)), gnet.TimeoutError
        )
        assert ours.is_ssl()
        assert not ours.got_handshake()
    with handshake(client, server_context(tmp_path)) as ends:
        assert ends.client.got_handshake()
        assert ends.server.got_handshake()


# A socket that was wrapped never speaks in clear


def test_a_wrapped_unix_socket_speaks_tls_or_refuses_to_connect(tmp_path: Path) -> None:
    with unix_socket() as server, unix_socket() as client:
        server.bind_unix("")
        server.listen()
        client_context(tmp_path).wrap_socket(client)
        connected = outcome(lambda: client.connect_unix(server.get_local_addr()[0], 500))
        outcome(lambda: client.send(b"secret"))
        arrived = b""
        with server.accept(timeout=GUARD) if connected is None else unix_socket() as accepted:
            if connected is None:
                client.close()
                arrived = accepted.recv(100, GUARD)
        assert b"secret" not in arrived


def test_a_wrapped_socket_that_did_not_connect_sends_nothing_in_clear(tmp_path: Path) -> None:
    # The name is refused only after the connection is made, if it is.
    with listening() as server, gnet.new_socket() as client:
        client_context(tmp_path).wrap_socket(client)
        refused = outcome(lambda: client.connect("ß\u0307.localhost", server.get_local_addr()[1], 500))
        assert refused is not None
        assert isinstance(outcome(lambda: client.send(b"secret")), OSError)


def test_a_server_that_has_no_certificate_says_so(tmp_path: Path) -> None:
    with handshake(client_context(tmp_path), gnet.new_context(verify_mode=SslCVerifyMode.NONE)) as ends:
        assert isinstance(ends.server_error, SslError)
        assert "the server has no certificate" in str(ends.server_error)
        assert isinstance(ends.client_error, SslError)
        assert ends.client_error.reason.endswith("alert handshake failure")


# Errors by hand


def leave_error(words: str) -> None:
    """Have OpenSSL leave an entry in its queue, as a program does that calls it by itself."""
    context: Any = SSL.Context(SSL.TLS_METHOD)
    if words == "no cipher match":
        bindings._lib.SSL_CTX_set_cipher_list(context._context, b"none")
    else:
        assert words == "data length too long"
        bindings._lib.SSL_CTX_use_psk_identity_hint(context._context, b"x" * 300)


def test_raise_ssl_error_raises_what_is_said() -> None:
    leave_error("no cipher match")
    with pytest.raises(SslError, match=r"^my own words$"):
        gnet.raise_ssl_error("my own words")
    with pytest.raises(SslError, match="no cipher match"):  # nothing was taken away
        gnet.raise_ssl_error()


def test_raise_ssl_error_raises_what_openssl_said_last_and_empties_its_queue() -> None:
    # In Nim the queue stays as it is, for somebody else's connection to stumble over.
    leave_error("no cipher match")
    leave_error("data length too long")
    with pytest.raises(SslError, match=r"^data length too long$") as raised:
        gnet.raise_ssl_error()
    assert raised.value.reason == "data length too long"
    with pytest.raises(SslError, match=r"^No error reported\.$") as raised:
        gnet.raise_ssl_error()
    assert raised.value.reason == ""


# Renewing


def replace(paths: dict[str, Any], issued: Issued, directory: Path) -> None:
    """Write a certificate and its key over the files of another."""
    for name, fresh in issued.write(directory).items():
        paths[name].write_bytes(fresh.read_bytes())


def test_a_renewed_context_has_the_files_as_they_are_now_and_all_else_as_before(tmp_path: Path) -> None:
    first, second = authority().issue("localhost"), authority().issue("localhost")
    paths = first.write(tmp_path)
    old = gnet.new_context(verify_mode=SslCVerifyMode.NONE, max_version="TLSv1.2", alpn=["ping"], **paths)
    old.session_id_context = b"here"
    index = gnet.get_ssl_context_extra_data_index()
    old.set_extra_data(index, "kept")
    replace(paths, second, tmp_path)
    fresh = old.renewed()
    assert fresh.session_id_context == b"here"
    assert fresh.get_extra_data(index) == "kept"
    for server, issued in ((old, first), (fresh, second), (old, first)):
        with handshake(client_context(tmp_path, alpn=["ping"]), server) as ends:
            assert ends.client.get_peer_certificates()[0] == issued.der
            assert (ends.version, ends.client.alpn_protocol) == ("TLSv1.2", "ping")


def test_a_context_is_renewed_with_those_by_name(tmp_path: Path) -> None:
    first, second = authority().issue("other.test"), authority().issue("other.test")
    paths = first.write(tmp_path)
    other = gnet.new_context(verify_mode=SslCVerifyMode.NONE, **paths)
    old = server_context(tmp_path, contexts_by_name={"other.test": other})
    replace(paths, second, tmp_path)
    for server, issued in ((old.renewed(), second), (old, first)):
        with handshake(client_context(tmp_path), server, hostname="other.test") as ends:
            assert ends.client.get_peer_certificates()[0] == issued.der


def test_a_renewed_context_keeps_its_pre_shared_keys() -> None:
    old = gnet.new_context(verify_mode=SslCVerifyMode.NONE)
    old.server_get_psk_func = lambda identity: b"key of " + identity.encode()
    old.psk_identity_hint = "a hint"
    fresh = old.renewed()
    assert fresh.server_get_psk_func is old.server_get_psk_func
    assert fresh.psk_identity_hint == "a hint"


def test_a_file_that_can_not_be_used_leaves_the_old_context_as_it_is(tmp_path: Path) -> None:
    issued = authority().issue("localhost")
    paths = issued.write(tmp_path)
    old = gnet.new_context(verify_mode=SslCVerifyMode.NONE, **paths)
    paths["cert_file"].write_text("garbage")
    with pytest.raises(SslError, match="no certificate in PEM"):
        old.renewed()
    with handshake(client_context(tmp_path), old) as ends:
        ends.exchange()
