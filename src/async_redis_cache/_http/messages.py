"""Requests and responses as the cache sees them, and the forms in which it stores them."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from .fields import Fields

__all__ = ["RECORDS", "Record", "Request", "Response", "Stored", "Uncacheable", "Variants"]


class Request(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        method: in upper case.
        target: scheme, host, path and query: the URI.
        fields: the header fields.
        is_plain: whether it is known to have neither conditions, nor a range, nor content.
        query: of the URI.
    """

    method: str
    target: str
    fields: Fields
    is_plain: bool = False
    query: bytes = b""


class Response(NamedTuple):
    """A response that has been received whole.

    Attributes:
        status: the status code.
        fields: the header fields.
        body: the content; empty for a HEAD request.
    """

    status: int
    fields: Fields
    body: bytes = b""


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """A stored response. What its directives say is evaluated once, when it is stored.

    Attributes:
        status: the status code.
        fields: the header fields that are stored; `Age` is not among them.
        body: the content, as the application sent it.
        received: when the response was complete, in seconds since 1970.
        age: seconds since the origin generated or validated it, when it was received.
        lifetime: the age in seconds at which it becomes stale; 0 if it is to be validated each time.
        while_revalidating: seconds after that in which it is served while it is revalidated.
        if_error: seconds after that in which it is served instead of an error.
        must_revalidate: whether it must not be served stale, even to a request that accepts it.
        tag_is_made: whether the `ETag` was made from the content, so that the application does not know it.
        is_replacement: whether it replaces an error for the requests that wait. False in what is stored.
        tags: that the application added, which a 304 response need not repeat.
    """

    status: int
    fields: Fields
    body: bytes
    received: float
    age: float
    lifetime: float
    while_revalidating: float
    if_error: float
    must_revalidate: bool
    tag_is_made: bool
    is_replacement: bool = False
    tags: tuple[str, ...] = ()

    def age_at(self, now: float) -> float:
        """Return the age at a time in seconds since 1970 (RFC 9111, section 4.2.3)."""
        return self.age + max(0.0, now - self.received)

    def remaining_at(self, now: float) -> float:
        """Return the seconds until the response becomes stale; negative if it is."""
        return self.lifetime - self.age - max(0.0, now - self.received)


class Variants(msgspec.Struct, frozen=True, array_like=True, tag="v"):
    """What is stored under a URI whose responses have `Vary`: the responses are stored under a key for each variant.

    Attributes:
        names: the request fields that select a variant, in lower case and in order.
        generation: a random text in the keys of the variants, which become unreachable without this record.
    """

    names: tuple[bytes, ...]
    generation: str


class Uncacheable(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """What is stored under a URI whose last response could not be stored: requests do not wait for one another.

    Attributes:
        cause: `response`, for which no response to the URI can be stored; `request`, whose run has failed or answered a
            condition of its own; or `authorization`, if only requests with that field are concerned. The latter two
            are returned to the requests that wait, and not stored.
    """

    cause: Literal["response", "request", "authorization"] = "response"


Record: TypeAlias = Stored | Variants | Uncacheable
"""What may be stored under a key."""


class _Records:
    """The serializer of records: MessagePack, which neither copies nor encodes the body as text."""

    dumps: Final = msgspec.msgpack.Encoder().encode
    loads: Final = msgspec.msgpack.Decoder(Record).decode


RECORDS: Final = _Records
"""A serializer for a namespace."""
