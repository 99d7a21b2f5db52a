"""Addresses that servers name, and which of them may be connected to.

A MOVED or ASK reply, CLUSTER SLOTS and sentinels name the hosts to go on to, and the login is sent there.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

__all__ = ["AllowedHosts", "parse_address", "parse_port_number"]

_HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")
"""A host as servers name it: a name in ASCII, or an address."""
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PATTERN: Final = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def parse_address(host: object, port: object) -> tuple[str, int]:
    """An address that a server names, as it came: nothing but an address, so it may stand in a log.

    Raises:
        ValueError: it is none.
    """
    name = _text(host)
    if not _HOST.fullmatch(name):
        raise ValueError("no host")
    return name, parse_port_number(port)


def parse_port_number(port: object) -> int:
    """A port that a server names, as a number or as digits.

    Raises:
        ValueError: it is none.
    """
    digits = str(port) if type(port) is int else _text(port)
    if not (_PORT.fullmatch(digits) and 0 < int(digits) < 65536):
        raise ValueError("no port")
    return int(digits)


def _text(said: object) -> str:
    if isinstance(said, bytes):
        return said.decode("ascii")
    if not isinstance(said, str):
        raise ValueError("no text")  # noqa: TRY004  it is what a server says, and not a mistake of ours
    return said


class AllowedHosts:
    """Hosts, and networks of them.

    Args:
        text: host names, `*.` and a domain, addresses, and networks as `10.0.0.0/8`, separated by commas or
            spaces; empty for all hosts.

    Raises:
        ValueError: a part is none of these.
    """

    def __init__(self, text: str) -> None:
        self._names: set[str] = set()
        self._domains: list[str] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for part in re.split(r"[,\s]+", text.strip().lower()):
            try:
                self._networks.append(ip_network(part, strict=False))
            except ValueError:
                if part and not _PATTERN.fullmatch(part):
                    raise
                if part.startswith("*"):
                    self._domains.append(part[1:])
                elif part:
                    self._names.add(part)
        self._is_open = not (self._names or self._domains or self._networks)

    def admit(self, host: str) -> bool:
        """Whether a host may be connected to. A name is compared as a name, and not resolved."""
        if self._is_open:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            name = host.lower().removesuffix(".")
            # A resolver may read more out of what is no name, such as the scope of an address.
            is_name = _PATTERN.fullmatch(name) is not None
            return is_name and (name in self._names or name.endswith(tuple(self._domains)))
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    @staticmethod
    @lru_cache(maxsize=64)
    def of(text: str) -> AllowedHosts:
        """Those of an option; made once for all connections."""
        return AllowedHosts(text)
