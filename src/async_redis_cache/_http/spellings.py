"""Spellings of a path and of a query: clients do not encode the same characters as "%XX".

Applications decode them, so that a URI that is spelled in another way is often the same resource. Keys have the spelling
that was sent, since no application has to, and an invalidation removes the other ones too.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

__all__ = ["path_spellings", "query_spellings"]

_NOT_ENCODED: Final = (
    # In Python's `quote`.
    "",
    # In JavaScript's `encodeURIComponent`.
    "!'()*",
    # In browsers, and in other clients that encode what RFC 3986 does not allow only.
    "!'()*$,:;@",
)
_IN_PATHS: Final = "&+="
_IN_QUERIES: Final = "/?"
_ENCODED: Final = re.compile(rb"%[0-9A-F]{2}")


def path_spellings(path: bytes) -> set[bytes]:
    """Return a path, as it is and as clients write it."""
    segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
    found = {path}
    for kept in (*_NOT_ENCODED, _NOT_ENCODED[-1] + _IN_PATHS):
        found.add(b"/".join(quote(segment, safe=kept).encode() for segment in segments))
    return found | {_lower(spelling) for spelling in found}


def query_spellings(query: bytes) -> set[bytes]:
    """Return a query, as it is and as clients write it: a space is "+" or "%20"."""
    if not query:
        return {query}
    parameters = [
        [unquote_to_bytes(part.replace(b"+", b" ")) for part in parameter.split(b"=", 1)]
        for parameter in query.split(b"&")
    ]
    found = {query}
    for kept in (*_NOT_ENCODED, _NOT_ENCODED[-1] + _IN_QUERIES):
        spelling = b"&".join(
            b"=".join(quote(part, safe=kept).encode() for part in parameter)
            for parameter in parameters
        )
        found |= {spelling, spelling.replace(b"%20", b"+")}
    return found | {_lower(spelling) for spelling in found}


def _lower(spelling: bytes) -> bytes:
    return _ENCODED.sub(lambda match: match.group().lower(), spelling)
