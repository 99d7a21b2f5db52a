"""Cache directives: `Cache-Control` (RFC 9111, section 5.2) and targeted fields such as `CDN-Cache-Control` (RFC 9213)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .fields import Fields, combined, members

__all__ = ["Directives", "delta_seconds", "request_directives", "response_directives"]

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~\w]+", re.ASCII)
_DELTA: Final = re.compile(r"[0-9]+", re.ASCII)
_INTEGER: Final = re.compile(r"-?[0-9]+", re.ASCII)
_NUMBERS: Final = {"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"}
_DIGITS: Final = 20
"""More digits than any number of seconds has. Python refuses to convert thousands of them."""
_LONGEST: Final = 2**31
"""Seconds that stand for any greater number (RFC 9111, section 1.2.2)."""
_SF_KEY: Final = r"[a-z*][a-z0-9_.*-]*"
_SF_ITEM: Final = (
    r'-?\d{1,15}(?![\d.])|"(?:[ !#-\[\]-~]|\\["\\])*"|\?[01]|[A-Za-z*][\w!#$%&\'*+.^`|~:/-]*'
)
_SF_MEMBER: Final = re.compile(
    rf"(?P<key>{_SF_KEY})(?:=(?P<value>{_SF_ITEM}))?(?: *; *{_SF_KEY}(?:=(?:{_SF_ITEM}))?)*",
    re.ASCII,
)
_SF_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")


class Directives(NamedTuple):
    """The cache directives of a message.

    Attributes:
        named: the directives by their names in lower case, with their values; "" without one. Of a directive that
            occurs more than once, all values.
        is_targeted: whether they are from a targeted field, so that `Cache-Control` and `Expires` do not apply.
    """

    named: dict[str, list[str]]
    is_targeted: bool = False

    def has(self, name: str) -> bool:
        """Return whether a directive is present."""
        return name in self.named

    def seconds(self, name: str) -> int | None:
        """Return the value of a directive that is a number of seconds; None without the directive.

        An invalid value counts as 0: the response is stale. Of several values, the least applies (section 4.2.1).
        """
        found = self.named.get(name)
        if found is None:
            return None
        return min(map(delta_seconds, found))


def delta_seconds(text: str) -> int:
    """Return a number of seconds (RFC 9111, section 1.2.2); 0 for anything else."""
    return min(int(text[:_DIGITS]), _LONGEST) if _DELTA.fullmatch(text) else 0


def request_directives(fields: Fields) -> Directives:
    """Return the directives of a request. `Pragma: no-cache` is one without `Cache-Control` (section 5.4)."""
    directives = _cache_control(fields)
    if not directives.named and (combined(fields, b"pragma") or "").lower() == "no-cache":
        directives.named["no-cache"] = [""]
    return directives


def response_directives(fields: Fields, targeted: tuple[bytes, ...] = ()) -> Directives:
    """Return the directives of a response for this cache.

    Args:
        fields: of the response.
        targeted: names of the targeted fields that this cache follows, the most specific first. The first that is
            present, valid and not empty applies; without one, `Cache-Control` does.
    """
    for name in targeted:
        text = combined(fields, name)
        if text is not None:
            found = _structured_dictionary(text)
            if found:
                return Directives(found, is_targeted=True)
    return _cache_control(fields)


def _cache_control(fields: Fields) -> Directives:
    named: dict[str, list[str]] = {}
    for member in members(fields, b"cache-control"):
        name, separator, value = member.partition("=")
        if _NAME.fullmatch(name):
            named.setdefault(name.lower(), []).append(_unquoted(value) if separator else "")
    return Directives(named)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _structured_dictionary(text: str) -> dict[str, list[str]] | None:
    """Parse a dictionary of RFC 8941, section 4.2.2. Return None if it is invalid.

    Of the types of members, lists, decimals and bytes are not known here: no directive has them, and with one the field
    counts as invalid. A directive whose value is not a number where one is needed is ignored (RFC 9213, section 2.1).
    """
    text = text.strip(" ")
    found: dict[str, str | None] = {}
    position = 0
    while True:
        match = _SF_MEMBER.match(text, position)
        if match is None:
            return None
        found[match["key"]] = match["value"]
        if match.end() == len(text):
            break
        comma = _SF_COMMA.match(text, match.end())
        if comma is None:
            return None
        position = comma.end()
    return {
        name: [value or ""]
        for name, value in found.items()
        if value != "?0" and (name not in _NUMBERS or _INTEGER.fullmatch(value or ""))
    }
