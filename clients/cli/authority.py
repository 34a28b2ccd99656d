"""The fleet's own certificate authority: it vouches for the hub and the store, and for those who may use the store."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clients.cli.files import write_secret

_AUTHORITY_DAYS, _SERVER_DAYS = 3650, 825


def make_authority(folder: Path, now: dt.datetime) -> None:
    """Write `authority.crt` and `authority.key` (P-256) unless they are there."""
    if (folder / "authority.key").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fairlead")])
    usage = x509.KeyUsage(*(kind in {"sign", "crl"} for kind in _USES))
    made = (
        _certificate(name, name, key.public_key(), now, now + dt.timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / "authority", key, made)


_USES = ("signature", "commitment", "encipher", "data", "agreement", "sign", "crl", "encipher_only", "decipher_only")


def make_server(folder: Path, name: str, subject: str, hosts: Sequence[str], now: dt.datetime) -> None:
    """Write `<name>.crt` and `<name>.key` of a server with these names and addresses, signed by the authority; older ones are replaced."""
    names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    _make(folder, folder / name, subject, now, _SERVER_DAYS, names)


def make_client(folder: Path, path: Path, subject: str, now: dt.datetime) -> None:
    """Write `<path>.crt` and `<path>.key` of a client of that name, signed by the authority in `folder`; older ones are replaced.

    It ends when the authority does: as long as a name counts, etcd says (`fairlead credentials etcd --url`).
    """
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    _make(folder, path, subject, now, _AUTHORITY_DAYS, usage)


def subject_of(certificate: Path) -> str:
    """Return the common name in a certificate; empty when there is none to read."""
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return ""
    return "".join(str(part.value) for part in read.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def _make(folder: Path, path: Path, subject: str, now: dt.datetime, days: int, extension: x509.ExtensionType) -> None:
    issuer_key = serialization.load_pem_private_key((folder / "authority.key").read_bytes(), password=None)
    issuer = x509.load_pem_x509_certificate((folder / "authority.crt").read_bytes())
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("authority.key is no elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    ends = min(now + dt.timedelta(days=days), issuer.not_valid_after.replace(tzinfo=dt.UTC))
    made = (
        _certificate(name, issuer.subject, key.public_key(), now, ends)
        .add_extension(extension, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    _write(path, key, made)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, ends: dt.datetime
) -> x509.CertificateBuilder:
    begin = now - dt.timedelta(minutes=5)  # clocks of nodes differ a little
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(ends)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(path.with_name(f"{path.name}.key"), secret)
    path.with_name(f"{path.name}.crt").write_bytes(certificate.public_bytes(pem))
