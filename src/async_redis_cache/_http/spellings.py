"""Spellings of a path and a query: clients do not encode the same characters as "%XX".

Applications decode them, so that a URI that is spelled in another way is often the same resource. Keys have the spelling
that was sent, since no application has to, and an invalidation removes the other ones too.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

__all__ = ["spellings"]

_STYLES: Final = (
    # Of Python's `quote`.
    ("", ""),
    # Of JavaScript's `encodeURIComponent`.
    ("!'()*", "!'()*"),
    # Of clients that encode what separates parameters, and what RFC 3986 does not allow.
    ("!'()*$,:;@", "!'()*$,:;@"),
    # Of browsers, and of clients that encode only what RFC 3986 does not allow.
    ("!'()*$,:;@&+=", "!()*$,:;@/?"),
    ("!'()*$,:;@&+=", "!'()*$,:;@/?"),
)
"""The characters that are not encoded in paths and in queries, beside the unreserved ones."""
_ENCODED: Final = re.compile(rb"%[0-9A-F]{2}")
_LONGEST: Final = 4096
"""Bytes. A longer URI has too many spellings to try for one request, and few clients can send it."""


def spellings(path: bytes, query: bytes) -> set[tuple[bytes, bytes]]:
    """Return a path and a query, as they are and as clients write them: a space in a query is "+" or "%20"."""
    found = {(path, query)}
    if len(path) + len(query) > _LONGEST:
        return found
    segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
    parameters = [
        [unquote_to_bytes(part.replace(b"+", b" ")) for part in parameter.split(b"=", 1)]
        for parameter in query.split(b"&")
    ]
    for in_path, in_query in _STYLES:
        spelled_path = b"/".join(quote(segment, in_path).encode() for segment in segments)
        spelled_query = b"&".join(
            b"=".join(quote(part, in_query).encode() for part in parameter)
            for parameter in parameters
        )
        for spelled in (spelled_query, spelled_query.replace(b"%20", b"+")):
            found |= {(spelled_path, spelled), (path, spelled), (spelled_path, query)}
    return found | {(_lower(in_path), _lower(in_query)) for in_path, in_query in found}


def _lower(spelling: bytes) -> bytes:
    return _ENCODED.sub(lambda match: match.group().lower(), spelling)
