"""Replays the facts about TLS of those recorded from Nim 1.6.10; `test_nim_facts.py` has the account."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import pytest

import gnet
from gnet import SslCVerifyMode, SslError, SslHandshakeType, SslProtVersion
from tests.loopback import pair
from tests.nim_facts import Outcome, differs, said, same, tcp
from tests.tls.authorities import authority
from tests.tls.handshakes import client_context

BROKEN_VERSION: Final = "a version below TLS 1.2 is refused at once, and not taken in silence"
NOT_TLS: Final = "a call that needs TLS says so on a plain socket, as Nim's gotHandshake does"


def unverified(version: SslProtVersion = SslProtVersion.SSLV23, **arguments: object) -> None:
    """Make a context that verifies nobody, and destroy it."""
    context = gnet.new_context(version, SslCVerifyMode.NONE, **arguments)  # type: ignore[arg-type]
    context.destroy_context()


# Contexts


@differs("newContext(protSSLv2, CVerifyNone)", BROKEN_VERSION)
def test_a_context_for_sslv2_is_refused(nim: Outcome) -> None:
    assert said(lambda: unverified(SslProtVersion.SSLV2)) == {"exc": "SslError"} != nim


@differs("newContext(protSSLv3, CVerifyNone)", BROKEN_VERSION)
def test_a_context_for_sslv3_is_refused(nim: Outcome) -> None:
    assert said(lambda: unverified(SslProtVersion.SSLV3)) == {"exc": "SslError"} != nim


@differs("newContext(protTLSv1, CVerifyNone)", BROKEN_VERSION)
def test_a_context_for_tlsv1_is_refused_unless_it_is_asked_for_as_the_floor_too(nim: Outcome) -> None:
    assert said(lambda: unverified(SslProtVersion.TLSV1)) == {"exc": "SslError"} != nim
    assert said(lambda: unverified(SslProtVersion.TLSV1, min_version="TLSv1")) == nim


@same("newContext(protSSLv23, CVerifyNone)")
def test_a_context_for_all_sound_versions_is_made(nim: Outcome) -> None:
    assert said(unverified) == nim


@differs(
    "newContext certFile only", "a certificate without its key is an error of the context, not of clients"
)
def test_a_certificate_without_a_key_is_refused(nim: Outcome, tmp_path: Path) -> None:
    files = authority().issue("localhost").write(tmp_path)
    files["cert_file"].chmod(0o600)  # the key is looked for there, and a key is for its owner only
    assert said(lambda: unverified(cert_file=files["cert_file"])) == {"exc": "SslError"} != nim
    assert said(lambda: unverified(**files)) == nim


@same("newContext keyFile only")
def test_a_key_without_a_certificate_is_an_ssl_error(nim: Outcome, tmp_path: Path) -> None:
    files = authority().issue("localhost").write(tmp_path)
    assert said(lambda: unverified(key_file=files["key_file"])) == nim


@same("newContext junk cert")
def test_a_certificate_that_is_none_is_an_ssl_error(nim: Outcome, tmp_path: Path) -> None:
    files = authority().issue("localhost").write(tmp_path)
    files["cert_file"].write_bytes(b"this is no certificate\n")
    assert said(lambda: unverified(**files)) == nim


@same("newContext(CVerifyNone, caFile missing)")
def test_who_verifies_nobody_looks_for_no_authorities(nim: Outcome, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert said(lambda: unverified(ca_file=missing)) == nim
    with pytest.raises(SslError, match=r"missing\.pem"):
        gnet.new_context(ca_file=missing)


@same("destroyContext")
def test_a_context_is_destroyed(nim: Outcome) -> None:
    context = gnet.new_context()
    assert said(context.destroy_context) == nim
    with pytest.raises(ValueError, match="destroyed"):
        _ = context.context


@same("sessionIdContext 0/32")
def test_a_session_id_context_has_up_to_32_bytes(nim: Outcome) -> None:
    context = gnet.new_context()
    for value in (b"", bytes(32)):
        assert said(lambda value=value: setattr(context, "session_id_context", value)) == nim  # type: ignore[misc]
        assert context.session_id_context == value
    with pytest.raises(SslError, match="limit 32"):
        context.session_id_context = bytes(33)


@same("clientGetPskFunc default/nil")
def test_there_is_no_function_for_keys_until_one_is_set_and_after_it_is_taken_away(nim: Outcome) -> None:
    context = gnet.new_context()
    found = [context.client_get_psk_func is None]
    context.client_get_psk_func = lambda hint: ("me", b"key")
    assert context.client_get_psk_func is not None
    context.client_get_psk_func = None
    found.append(context.client_get_psk_func is None)
    assert {"r": found} == nim


# Extra data


@differs("ctx facts: getExtraData no data", "an index without data is an error to catch; Nim's is a Defect")
def test_an_index_without_data_is_an_ssl_error(nim: Outcome) -> None:
    context = gnet.new_context()
    index = gnet.get_ssl_context_extra_data_index()
    assert said(lambda: context.get_extra_data(index)) == {"exc": "SslError"} != nim


@same("setExtraData/getExtraData/replace")
def test_extra_data_is_kept_and_replaced(nim: Outcome) -> None:
    context = gnet.new_context()
    index = gnet.get_ssl_context_extra_data_index()
    context.set_extra_data(index, 5)
    assert context.get_extra_data(index) == 5
    context.set_extra_data(index, 6)
    assert said(lambda: context.get_extra_data(index)) == nim


@differs("setExtraData nil", "None is an object as any other; in Nim nil can not be told from no data")
def test_extra_data_may_be_none(nim: Outcome) -> None:
    context = gnet.new_context()
    index = gnet.get_ssl_context_extra_data_index()
    assert said(lambda: context.set_extra_data(index, None)) == {"r": "ok"} != nim
    assert context.get_extra_data(index) is None


# Sockets


@differs("wrapSocket twice", "a mistake of the caller is a TypeError, where Nim asserts")
def test_a_socket_is_wrapped_once_only(nim: Outcome) -> None:
    context = gnet.new_context()
    with tcp() as socket:
        context.wrap_socket(socket)
        with pytest.raises(TypeError, match="speaks TLS already"):
            context.wrap_socket(socket)
        assert socket.is_ssl()
    assert nim == {"exc": "AssertionDefect"}


@differs(
    "isSsl, gotHandshake, hasDataBuffered after wrapSocket",
    "got_handshake is true when the handshake is complete; Nim's is true before it, too",
)
def test_a_wrapped_socket_is_an_ssl_socket_without_data_and_its_handshake_is_to_come(nim: Outcome) -> None:
    with tcp() as socket:
        gnet.new_context().wrap_socket(socket)
        found = [socket.is_ssl(), socket.got_handshake(), socket.has_data_buffered()]
    assert {"r": found} == {"r": [True, False, False]} != nim


@same("gotHandshake plain")
def test_a_plain_socket_has_no_handshake(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.got_handshake) == nim


@differs("getPskIdentity plain", NOT_TLS)
def test_a_plain_socket_has_no_identity(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.get_psk_identity) == {"exc": "SslError"} != nim


@differs("getPeerCertificates plain", NOT_TLS)
def test_a_plain_socket_has_no_certificates_of_a_peer(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.get_peer_certificates) == {"exc": "SslError"} != nim


@same("getPeerCertificates before handshake")
def test_before_the_handshake_the_peer_has_shown_no_certificate(nim: Outcome, tmp_path: Path) -> None:
    with pair() as (ours, _):
        with pytest.raises(gnet.TimeoutError):
            client_context(tmp_path).wrap_connected_socket(
                ours, SslHandshakeType.AS_CLIENT, "localhost", timeout=0
            )
        assert not ours.got_handshake()
        assert said(lambda: len(ours.get_peer_certificates())) == nim


@same("close SSL before handshake")
def test_an_ssl_socket_can_be_closed_before_its_handshake(nim: Outcome) -> None:
    with tcp() as socket:
        gnet.new_context().wrap_socket(socket)
        socket.close()
        assert {"r": [socket.is_ssl(), socket.get_fd()]} == nim


@differs("recv on wrapped, unconnected", "without a connection the error has the kernel's number, ENOTCONN")
def test_a_wrapped_socket_without_a_connection_receives_nothing(nim: Outcome) -> None:
    with tcp() as socket:
        gnet.new_context().wrap_socket(socket)
        assert said(lambda: socket.recv(1)) == {"exc": "OSError", "errno": errno.ENOTCONN} != nim


@differs("send on wrapped, unconnected", "without a connection the error has the kernel's number, ENOTCONN")
def test_a_wrapped_socket_without_a_connection_sends_nothing(nim: Outcome) -> None:
    with tcp() as socket:
        gnet.new_context().wrap_socket(socket)
        assert said(lambda: socket.send(b"x")) == {"exc": "OSError", "errno": errno.ENOTCONN} != nim


@same("isSsl after close; send")
def test_a_closed_ssl_socket_stays_one_and_sends_nothing(nim: Outcome) -> None:
    with tcp() as socket:
        gnet.new_context().wrap_socket(socket)
        socket.close()
        assert socket.is_ssl()
        assert said(lambda: socket.send(b"x")) == nim


# Errors by hand


@same('raiseSSLError("x")')
def test_raise_ssl_error_raises_what_it_is_given(nim: Outcome) -> None:
    assert said(lambda: gnet.raise_ssl_error("x")) == nim
    with pytest.raises(SslError, match=r"^x$"):
        gnet.raise_ssl_error("x")


@same("raiseSSLError() no queued error")
def test_raise_ssl_error_without_an_error_in_the_queue_says_so(nim: Outcome) -> None:
    assert said(gnet.raise_ssl_error) == nim
    with pytest.raises(SslError, match=r"^No error reported\.$"):
        gnet.raise_ssl_error()
