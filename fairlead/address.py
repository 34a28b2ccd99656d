"""IP addresses and prefixes as canonical text that has been checked once.

`Address` and `Prefix` are strings (they hash, sort, print and travel as what they are) whose constructor refuses
everything else, so that code holding one never parses again. Canonical means RFC 5952 for IPv6 and dotted quad for IPv4.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import cached_property

from fairlead.errors import InvalidInput


class Family(IntEnum):
    """The address family, numbered as in an IP header's version field."""

    IPV4 = 4
    IPV6 = 6

    @property
    def bits(self) -> int:
        """Return the width of an address in bits."""
        return 32 if self is Family.IPV4 else 128


class Address(str):
    """One IPv4 or IPv6 address in canonical text. Raises InvalidInput for anything else."""

    __slots__ = ("__dict__",)

    def __new__(cls, text: str) -> Address:
        """Return the canonical form of `text`."""
        try:
            value = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidInput(f"{text!r} is not an IP address: write it like 10.1.2.3 or fd00::1") from error
        if value.version == 6 and value.scope_id is not None:
            raise InvalidInput(f"{text!r} carries a zone: leave out the part from the %")
        self = super().__new__(cls, str(value))
        self.__dict__["ip"] = value
        return self

    @cached_property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """Return the standard library's value."""
        return ipaddress.ip_address(str(self))

    @property
    def family(self) -> Family:
        """Return the address family."""
        return Family(self.ip.version)

    @property
    def packed(self) -> bytes:
        """Return the 4 or 16 bytes in network order."""
        return self.ip.packed

    @property
    def prefix(self) -> Prefix:
        """Return the host prefix (/32 or /128) that holds just this address."""
        return Prefix.trusted(f"{self}/{self.family.bits}")


class Prefix(str):
    """One IPv4 or IPv6 prefix in canonical text; host bits must be zero; a bare address means a host prefix."""

    __slots__ = ("__dict__",)

    @classmethod
    def trusted(cls, text: str) -> Prefix:
        """Return a prefix out of text that is known to be canonical, without reading it: it costs a tenth, and less memory."""
        return super().__new__(cls, text)

    def __new__(cls, text: str) -> Prefix:
        """Return the canonical form of `text`, always with its length."""
        try:
            value = ipaddress.ip_network(text, strict=True)
        except ValueError as error:
            raise InvalidInput(
                f"{text!r} is not a prefix: write it like 10.1.2.0/24, host bits zero ({error})"
            ) from error
        self = super().__new__(cls, str(value))
        self.__dict__["network"] = value
        return self

    @cached_property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """Return the standard library's value."""
        return ipaddress.ip_network(str(self))

    @property
    def family(self) -> Family:
        """Return the address family."""
        return Family(self.network.version)

    @property
    def length(self) -> int:
        """Return the prefix length in bits."""
        return self.network.prefixlen

    @property
    def is_host(self) -> bool:
        """Tell whether the prefix holds exactly one address."""
        return self.length == self.family.bits

    @property
    def address(self) -> Address:
        """Return the first address of the prefix."""
        return Address(str(self.network.network_address))

    def __contains__(self, other: object) -> bool:
        """Tell whether an Address or a Prefix lies inside this prefix."""
        if isinstance(other, Address):
            return bool(other.ip in self.network)
        if isinstance(other, Prefix):
            inside: bool = other.family is self.family and other.network.subnet_of(self.network)  # type: ignore[arg-type]
            return inside
        return False
