"""Header fields: names, lists and what belongs to a connection only (RFC 9110, sections 5 and 7.6.1)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, TypeAlias

__all__ = [
    "COOKIES",
    "Fields",
    "announces",
    "announces_content",
    "announces_more",
    "combined",
    "end_to_end",
    "has",
    "has_any",
    "lower",
    "members",
    "replaced",
    "token_members",
    "values",
    "without",
]

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Header fields in their order, with names in lower case."""

_MOST_DIGITS: Final = 20
"""Digits of a length that are read. No body is so long that it needs more."""
COOKIES: Final = frozenset({b"set-cookie", b"set-cookie2"})
"""Fields of a response that are for one client."""
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields of one connection. The `proxy-` ones belong to the proxy that is addressed (RFC 9111, section 3.1)."""
_MEMBER: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')
_QUOTES_END: Final = re.compile(r'(?:[^"]|"(?:[^"\\]|\\.)*")*+')
"""A line in which each quoted string has an end."""


def lower(lines: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Return header fields with their names in lower case."""
    return tuple((name.lower(), value) for name, value in lines)


def values(fields: Fields, name: bytes) -> list[str]:
    """Return the values of a field, one for each line."""
    return [value.decode("latin-1").strip(" \t") for field, value in fields if field == name]


def announces(fields: Fields, length: int) -> bool:
    """Return whether `Content-Length` is present, and says that the body has this length."""
    found = [value.strip() for name, value in fields if name == b"content-length"]
    return bool(found) and all(value == b"%d" % length for value in found)


def announces_more(fields: Fields, length: int) -> bool:
    """Return whether `Content-Length` says that the body is longer than this."""
    return any(
        name == b"content-length" and value.isdigit() and int(value[:_MOST_DIGITS]) > length
        for name, value in fields
    )


def announces_content(request: Fields) -> bool:
    """Return whether a request of HTTP/1.1 has content (RFC 9112, section 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        for name, value in request
    )


def combined(fields: Fields, name: bytes) -> str | None:
    """Return the value of a field, with its lines joined by commas; None without the field."""
    lines = values(fields, name)
    return ", ".join(lines) if lines else None


def has(fields: Fields, name: bytes) -> bool:
    """Return whether a field is present."""
    # A loop is faster than `any`, and this is called for each request.
    for field, _ in fields:  # noqa: SIM110
        if field == name:
            return True
    return False


def has_any(fields: Fields, names: Collection[bytes]) -> bool:
    """Return whether one of these fields is present."""
    for field, _ in fields:  # noqa: SIM110  as in `has`
        if field in names:
            return True
    return False


def members(fields: Fields, name: bytes) -> Iterator[str]:
    """Yield the members of a field that is a list. Commas in quoted strings do not separate members.

    A quote without an end is taken for a character as any other, since a `no-store` may follow it.
    """
    for line in values(fields, name):
        found = _MEMBER.findall(line) if _QUOTES_END.fullmatch(line) else line.split(",")
        for member in found:
            stripped = member.strip(" \t")
            if stripped:
                yield stripped


def token_members(fields: Fields, name: bytes) -> set[str]:
    """Return the members of a field whose members are tokens, in lower case."""
    return {member.lower() for member in members(fields, name)}


def without(fields: Fields, names: Collection[bytes]) -> Fields:
    """Return the fields that have none of these names."""
    return tuple(field for field in fields if field[0] not in names)


def replaced(fields: Fields, replacements: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Return the fields with others in place of those of the same names."""
    added = tuple(replacements)
    return without(fields, {name for name, _ in added}) + added


def end_to_end(fields: Fields) -> Fields:
    """Return the fields that are not of one connection: neither hop-by-hop, nor named by `Connection`."""
    named = {member.encode("latin-1") for member in token_members(fields, b"connection")}
    return without(fields, _HOP_BY_HOP | named)
