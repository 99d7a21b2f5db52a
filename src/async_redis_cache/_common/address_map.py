"""The address map: under which addresses the servers behind a network address translation can be reached.

Cluster nodes and Sentinels announce the addresses that they have in their own network. From outside of it, other
addresses lead to the same servers, and only the configuration knows these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from .hosts import parse_address, parse_port_number

__all__ = ["AddressMap"]

_SEPARATORS: Final = re.compile(r"[,\s]+")


class AddressMap:
    """The addresses of `options.address_map`.

    Args:
        text: items `announced=reachable`, separated by commas or spaces. Each side is a host, with or without a port;
            an IPv6 address with a port is in brackets. An item without ports applies to every port of a host, which
            is kept; an item with the port of the announced address precedes it.

    Raises:
        ValueError: an item is malformed, ambiguous or given twice.
    """

    def __init__(self, text: str) -> None:
        self._reachable: dict[tuple[str, int], tuple[str, int]] = {}
        """Port 0 stands for every port of an announced host, and for the same port of a reachable one."""
        for item in filter(None, _SEPARATORS.split(text)):
            announced, equals, reachable = item.partition("=")
            host, port = _split(announced)
            target = _split(reachable)
            key = _canonical(host), port
            if not equals or key in self._reachable or (target[1] and not port):
                # Several servers of one host cannot share a port.
                raise ValueError("not an address map")
            self._reachable[key] = target

    def find(self, address: tuple[str, int]) -> tuple[str, int] | None:
        """Return the address under which the server with this announced address is reachable; None if unmapped."""
        if not self._reachable:
            return None
        host, port = _canonical(address[0]), address[1]
        found = self._reachable.get((host, port)) or self._reachable.get((host, 0))
        return None if found is None else (found[0], found[1] or port)

    @staticmethod
    @lru_cache(maxsize=64)
    def of(text: str) -> AddressMap:
        """The address map of an option, cached for all connections."""
        return AddressMap(text)

    @staticmethod
    def text_of(pairs: Mapping[object, object]) -> str:
        """Return the text of a map that is given as announced addresses and reachable ones."""
        return ", ".join(f"{announced}={reachable}" for announced, reachable in pairs.items())


def _split(text: str) -> tuple[str, int]:
    """Split an address into host and port; 0 if it has no port."""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise ValueError("not an address")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise ValueError("not a port")
    else:
        host, port = text, ""
    if ":" in host:
        ip_address(host)
    name, _ = parse_address(host, 1)
    return name, parse_port_number(port) if port else 0


def _canonical(host: str) -> str:
    """Return one spelling of a host, as servers may announce an address in several."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
