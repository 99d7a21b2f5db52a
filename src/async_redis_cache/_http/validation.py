"""Validators and conditional requests (RFC 9110, sections 8.8 and 13; RFC 9111, section 4.3)."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from .dates import date_in
from .fields import COOKIES, Fields, combined, end_to_end, has, has_any, replaced, without
from .messages import Response, Stored

__all__ = [
    "CONDITIONS",
    "can_validate",
    "is_not_modified",
    "not_modified_fields",
    "updated_fields",
    "validating_fields",
    "with_etag",
]

CONDITIONS: Final = frozenset(
    {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range"}
)
"""The fields that make a request conditional."""
_IN_NOT_MODIFIED: Final = frozenset(
    {b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary"}
)
"""What a 304 response has of the fields of the 200 response (RFC 9110, section 15.4.5)."""
_NOT_UPDATED: Final = frozenset(
    {b"content-encoding", b"content-length", b"content-range", *COOKIES}
)
"""What describes the stored content, or belongs to one client."""
_READ_CONDITIONS: Final = frozenset({b"if-none-match", b"if-modified-since"})
_VALIDATORS: Final = ((b"etag", b"if-none-match"), (b"last-modified", b"if-modified-since"))
_ENTITY_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ETAG_BYTES: Final = 16
_OK: Final = 200


def with_etag(response: Response) -> Response:
    """Return a response with a weak `ETag` made from its content, if it is a 200 response without one.

    A strong one would claim that the content is equal byte by byte. It is not, if anything outside of the cache changes
    it, such as a compression middleware.
    """
    if response.status != _OK or has(response.fields, b"etag"):
        return response
    digest = blake2b(response.body, digest_size=_ETAG_BYTES).hexdigest()
    return response._replace(fields=(*response.fields, (b"etag", f'W/"{digest}"'.encode())))


def is_not_modified(request: Fields, stored: Stored, now: float) -> bool:
    """Return whether a conditional GET or HEAD request is answered with 304 instead of a stored response.

    Args:
        request: the fields of the request. `If-None-Match` takes precedence over `If-Modified-Since`.
        stored: the response that is selected.
        now: in seconds since 1970.
    """
    if stored.status != _OK or not has_any(request, _READ_CONDITIONS):
        return False
    conditions = combined(request, b"if-none-match")
    if conditions is not None:
        return conditions == "*" or _opaque_tag(stored.fields) in {
            tag for _, tag in _ENTITY_TAG.findall(conditions)
        }
    since = date_in(request, b"if-modified-since", now)
    if since is None:
        return False
    modified = date_in(stored.fields, b"last-modified", now)
    if modified is None:
        # Without it, the time when the response was generated takes its place (RFC 9111, section 4.3.2).
        modified = date_in(stored.fields, b"date", now)
    return (stored.received if modified is None else modified) <= since


def not_modified_fields(fields: Fields) -> Fields:
    """Return what a 304 response has of the fields of a stored response."""
    kept = _IN_NOT_MODIFIED if has(fields, b"etag") else _IN_NOT_MODIFIED | {b"last-modified"}
    return tuple(field for field in fields if field[0] in kept)


def can_validate(stored: Stored) -> bool:
    """Return whether the application may know that a stored response is still valid."""
    return bool(_conditions(stored))


def validating_fields(request: Fields, stored: Stored) -> Fields:
    """Return the fields of a request that asks the application whether a stored response is still valid."""
    return (*without(request, CONDITIONS), *_conditions(stored))


def updated_fields(stored: Stored, response: Response) -> Fields | None:
    """Return the fields of a stored response that a 304 response has validated (RFC 9111, section 3.2).

    Returns:
        None if the 304 response has another `ETag`: it is about another representation.
    """
    tag = combined(response.fields, b"etag")
    if tag is not None:
        known = combined(stored.fields, b"etag")
        is_same = tag == known or (
            tag.startswith("W/") and _opaque_tag(response.fields) == _opaque_tag(stored.fields)
        )
        if not is_same:
            return None
    updates = without(end_to_end(response.fields), _NOT_UPDATED)
    # The date was that of the response that was validated.
    return replaced(without(stored.fields, {b"date"}), updates)


def _conditions(stored: Stored) -> Fields:
    found: list[tuple[bytes, bytes]] = []
    for validator, condition in _VALIDATORS:
        lines = [value for name, value in stored.fields if name == validator]
        if len(lines) == 1 and not (validator == b"etag" and stored.tag_is_made):
            found.append((condition, lines[0]))
    return tuple(found)


def _opaque_tag(fields: Fields) -> str | None:
    """Return the `ETag` without its mark of weakness, which the weak comparison ignores."""
    match = _ENTITY_TAG.fullmatch(combined(fields, b"etag") or "")
    return match[2] if match else None
