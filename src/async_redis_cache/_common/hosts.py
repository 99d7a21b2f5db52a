"""Addresses that servers send, and the hosts that may be connected to.

MOVED and ASK replies, CLUSTER SLOTS and sentinels name other hosts, and the cache logs in there.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

__all__ = ["AllowedHosts", "is_host", "parse_address", "parse_port_number"]

_HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")
"""A host as servers send it: an ASCII name or an IP address."""
_LONGEST_NAME: Final = 253
_PORT: Final = re.compile(r"[0-9]{1,5}")
_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def parse_address(host: object, port: object) -> tuple[str, int]:
    """Validate an address from a server's reply. The result contains nothing else, so it can be logged.

    Raises:
        ValueError: it is not an address.
    """
    name = _decode(host)
    if not _HOST.fullmatch(name):
        raise ValueError("not a host")
    return name, parse_port_number(port)


def parse_port_number(port: object) -> int:
    """Validate a port from a server's reply, which is an integer or digits.

    Raises:
        ValueError: it is not a port.
    """
    digits = str(port) if type(port) is int else _decode(port)
    if not (_PORT.fullmatch(digits) and 0 < int(digits) < 65536):
        raise ValueError("not a port")
    return int(digits)


def is_host(text: str) -> bool:
    """Whether a text is a host name or an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return (
            len(text) <= _LONGEST_NAME
            and _NAME.fullmatch(text.lower()) is not None
            and text[0] != "*"
        )
    return True


def _decode(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise ValueError("not text")  # noqa: TRY004  a wrong reply, not a wrong argument
    return value


class AllowedHosts:
    """The hosts of `options.allowed_hosts`.

    Args:
        text: host names, `*.` followed by a domain, IP addresses, and networks such as `10.0.0.0/8`, separated by
            commas or spaces; empty for all hosts.

    Raises:
        ValueError: an item is none of these.
    """

    def __init__(self, text: str) -> None:
        self._names: set[str] = set()
        self._domains: list[str] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for item in re.split(r"[,\s]+", text.strip().lower()):
            try:
                self._networks.append(ip_network(item, strict=False))
            except ValueError:
                if item and not _NAME.fullmatch(item):
                    raise
                if item.startswith("*"):
                    self._domains.append(item[1:])
                elif item:
                    self._names.add(item)
        self._allows_all = not (self._names or self._domains or self._networks)

    def admit(self, host: str) -> bool:
        """Whether a host may be connected to. Names are compared as names, without resolving them."""
        if self._allows_all:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            name = host.lower().removesuffix(".")
            # Only plain names: a resolver may interpret other text, such as an address with a scope.
            is_name = _NAME.fullmatch(name) is not None
            return is_name and (name in self._names or name.endswith(tuple(self._domains)))
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    @staticmethod
    @lru_cache(maxsize=64)
    def of(text: str) -> AllowedHosts:
        """The allowed hosts of an option, cached for all connections."""
        return AllowedHosts(text)
