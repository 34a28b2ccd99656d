"""The fleet's own certificate authority: it vouches for the hub, so that nobody listens in and nobody plays the hub."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
        _certificate(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, "authority", key, made)


_USES = ("signature", "commitment", "encipher", "data", "agreement", "sign", "crl", "encipher_only", "decipher_only")


def make_server(folder: Path, hosts: Sequence[str], now: dt.datetime) -> None:
    """Write `hub.crt` and `hub.key` for these names and addresses, signed by the authority; older ones are replaced."""
    issuer_key = serialization.load_pem_private_key((folder / "authority.key").read_bytes(), password=None)
    issuer = x509.load_pem_x509_certificate((folder / "authority.crt").read_bytes())
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("authority.key is no elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fairlead hub")])
    made = (
        _certificate(name, issuer.subject, key.public_key(), now, _SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    _write(folder, "hub", key, made)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    begin = now - dt.timedelta(minutes=5)  # clocks of nodes differ a little
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(folder / f"{name}.key", secret)
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
