"""IP addresses and prefixes as canonical text that has been checked once.

`Address` and `Prefix` are strings (they hash, sort, print and travel as what they are) whose constructor refuses
everything else, so that code holding one never parses again. Canonical means RFC 5952 for IPv6 and dotted quad for IPv4.
A node holds some hundred thousand of them: so they keep nothing beside their text, and the standard library's values (ten times as
large, and slow) are made only for those that are asked whether they contain something, and kept for those asked last.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum
from functools import lru_cache

from fairlead.errors import InvalidInput


class Family(IntEnum):
    """The address family, numbered as in an IP header's version field."""

    IPV4 = 4
    IPV6 = 6

    @property
    def bits(self) -> int:
        """Return the width of an address in bits."""
        return 32 if self is Family.IPV4 else 128


def _is_canonical(text: str) -> bool:
    """Tell whether the text surely is an address in its one canonical form; of IPv6 that could be written with dots it tells nothing."""
    try:
        if ":" in text:
            return (
                "." not in text and socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text)) == text
            )
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError, TypeError):
        return False
    return True


def _is_host(text: str) -> bool:
    # not `in`: a Prefix answers that about addresses
    return text.endswith("/128" if text.find(":") >= 0 else "/32")


_ip = lru_cache(maxsize=4096)(ipaddress.ip_address)
_network = lru_cache(maxsize=4096)(ipaddress.ip_network)


class Address(str):
    """One IPv4 or IPv6 address in canonical text. Raises InvalidInput for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Address:
        """Return the canonical form of `text`."""
        if _is_canonical(text):
            return super().__new__(cls, text)
        try:
            value = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidInput(f"{text!r} is not an IP address: write it like 10.1.2.3 or fd00::1") from error
        if value.version == 6 and value.scope_id is not None:
            raise InvalidInput(f"{text!r} carries a zone: leave out the part from the %")
        return super().__new__(cls, str(value))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """Return the standard library's value."""
        return _ip(str(self))

    @property
    def family(self) -> Family:
        """Return the address family."""
        return Family.IPV6 if ":" in self else Family.IPV4

    @property
    def packed(self) -> bytes:
        """Return the 4 or 16 bytes in network order."""
        return socket.inet_pton(socket.AF_INET6 if ":" in self else socket.AF_INET, self)

    @property
    def prefix(self) -> Prefix:
        """Return the host prefix (/32 or /128) that holds just this address."""
        return Prefix.trusted(f"{self}/{self.family.bits}")


class Prefix(str):
    """One IPv4 or IPv6 prefix in canonical text; host bits must be zero; a bare address means a host prefix."""

    __slots__ = ()

    @classmethod
    def trusted(cls, text: str) -> Prefix:
        """Return a prefix out of text that is known to be canonical, without reading it: it costs a tenth, and less memory."""
        return super().__new__(cls, text)

    def __new__(cls, text: str) -> Prefix:
        """Return the canonical form of `text`, always with its length."""
        if isinstance(text, str) and _is_host(text) and _is_canonical(text[: text.index("/")]):
            return super().__new__(cls, text)
        try:
            value = ipaddress.ip_network(text, strict=True)
        except ValueError as error:
            raise InvalidInput(
                f"{text!r} is not a prefix: write it like 10.1.2.0/24, host bits zero ({error})"
            ) from error
        if "%" in text:
            raise InvalidInput(f"{text!r} carries a zone: leave out the part from the %")
        return super().__new__(cls, str(value))

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """Return the standard library's value."""
        return _network(str(self))

    @property
    def family(self) -> Family:
        """Return the address family."""
        return Family.IPV6 if self.find(":") >= 0 else Family.IPV4

    @property
    def length(self) -> int:
        """Return the prefix length in bits."""
        return int(self.rpartition("/")[2])

    @property
    def is_host(self) -> bool:
        """Tell whether the prefix holds exactly one address."""
        return _is_host(self)

    @property
    def address(self) -> Address:
        """Return the first address of the prefix."""
        return Address(self.rpartition("/")[0])

    def __contains__(self, other: object) -> bool:
        """Tell whether an Address or a Prefix lies inside this prefix."""
        if isinstance(other, Address):
            return bool(other.ip in self.network)
        if isinstance(other, Prefix):
            inside: bool = other.family is self.family and other.network.subnet_of(self.network)  # type: ignore[arg-type]
            return inside
        return False
