"""Certificate authorities and certificates, made when a test needs them: sound ones, and unsound ones.

An `Issued` is a certificate with its key and whoever issued it. `root()` makes one that issued itself, and
`issue()` makes the next one down. Everything about a certificate can be given; what is not given is as a good
CA would have it. Signatures that no CA makes any more (SHA-1, MD5) are made by `resigned`.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH

_DAY: Final = datetime.timedelta(days=1)
_KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

# How the certificate of an authority differs from that of a server.
_AUTHORITY: Final[dict[str, Any]] = {"ca": True, "key_usage": ("key_cert_sign", "crl_sign")}

# sha256WithRSAEncryption and its older relatives (RFC 8017, appendix C), which differ in the last byte.
_RSA_WITH: Final = bytes.fromhex("2a864886f70d0101")
_RSA_WITH_SHA256: Final = _RSA_WITH + b"\x0b"

_CURVES: Final = {"P-192": ec.SECP192R1(), "P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}

_numbers: Final = itertools.count(1)


def new_key(kind: str = "P-256") -> Any:
    """Make a private key: `P-192`, `P-256`, `P-384`, `Ed25519`, or `RSA-` and bits (each once only)."""
    if kind.startswith("RSA-"):
        return _rsa_key(int(kind.removeprefix("RSA-")))
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES[kind])


@functools.cache
def _rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def general_name(name: str) -> x509.GeneralName:
    """Give a name for a certificate's list: an IP address if it is one, else a DNS name.

    `dns:127.0.0.1` is a DNS name whatever it looks like; `uri:…` and `email:…` are what they say.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "dns":
        return x509.DNSName(rest)
    if colon and kind == "uri":
        return x509.UniformResourceIdentifier(rest)
    if colon and kind == "email":
        return x509.RFC822Name(rest)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def subtrees(*names: str) -> list[x509.GeneralName]:
    """Give what a name constraint lists: DNS names, or networks as `127.0.0.0/8`."""
    return [
        x509.IPAddress(ipaddress.ip_network(name)) if "/" in name else x509.DNSName(name) for name in names
    ]


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and whose key signed it (`None`: its own)."""

    certificate: x509.Certificate
    key: Any
    issuer: Issued | None = None

    @property
    def der(self) -> bytes:
        """The certificate as DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        """The key as PEM, encrypted if there is a password."""
        encryption: Any = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        pem: bytes = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        return pem

    def line(self) -> Iterator[Issued]:
        """Give this one, who issued it, and so on up to the root."""
        yield self
        if self.issuer is not None:
            yield from self.issuer.line()

    @property
    def chain(self) -> list[Issued]:
        """What a good server sends: this one and those between it and the root."""
        return [each for each in self.line() if each is self or each.issuer is not None]

    def issue(self, *names: str, **how: Any) -> Issued:
        """Issue a certificate for a server or client of these names: see `make`."""
        return make(self, names=names, **how)

    def intermediate(self, **how: Any) -> Issued:
        """Issue the certificate of an authority below this one."""
        return make(self, **_AUTHORITY | {"path_length": 0} | how)

    def write(self, directory: Path, chain: Iterable[Issued] | None = None) -> dict[str, Any]:
        """Write certificate chain and key to files; give them as arguments of `gnet.new_context`.

        Args:
            chain: what the server sends, instead of `chain`.
        """
        number = next(_numbers)
        cert_file, key_file = directory / f"{number}.pem", directory / f"{number}.key"
        cert_file.write_bytes(b"".join(each.pem for each in (self.chain if chain is None else chain)))
        key_file.touch(0o600)
        key_file.write_bytes(self.key_pem())
        return {"cert_file": cert_file, "key_file": key_file}

    def write_ca(self, directory: Path, *others: Issued) -> dict[str, Any]:
        """Write this certificate (and others) to a file to trust; give it as for `gnet.new_context`."""
        ca_file = directory / f"{next(_numbers)}-ca.pem"
        ca_file.write_bytes(b"".join(each.pem for each in (self, *others)))
        return {"ca_file": ca_file}


@functools.cache
def top() -> Issued:
    """The root that clients in tests trust."""
    return root()


@functools.cache
def authority() -> Issued:
    """The authority below `top` that issues certificates in tests."""
    return top().intermediate()


def root(**how: Any) -> Issued:
    """Make a root: an authority that issued its own certificate. See `make`."""
    return make(None, **_AUTHORITY | how)


def make(
    issuer: Issued | None,
    *,
    names: Iterable[str] = (),
    common_name: str | None = None,
    key: str = "P-256",
    not_before: float = -1,
    not_after: float = 30,
    ca: bool | None = False,
    path_length: int | None = None,
    key_usage: Iterable[str] | None = ("digital_signature",),
    extended: Iterable[x509.ObjectIdentifier] = (),
    permitted: Iterable[str] = (),
    excluded: Iterable[str] = (),
    critical: x509.ExtensionType | None = None,
    empty_names: bool = False,
) -> Issued:
    """Make a certificate.

    Args:
        issuer: whose key signs it; `None`: its own.
        names: the subject's alternative names (`general_name`); without any there is no list of them.
        common_name: of the subject; a number unless given.
        key: see `new_key`.
        not_before, not_after: days from now.
        ca, path_length: the basic constraints; `ca=None`: none at all.
        key_usage: its bits; `None`: the extension is not there.
        extended: the extended key usages; none: the extension is not there.
        permitted, excluded: name constraints (`subtrees`).
        critical: one more extension, marked critical.
        empty_names: have a list of alternative names with nothing in it.
    """
    own_key = new_key(key)
    name = common_name if common_name is not None else f"gnet test {next(_numbers)}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(own_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + not_before * _DAY)
        .not_valid_after(now + not_after * _DAY)
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if ca is not None:
        extensions.append((x509.BasicConstraints(ca, path_length if ca else None), True))
    if key_usage is not None:
        bits = set(key_usage)
        assert bits <= set(_KEY_USAGES), bits
        extensions.append((x509.KeyUsage(**{bit: bit in bits for bit in _KEY_USAGES}), True))
    if extended:
        extensions.append((x509.ExtendedKeyUsage(list(extended)), False))
    alternatives = [general_name(each) for each in names]
    if alternatives or empty_names:
        extensions.append((x509.SubjectAlternativeName(alternatives), False))
    if permitted or excluded:
        constraints = x509.NameConstraints(subtrees(*permitted) or None, subtrees(*excluded) or None)
        extensions.append((constraints, True))
    if critical is not None:
        extensions.append((critical, True))
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    signing = own_key if issuer is None else issuer.key
    return Issued(builder.sign(signing, hashes.SHA256()), own_key, issuer)


def resigned(issued: Issued, digest: str) -> Issued:
    """Give the same certificate, signed by its RSA issuer with `SHA-1` or `MD5`."""
    last, algorithm = {"SHA-1": (b"\x05", hashes.SHA1()), "MD5": (b"\x04", hashes.MD5())}[digest]
    assert issued.issuer is not None
    content = issued.certificate.tbs_certificate_bytes.replace(_RSA_WITH_SHA256, _RSA_WITH + last)
    signature = issued.issuer.key.sign(content, padding.PKCS1v15(), algorithm)
    old = issued.certificate
    whole = (
        issued.der.replace(old.tbs_certificate_bytes, content)
        .replace(_RSA_WITH_SHA256, _RSA_WITH + last)
        .replace(old.signature, signature)
    )
    return Issued(x509.load_der_x509_certificate(whole), issued.key, issued.issuer)
