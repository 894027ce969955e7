"""Whom a client trusts: a matrix of bad certificates and good ones, each put to a real handshake.

A case is a server's certificate, the name that the client expects, and what is to come of it: the exact error
at the client and the alert at the server, or a connection. `service-identity`, asked for the name alone, must
agree. A row of the fault catalogue (E2–E8) is the name that a test begins with; the matrix has more cases.

That the matrix can fail is shown by taking the name check out of the code: all cases of names connect then.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from gevent import ssl
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

import gnet
from gnet import SslCVerifyMode, SslError, is_ip_address
from gnet.tls import bindings, host_checks
from tests.loopback import GUARD, listening, needs_ipv6, pair
from tests.tls.authorities import CLIENT, SERVER, Issued, authority, make, new_key, resigned, root, top
from tests.tls.handshakes import AS_CLIENT, AS_SERVER, Handshake, handshake, outcome, versions

HOST: Final = "www.example.test"

# The server may present what no sound server would.
ANYTHING: Final = gnet.CIPHERS_INTERMEDIATE + ":@SECLEVEL=0"


# The matrix


@dataclass(frozen=True)
class Refusal:
    """How a certificate is refused: the code and text of X509_V_ERR_…, and the alert that the server gets."""

    code: int
    message: str
    alert: str


NAME: Final = Refusal(62, "hostname mismatch", "bad certificate")
ADDRESS: Final = Refusal(64, "IP address mismatch", "bad certificate")
EXPIRED: Final = Refusal(10, "certificate has expired", "certificate expired")
TOO_EARLY: Final = Refusal(
    9, "certificate is not yet valid or the system clock is incorrect", "bad certificate"
)
NO_ISSUER: Final = Refusal(20, "unable to get local issuer certificate", "unknown ca")
NO_ISSUER_OF_TRUSTED: Final = Refusal(2, "unable to get issuer certificate", "unknown ca")
SELF_SIGNED: Final = Refusal(18, "self-signed certificate", "unknown ca")
STRANGE_ROOT: Final = Refusal(19, "self-signed certificate in certificate chain", "unknown ca")
BAD_SIGNATURE: Final = Refusal(7, "certificate signature failure", "decrypt error")
WEAK_KEY: Final = Refusal(66, "EE certificate key too weak", "bad certificate")
WEAK_CA_KEY: Final = Refusal(67, "CA certificate key too weak", "bad certificate")
WEAK_SIGNATURE: Final = Refusal(68, "CA signature digest algorithm too weak", "bad certificate")
PURPOSE: Final = Refusal(26, "unsuitable certificate purpose", "unsupported certificate")
NO_CA: Final = Refusal(79, "invalid CA certificate", "unknown ca")
PATH_LENGTH: Final = Refusal(25, "path length constraint exceeded", "unknown ca")
TOO_LONG: Final = Refusal(22, "certificate chain too long", "unknown ca")
NOT_PERMITTED: Final = Refusal(47, "permitted subtree violation", "certificate unknown")
EXCLUDED: Final = Refusal(48, "excluded subtree violation", "certificate unknown")
UNKNOWN_EXTENSION: Final = Refusal(34, "unhandled critical extension", "certificate unknown")


@dataclass(frozen=True)
class Shown:
    """A server's certificate; what it sends with it, and whom the client trusts, if not as usual."""

    leaf: Issued
    chain: list[Issued] | None = None
    trusted: Issued | None = None


@dataclass(frozen=True)
class Case:
    """A certificate, the name that is expected, and what comes of it: `None` is a connection."""

    what: str
    make: Callable[[], Issued | Shown]
    refusal: Refusal | None = None
    host: str = HOST

    def __str__(self) -> str:
        return self.what

    def shown(self) -> Shown:
        made = self.make()
        return made if isinstance(made, Shown) else Shown(made)


@functools.cache
def rsa_authority() -> Issued:
    return root(key="RSA-2048").intermediate(key="RSA-2048")


def names(*listed: str, **how: Any) -> Callable[[], Issued]:
    return lambda: authority().issue(*listed, **how)


def leaf(**how: Any) -> Callable[[], Issued]:
    return names(HOST, **how)


def below(**how: Any) -> Callable[[], Issued]:
    """A good certificate from an intermediate authority that is not."""
    return lambda: top().intermediate(**how).issue(HOST)


def below_root(**how: Any) -> Callable[[], Issued]:
    """A good certificate below a root that is not."""
    return lambda: root(**how).intermediate().issue(HOST)


def without(*missing: int) -> Shown:
    """A good certificate, but some of what should come with it does not."""
    last = top().intermediate(path_length=1).intermediate().issue(HOST)
    return Shown(last, [each for number, each in enumerate(last.chain) if number not in missing])


def deep(length: int) -> Issued:
    """A certificate with so many authorities between it and the root."""
    issuer = top()
    for _ in range(length):
        issuer = issuer.intermediate(path_length=None)
    return issuer.issue(HOST)


def from_a_stranger(send_root: bool = False) -> Shown:
    other = root().intermediate().issue(HOST)
    return Shown(other, list(other.line()) if send_root else None, top())


def trusting(choose: Callable[[Issued], Issued]) -> Callable[[], Shown]:
    """A good certificate, where the client trusts another one than the root."""

    def made() -> Shown:
        last = authority().issue(HOST)
        return Shown(last, None, choose(last))

    return made


def forged() -> Issued:
    """Signed by somebody who calls himself what the root is called, with a key of his own."""
    return make(Issued(authority().certificate, new_key(), top()), names=[HOST])


def unknown_extension() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


OTHER_NAMES: Final = [
    Case("another name", names("other.test"), NAME),
    Case("a name below the one expected", names(f"a.{HOST}"), NAME),
    Case("a name above the one expected", names("example.test"), NAME),
    Case("a name that ends alike", names("wwww.example.test", "ww.example.test"), NAME),
    Case("the name and a NUL and more", names(f"{HOST}\0.evil.test"), NAME),
    Case("the name as an email address", names("email:www@example.test"), NAME),
    Case("the name as a URI", names(f"uri:https://{HOST}/"), NAME),
    Case("the name with a dot before it", names(f".{HOST}"), NAME),
    Case("the domain with a dot before it", names(".example.test"), NAME),
    Case("the name with a dot behind it", names(f"{HOST}."), NAME),
    Case("no names at all", names(common_name="a server"), NAME),
    Case("an address for a name", names("127.0.0.1"), NAME, "localhost"),
]

PATTERNS: Final = [  # E7
    Case("a lone star", names("*"), NAME),
    Case("a lone star for a single label", names("*"), NAME, "localhost"),
    Case("a star for a top-level domain", names("*.test"), NAME, "example.test"),
    Case("stars only", names("*.*.*"), NAME),
    Case("a star with letters around it", names("w*w.example.test"), NAME),
    Case("a star behind letters", names("w*.example.test"), NAME),
    Case("a star before letters", names("*w.example.test"), NAME),
    Case("a star that is not in the first label", names("www.*.test"), NAME),
    Case("a star for no label", names(f"*.{HOST}"), NAME),
    Case("a star for two labels", names("*.example.test"), NAME, f"a.{HOST}"),
    Case(
        "a star for half a label of an IDN", names("xn--*.example.test"), NAME, "xn--bcher-kva.example.test"
    ),
    Case("the name in the subject only", names(common_name=HOST), NAME),
    Case("the name in the subject, another in the list", names("other.test", common_name=HOST), NAME),
    Case("the name in the subject, an empty list", names(empty_names=True, common_name=HOST), NAME),
]

ADDRESSES: Final = [  # E5
    Case("another address", names("127.0.0.2"), ADDRESS, "127.0.0.1"),
    Case("another IPv6 address", names("::2"), ADDRESS, "::1"),
    Case("the address as a DNS name", names("dns:127.0.0.1"), ADDRESS, "127.0.0.1"),
    Case("the IPv6 address as a DNS name", names("dns:::1"), ADDRESS, "::1"),
    Case("the address in the subject only", names(common_name="127.0.0.1"), ADDRESS, "127.0.0.1"),
    Case("the address in the subject, a name in the list", names(HOST, common_name="::1"), ADDRESS, "::1"),
    Case("a star in an address", names("dns:*.0.0.1"), ADDRESS, "127.0.0.1"),
    Case("the IPv4 address as an IPv6 one", names("::ffff:127.0.0.1"), ADDRESS, "127.0.0.1"),
    Case("the name that leads to the address", names("localhost"), ADDRESS, "127.0.0.1"),
]

DATES: Final = [  # E2
    Case("expired", leaf(not_before=-30, not_after=-1), EXPIRED),
    Case("expired seconds ago", leaf(not_after=-2 / 86400), EXPIRED),
    Case("not yet valid", leaf(not_before=1), TOO_EARLY),
    Case("an intermediate that has expired", below(not_before=-30, not_after=-1), EXPIRED),
    Case("an intermediate that is not yet valid", below(not_before=1), TOO_EARLY),
    Case("a root that has expired", below_root(not_before=-30, not_after=-1), EXPIRED),
    Case("a root that is not yet valid", below_root(not_before=1), TOO_EARLY),
]

STRANGERS: Final = [  # E3
    Case("self-signed", lambda: Shown(make(None, names=[HOST]), None, top()), SELF_SIGNED),
    Case("of an unknown authority", from_a_stranger, NO_ISSUER),
    Case("of an unknown authority, its root sent along", lambda: from_a_stranger(True), STRANGE_ROOT),
    Case("of somebody with the authority's name", forged, BAD_SIGNATURE),
]

WEAK: Final = [  # E8
    Case("an RSA key of 1,024 bits", leaf(key="RSA-1024"), WEAK_KEY),
    Case("an intermediate with an RSA key of 1,024 bits", below(key="RSA-1024"), WEAK_CA_KEY),
    Case("a root with an RSA key of 1,024 bits", below_root(key="RSA-1024"), WEAK_CA_KEY),
    Case("an intermediate with a curve of 192 bits", below(key="P-192"), WEAK_CA_KEY),
    Case("signed with SHA-1", lambda: resigned(rsa_authority().issue(HOST), "SHA-1"), WEAK_SIGNATURE),
    Case("signed with MD5", lambda: resigned(rsa_authority().issue(HOST), "MD5"), WEAK_SIGNATURE),
    Case(
        "an intermediate signed with SHA-1",
        lambda: resigned(root(key="RSA-2048").intermediate(), "SHA-1").issue(HOST),
        WEAK_SIGNATURE,
    ),
]

CHAINS: Final = [
    Case("no intermediate sent", lambda: without(1, 2), NO_ISSUER),
    Case("the lower intermediate missing", lambda: without(1), NO_ISSUER),
    Case("the upper intermediate missing", lambda: without(2), NO_ISSUER),
    Case(
        "more authorities than the lower one allows",
        lambda: authority().intermediate().issue(HOST),
        PATH_LENGTH,
    ),
    Case("more authorities than the root allows", below_root(path_length=0), PATH_LENGTH),
    Case("more authorities than anybody needs", lambda: deep(105), TOO_LONG),
    Case("only the intermediate is trusted", trusting(lambda last: authority()), NO_ISSUER_OF_TRUSTED),
    Case("only the certificate itself is trusted", trusting(lambda last: last), NO_ISSUER),
]

USES: Final = [
    Case("for clients only", leaf(extended=[CLIENT]), PURPOSE),
    Case("an intermediate for clients only", below(extended=[CLIENT]), PURPOSE),
    Case("an RSA key for signing certificates", leaf(key="RSA-2048", key_usage=["key_cert_sign"]), PURPOSE),
    Case("an RSA key for signing mail", leaf(key="RSA-2048", key_usage=["content_commitment"]), PURPOSE),
    Case("an RSA key for encrypting data", leaf(key="RSA-2048", key_usage=["data_encipherment"]), PURPOSE),
    Case("issued by a server", lambda: authority().issue("other.test").issue(HOST), NO_CA),
    Case("issued by a server that may sign", below(ca=False), NO_CA),
    Case("issued by one of whom nothing is said", below(ca=None, key_usage=None), NO_CA),
    Case("an intermediate that may not sign", below(key_usage=["digital_signature"]), NO_CA),
    Case("a critical extension that nobody knows", leaf(critical=unknown_extension()), UNKNOWN_EXTENSION),
]

CONSTRAINTS: Final = [
    Case("a name outside of what the authority may name", below(permitted=["example.org"]), NOT_PERMITTED),
    Case("a name that the authority must not name", below(excluded=["example.test"]), EXCLUDED),
    Case(
        "a second name outside of what the authority may name",
        lambda: top().intermediate(permitted=["example.test"]).issue(HOST, "example.org"),
        NOT_PERMITTED,
    ),
    Case(
        "an address outside of what the authority may name",
        lambda: top().intermediate(permitted=["10.0.0.0/8"]).issue("127.0.0.1"),
        NOT_PERMITTED,
        "127.0.0.1",
    ),
    Case(
        "an address that the authority must not name",
        lambda: top().intermediate(excluded=["127.0.0.0/8"]).issue("127.0.0.1"),
        EXCLUDED,
        "127.0.0.1",
    ),
]

ABOUT_NAMES: Final = OTHER_NAMES + PATTERNS + ADDRESSES
BAD: Final = ABOUT_NAMES + DATES + STRANGERS + WEAK + CHAINS + USES + CONSTRAINTS

GOOD: Final = [
    Case("the name", leaf()),
    Case("the name among others", names("other.test", "127.0.0.1", HOST)),
    Case("the name in other letters", names("WWW.Example.TEST")),
    Case("the name asked for in other letters", leaf(), host="WWW.Example.TEST"),
    Case("the name asked for with a dot behind it", leaf(), host=f"{HOST}."),
    Case("a single label", names("localhost"), host="localhost"),
    Case("an IDN", names("xn--bcher-kva.example.test"), host="xn--bcher-kva.example.test"),
    Case("a star for the first label", names("*.example.test")),
    Case("an IPv4 address", names("127.0.0.1"), host="127.0.0.1"),
    Case("an IPv6 address", names("::1"), host="::1"),
    Case("an IPv6 address in other words", names("2001:db8::1"), host="2001:0db8:0:0:0:0:0:1"),
    Case("a self-signed certificate that is trusted", lambda: make(None, names=[HOST])),
    Case("of the root itself", lambda: top().issue(HOST)),
    Case("six authorities", lambda: deep(6)),
    Case("the chain in another order", lambda: Shown(*_shuffled())),
    Case("strange certificates sent along", lambda: Shown(*_padded())),
    Case("the root sent along", lambda: Shown(*_with_root())),
    Case("for servers", leaf(extended=[SERVER])),
    Case("for servers and clients", leaf(extended=[SERVER, CLIENT])),
    Case("no word about its use", leaf(key_usage=None)),
    Case("a name that the authority may name", below(permitted=["example.test"])),
    Case("an RSA key of 2,048 bits", lambda: rsa_authority().issue(HOST, key="RSA-2048")),
    Case("a curve of 384 bits", leaf(key="P-384")),
]


def _shuffled() -> tuple[Issued, list[Issued]]:
    last = top().intermediate(path_length=1).intermediate().issue(HOST)
    lowest, lower, upper = last.chain
    return last, [lowest, upper, lower]


def _padded() -> tuple[Issued, list[Issued]]:
    last = authority().issue(HOST)
    return last, [last, root(), authority(), root()]


def _with_root() -> tuple[Issued, list[Issued]]:
    last = authority().issue(HOST)
    return last, list(last.line())


def cases(*lists: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [case for each in lists for case in each], ids=str)


# Putting a case to a handshake


def contexts(case: Case, directory: Path, version: Any = None) -> tuple[gnet.SslContext, gnet.SslContext]:
    """Make a client that trusts the case's root, and a server that shows its certificate."""
    shown = case.shown()
    trusted = shown.trusted if shown.trusted is not None else [*shown.leaf.line()][-1]
    client = gnet.new_context(**trusted.write_ca(directory), max_version=version)
    server = gnet.new_context(
        verify_mode=SslCVerifyMode.NONE, cipher_list=ANYTHING, **shown.leaf.write(directory, shown.chain)
    )
    return client, server


@contextmanager
def tried(case: Case, directory: Path, version: Any = None, *, hang_up: bool = True) -> Iterator[Handshake]:
    client, server = contexts(case, directory, version)
    with handshake(client, server, case.host, hang_up=hang_up) as ends:
        yield ends


def service_identity_accepts(case: Case) -> bool:
    """What service-identity says of the name alone."""
    certificate = case.shown().leaf.certificate
    check: Any = verify_certificate_ip_address if is_ip_address(case.host) else verify_certificate_hostname
    try:
        # It does not know that a dot behind a name says that the name is complete.
        check(certificate, case.host.removesuffix("."))
    except (CertificateError, VerificationError):
        return False
    return True


def assert_refused(case: Case, directory: Path, version: Any) -> None:
    refusal = case.refusal
    assert refusal is not None
    with tried(case, directory, version) as ends:
        error = ends.client_error
        assert isinstance(error, SslError), error
        assert (error.verify_code, error.verify_message) == (refusal.code, refusal.message)
        assert error.reason == "certificate verify failed"
        assert f"certificate verify failed: {refusal.message} (code {refusal.code})" in str(error)
        assert isinstance(ends.server_error, SslError), ends.server_error
        assert ends.server_error.reason.endswith(f"alert {refusal.alert}")


# The cases


@versions
@cases(DATES)
def test_e2_what_is_out_of_its_dates_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(STRANGERS)
def test_e3_what_nobody_trusted_has_issued_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(OTHER_NAMES)
def test_e4_another_name_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(ADDRESSES)
def test_e5_another_address_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(PATTERNS)
def test_e7_a_pattern_that_says_too_much_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(WEAK)
def test_e8_weak_keys_and_signatures_are_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(CHAINS)
def test_a_chain_with_a_missing_link_or_too_many_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(USES)
def test_what_was_issued_for_another_use_is_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(CONSTRAINTS)
def test_names_that_the_authority_may_not_name_are_refused(case: Case, version: Any, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, version)


@versions
@cases(GOOD)
def test_a_good_certificate_is_accepted(case: Case, version: Any, tmp_path: Path) -> None:
    with tried(case, tmp_path, version) as ends:
        ends.exchange()
        assert ends.version == version
        sent = ends.client.ssl_handle.get_peer_certificate(as_cryptography=True)
        assert sent is not None
        assert ends.client.get_peer_certificates()[0] == sent.public_bytes(Encoding.DER)


def test_the_matrix_is_large_and_every_case_has_a_name_of_its_own() -> None:
    assert len(BAD) >= 40
    assert len(GOOD) >= 15
    assert len({case.what for case in BAD + GOOD}) == len(BAD + GOOD)
    assert all(case.refusal is None for case in GOOD)


@cases(BAD, GOOD)
def test_service_identity_agrees_about_the_name(case: Case) -> None:
    assert service_identity_accepts(case) == (case.refusal not in (NAME, ADDRESS))


def test_a_star_may_stand_for_a_label_of_an_idn_though_service_identity_refuses_it(tmp_path: Path) -> None:
    # RFC 9525, section 6.3, has no exception for labels that begin with xn--, if the star is the whole label.
    case = Case("a star for an IDN", names("*.example.test"), host="xn--bcher-kva.example.test")
    with tried(case, tmp_path) as ends:
        ends.exchange()
    assert not service_identity_accepts(case)


@pytest.mark.parametrize("usage", ["key_encipherment", "key_agreement"])
def test_a_key_for_exchanging_keys_alone_passes_as_openssl_has_it(usage: str, tmp_path: Path) -> None:
    # RFC 8446, section 4.4.2.2, wants digitalSignature: who says what is verified must not promise that.
    with tried(Case(usage, leaf(key="RSA-2048", key_usage=[usage])), tmp_path) as ends:
        ends.exchange()


# What a refusal says and does


@cases(DATES[:2])
def test_e2_the_error_says_when_it_expired(case: Case, tmp_path: Path) -> None:
    made = case.shown()
    with tried(Case(case.what, lambda: made), tmp_path) as ends:
        assert f"{made.leaf.certificate.not_valid_after_utc:%Y-%m-%d}" in str(ends.client_error)


def test_e2_the_error_says_from_when_on_it_is_valid(tmp_path: Path) -> None:
    made = leaf(not_before=1)()
    with tried(Case("not yet valid", lambda: made), tmp_path) as ends:
        assert f"{made.certificate.not_valid_before_utc:%Y-%m-%d}" in str(ends.client_error)


@versions
@cases([OTHER_NAMES[0], ADDRESSES[0], DATES[0], STRANGERS[0], WEAK[0], CONSTRAINTS[0]])
def test_after_a_refusal_nothing_is_sent_and_nothing_is_read(
    case: Case, version: Any, tmp_path: Path
) -> None:
    with tried(case, tmp_path, version, hang_up=False) as ends:
        assert isinstance(ends.client_error, SslError)
        for call in uses_of(ends.client):
            error = outcome(call)
            assert isinstance(error, SslError), error
            assert error.verify_code == ends.client_error.verify_code
        ends.client.close()
        assert isinstance(outcome(lambda: ends.server.recv_some(100, GUARD)), SslError)


def uses_of(socket: gnet.Socket) -> list[Callable[[], object]]:
    return [
        lambda: socket.send(b"secret"),
        lambda: socket.recv(1, 500),
        lambda: socket.read_line(500),
        lambda: socket.do_handshake(500),
        lambda: socket.send(b"secret"),
    ]


@versions
@cases([OTHER_NAMES[0], ADDRESSES[0], DATES[0], STRANGERS[1], USES[0]])
def test_the_alert_reaches_a_server_of_the_stdlib(case: Case, version: Any, tmp_path: Path) -> None:
    refusal, made = case.refusal, case.shown()
    assert refusal is not None
    files = made.leaf.write(tmp_path, made.chain)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(files["cert_file"], files["key_file"])
    ours = gnet.new_context(**(made.trusted or top()).write_ca(tmp_path), max_version=version)
    with pair() as (client, accepted):
        raw = gevent.socket.socket(fileno=accepted.detach())
        raw.settimeout(GUARD / 1000)

        def serve() -> str:
            with pytest.raises(ssl.SSLError) as refused, theirs.wrap_socket(raw, server_side=True) as server:
                server.recv(1)
            return str(refused.value.reason)

        serving = gevent.spawn(serve)
        with pytest.raises(SslError) as refused, client:
            ours.wrap_connected_socket(client, AS_CLIENT, case.host, GUARD)
        assert refused.value.verify_code == refusal.code
        with raw:
            reason = serving.get(timeout=GUARD / 1000)
        assert reason.endswith(f"ALERT_{refusal.alert.upper().replace(' ', '_')}")


# Ways to connect


@contextmanager
def serving_tls(context: gnet.SslContext, host: str = "127.0.0.1") -> Iterator[int]:
    """A TLS server that answers every line; gives its port. A client that ends the handshake is no matter."""

    def answer(client: gnet.Socket) -> None:
        with client:
            outcome(lambda: client.send(client.read_line(GUARD) + b"\n"))

    def serve() -> None:
        while True:
            handlers.append(gevent.spawn(answer, server.accept()))

    handlers: list[Any] = []
    with listening(host) as server:
        context.wrap_socket(server)
        accepting = gevent.spawn(serve)
        try:
            yield server.get_local_addr()[1]
            gevent.joinall(handlers, timeout=GUARD / 1000)
            assert all(handler.dead for handler in handlers)
        finally:
            gevent.killall([accepting, *handlers])


def dialled(host: str, port: int, context: gnet.SslContext) -> gnet.Socket:
    return gnet.dial(host, port, timeout=GUARD, ssl_context=context)


def connected(host: str, port: int, context: gnet.SslContext) -> gnet.Socket:
    with ExitStack() as stack:
        socket = stack.enter_context(gnet.new_socket(gnet.AF_INET6 if ":" in host else gnet.AF_INET))
        context.wrap_socket(socket)
        socket.connect(host, port, GUARD)
        stack.pop_all()
    return socket


ways = pytest.mark.parametrize("connect", [dialled, connected])
Connect = Callable[[str, int, gnet.SslContext], gnet.Socket]


@ways
def test_e4_the_name_that_was_asked_for_counts_and_not_the_address_it_leads_to(
    connect: Connect, tmp_path: Path
) -> None:
    client, server = contexts(Case("", names("127.0.0.1", "::1", "localhost")), tmp_path)
    with serving_tls(server) as port:
        with connect("localhost", port, client) as socket:
            socket.send(b"hello\n")
            assert socket.read_line(GUARD) == b"hello"
        with pytest.raises(SslError, match=f":{port}.*hostname mismatch") as refused:
            connect("www.localhost", port, client)
        assert refused.value.verify_code == NAME.code


@ways
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_e5_who_connects_by_address_gets_that_address(connect: Connect, host: str, tmp_path: Path) -> None:
    client, server = contexts(Case("", names(host)), tmp_path)
    with serving_tls(server, host) as port, connect(host, port, client) as socket:
        socket.send(b"hello\n")
        assert socket.read_line(GUARD) == b"hello"
    _, other = contexts(Case("", names("localhost")), tmp_path)
    with serving_tls(other, host) as port, pytest.raises(SslError) as refused:
        connect(host, port, client)
    assert refused.value.verify_code == ADDRESS.code


@ways
def test_a_name_in_other_letters_than_ascii_is_verified_as_it_is_looked_up(
    connect: Connect, tmp_path: Path
) -> None:
    client, server = contexts(Case("", names("xn--bcher-kva.localhost")), tmp_path)
    with serving_tls(server) as port, connect("bücher.localhost", port, client) as socket:
        socket.send(b"hello\n")
        assert socket.read_line(GUARD) == b"hello"


def test_a_name_in_other_letters_than_ascii_is_verified_on_a_connected_socket_too(tmp_path: Path) -> None:
    client, server = contexts(Case("", names("xn--bcher-kva.example.test")), tmp_path)
    with handshake(client, server, "bücher.example.test") as ends:
        ends.exchange()


@ways
def test_a_refused_peer_leaves_no_socket_open(connect: Connect, tmp_path: Path) -> None:
    client, server = contexts(STRANGERS[1], tmp_path)
    with serving_tls(server) as port:
        for _ in range(20):
            assert isinstance(outcome(lambda: connect("127.0.0.1", port, client)), SslError)


def test_e6_a_client_that_verifies_must_say_whom_it_expects(tmp_path: Path) -> None:
    client, server = contexts(GOOD[0], tmp_path)
    with pair() as (ours, theirs):
        with pytest.raises(ValueError, match="hostname: a client that verifies must say whom it expects"):
            client.wrap_connected_socket(ours, AS_CLIENT, timeout=GUARD)
        # Nothing was sent, and nothing is lost: with a name it works.
        serving = gevent.spawn(server.wrap_connected_socket, theirs, AS_SERVER, "", GUARD)
        client.wrap_connected_socket(ours, AS_CLIENT, HOST, GUARD)
        serving.get(timeout=GUARD / 1000)


@pytest.mark.parametrize("host", [None, b"www.example.test", 5])
def test_e6_a_name_of_another_type_is_a_type_error(host: Any, tmp_path: Path) -> None:
    client, _ = contexts(GOOD[0], tmp_path)
    with pair() as (ours, _theirs):
        with pytest.raises(TypeError, match=r"hostname: expected .*str, got"):
            client.wrap_connected_socket(ours, AS_CLIENT, host, GUARD)
        assert not ours.is_ssl()


# Without the check, and without what it is made with


def connects(case: Case, directory: Path) -> bool:
    with tried(case, directory) as ends:
        return ends.done


def test_without_the_name_check_every_case_about_names_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bindings.name_checks_work()  # which is remembered: the mutation comes after it
    monkeypatch.setattr(bindings, "expect_host", lambda connection, name: None)
    monkeypatch.setattr(bindings, "expect_ip", lambda connection, packed: None)
    assert [case.what for case in ABOUT_NAMES if connects(case, tmp_path)] == [
        case.what for case in ABOUT_NAMES
    ]


def test_without_the_flags_of_the_name_check_subjects_and_partial_stars_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "_HOST_FLAGS", 0)
    # A star with letters on both sides is nothing that OpenSSL ever takes for a pattern.
    assert {case.what for case in PATTERNS if connects(case, tmp_path)} == {
        "a star behind letters",
        "a star before letters",
        "the name in the subject only",
        "the name in the subject, an empty list",
    }


@pytest.mark.parametrize(
    ("owner", "name"),
    [(bindings, "expect_host"), (bindings._lib, "X509_VERIFY_PARAM_set1_host")],
    ids=["ours", "OpenSSL's"],
)
def test_the_self_check_finds_a_call_that_checks_nothing(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bindings.name_checks_work.__wrapped__()
    monkeypatch.setattr(owner, name, lambda *arguments: 1)
    assert not bindings.name_checks_work.__wrapped__()


@pytest.fixture
def no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have names checked without the binding that does it inside OpenSSL."""
    monkeypatch.setattr(bindings, "name_checks_work", lambda: False)


@pytest.mark.usefixtures("no_binding")
@cases(ABOUT_NAMES)
def test_without_the_binding_another_name_is_refused_too_and_nothing_is_sent(
    case: Case, tmp_path: Path
) -> None:
    with tried(case, tmp_path, hang_up=False) as ends:
        assert isinstance(ends.client_error, SslError), ends.client_error
        assert ends.client_error.reason == "certificate verify failed"
        assert ends.client_error.verify_code in (NAME.code, ADDRESS.code)
        assert [type(outcome(call)) for call in uses_of(ends.client)] == [SslError] * 5


@pytest.mark.usefixtures("no_binding")
@cases([OTHER_NAMES[0], PATTERNS[0], ADDRESSES[0]])
@versions
def test_without_the_binding_the_peer_learns_why_too(case: Case, version: Any, tmp_path: Path) -> None:
    with tried(case, tmp_path, version) as ends:
        assert isinstance(ends.server_error, SslError), ends.server_error
        # Which one, a callback of pyOpenSSL has no say in: OpenSSL takes its refusal for an internal error.
        assert "alert" in ends.server_error.reason


@pytest.mark.usefixtures("no_binding")
@cases(GOOD)
def test_without_the_binding_a_good_certificate_is_accepted_too(case: Case, tmp_path: Path) -> None:
    with tried(case, tmp_path) as ends:
        ends.exchange()


@pytest.mark.usefixtures("no_binding")
@cases([DATES[0], STRANGERS[1], WEAK[0], USES[0]])
def test_without_the_binding_all_else_is_verified_too(case: Case, tmp_path: Path) -> None:
    assert_refused(case, tmp_path, "TLSv1.3")


@pytest.mark.usefixtures("no_binding")
@versions
def test_without_the_binding_the_error_is_the_same(version: Any, tmp_path: Path) -> None:
    for case in (OTHER_NAMES[0], ADDRESSES[0]):
        refusal = case.refusal
        assert refusal is not None
        with tried(case, tmp_path, version, hang_up=False) as ends:
            for error in (ends.client_error, outcome(lambda: ends.client.send(b"secret"))):
                assert isinstance(error, SslError)
                assert (error.verify_code, error.verify_message) == (refusal.code, refusal.message)
                assert f"certificate verify failed: {refusal.message} (code {refusal.code})" in str(error)


@pytest.mark.usefixtures("no_binding")
def test_without_the_binding_a_check_that_goes_wrong_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RecursionError("no way")

    monkeypatch.setattr(host_checks, "_check_leaf", fail)
    with tried(GOOD[0], tmp_path) as ends:
        assert isinstance(ends.client_error, SslError)
        assert "RecursionError('no way')" in str(ends.client_error)
        assert isinstance(ends.server_error, SslError)
        assert "alert" in ends.server_error.reason
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("no_binding")
def test_without_the_binding_a_check_that_was_never_made_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_checks.HostCheck, "verify", lambda *arguments: arguments[-1])
    with tried(GOOD[0], tmp_path) as ends:
        assert isinstance(ends.client_error, SslError)
        assert "the name of the server was not checked" in str(ends.client_error)


@pytest.mark.usefixtures("no_binding")
@versions
def test_without_the_binding_sessions_go_on_for_their_own_name_only(version: Any, tmp_path: Path) -> None:
    client, server = contexts(GOOD[0], tmp_path, version)
    with listening() as at:
        for host, done in ((HOST, True), (HOST, True), ("other.test", False), (HOST, True)):
            with handshake(client, server, host, at=at) as ends:
                assert ends.done == done
                if done:
                    ends.exchange()


@pytest.mark.usefixtures("no_binding")
def test_without_the_binding_and_service_identity_a_client_refuses_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = contexts(GOOD[0], tmp_path)
    for name in ("service_identity", "service_identity.pyopenssl", "service_identity.cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    message = "a client can not verify here: .* and service-identity can not be imported"
    with pair() as (ours, theirs):
        with pytest.raises(SslError, match=message):
            client.wrap_connected_socket(ours, AS_CLIENT, HOST, GUARD)
        assert not ours.is_ssl()
        ours.send(b"in clear\n")  # nothing else was sent before
        assert theirs.read_line(GUARD) == b"in clear"
    with listening() as at, gnet.new_socket() as fresh:
        host, port = at.get_local_addr()
        client.wrap_socket(fresh)
        for call in (
            lambda: gnet.dial(host, port, timeout=GUARD, ssl_context=client),
            lambda: fresh.connect(host, port, GUARD),
        ):
            with pytest.raises(SslError, match=message):
                call()
        with pytest.raises(gnet.TimeoutError):
            at.accept(timeout=0)  # nobody came
