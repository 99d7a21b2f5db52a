"""The field `Cache-Status` (RFC 9211)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from .policy import Reason

__all__ = ["CacheStatus", "cache_identifier"]

_LONGEST_KEY: Final = 1000
"""Characters. Clients and proxies refuse responses with large headers."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")


class CacheStatus(msgspec.Struct, frozen=True):
    """How a cache handled a request.

    Attributes:
        hit: whether the response was stored.
        forwarded: why the request was passed to the application; None if it was not.
        status: the status code of the application's response, if it differs from the one that is sent.
        stored: whether the response of the application was stored.
        collapsed: whether the request was answered by the run of another one.
        ttl: seconds for which the response is fresh; negative if it is stale.
        key: the key of the response, to be shown.
        detail: a token that tells more.
    """

    hit: bool = False
    forwarded: Reason | None = None
    status: int | None = None
    stored: bool = False
    collapsed: bool = False
    ttl: int | None = None
    key: str | None = None
    detail: str | None = None

    @property
    def outcome(self) -> str:
        """What a monitoring system counts: `hit`, `collapsed`, or why the request was passed to the application.

        `only-if-cached` if it was not, as there was no response to a request that asks only for a stored one.
        """
        if self.hit:
            return "hit"
        return "collapsed" if self.collapsed else self.forwarded or "only-if-cached"

    def text(self, name: str) -> str:
        """Return the value of the field, for a cache with this `cache_identifier`."""
        if self.hit and self.ttl is not None and self.key is None and self.detail is None:
            return f"{name}; hit; ttl={self.ttl}"
        parts = [name]
        if self.hit:
            parts.append("hit")
        elif self.forwarded is not None:
            parts.append(f"fwd={self.forwarded}")
        if self.status is not None:
            parts.append(f"fwd-status={self.status}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.ttl is not None:
            parts.append(f"ttl={self.ttl}")
        if self.key is not None:
            parts.append(f"key={_string(self.key[:_LONGEST_KEY])}")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)


def cache_identifier(name: str) -> str:
    """Return the name of a cache as the field has it: a token, or else a string in quotes."""
    return name if _TOKEN.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    """Return a string of a structured field (RFC 9651, section 3.3.3), which is ASCII without control characters."""
    printable = _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
    escaped = printable.encode("ascii", "backslashreplace").decode().replace("\\", "\\\\")
    return '"{}"'.format(escaped.replace('"', '\\"'))
