"""A request while it is handled: the key of its response, and the form in which it gets a stored one."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Final

import msgspec
from msgspec.structs import replace

from .cache_control import Directives, request_directives
from .cache_status import CacheStatus
from .fields import Fields, has, without
from .keys import variant_key
from .messages import Request, Stored, Variants
from .response_options import Rule
from .response_store import ResponseStore, Terms
from .validation import CONDITIONS, is_not_modified, not_modified_fields

__all__ = ["Exchange", "Reply"]

_NOT_MODIFIED: Final = 304
_GATEWAY_TIMEOUT: Final = 504


class Reply(msgspec.Struct, frozen=True):
    """A response from the cache: a status code, header fields with `Age` and `Cache-Status`, and a body."""

    status: int
    fields: Fields
    body: bytes


class Exchange(msgspec.Struct, eq=False):
    """A request. `look_up` returns the response from the cache, or a `Run` of the application.

    Args:
        store: of responses.
        rule: of the route.
        request: the request.
        key: of its URI.
        identity: for which client the response is; None for any client that may see it.
        name: of the cache, by `cache_identifier`.
        shows_key: whether `Cache-Status` has the key of the URI. That of a variant, which contains hashes, is not shown.
        is_routed: whether the application has begun, so that it may have read the conditions of the client.
        observe: called with how the request was handled before a response to a client is sent.
    """

    store: ResponseStore
    rule: Rule
    request: Request
    key: str
    """That of the URI, then of the variant that the request selects."""
    identity: str | None = None
    name: str = "async-redis-cache"
    shows_key: bool = False
    is_routed: bool = False
    observe: Callable[[CacheStatus], None] | None = None
    names: tuple[bytes, ...] | None = None
    """The fields that select the variant, while its key is used."""

    def select(self, variants: Variants) -> None:
        """Use the key of the variant that the request selects."""
        self.names = variants.names
        key = f"{self.request.target} {variants.generation}"
        self.key = variant_key(key, variants.names, self.request.fields, self.identity)

    def of_the_cache(self) -> Exchange:
        """Return a request of the cache itself for the same record."""
        request = replace(self.request, method="GET", fields=self.unconditional)
        return replace(self, request=request, is_routed=False, observe=None)

    @property
    def terms(self) -> Terms:
        """How the record is loaded."""
        return Terms(self.rule.policy.longest_stale, self.rule.wait_seconds)

    @property
    def directives(self) -> Directives:
        """The cache directives of the request."""
        return request_directives(self.request.fields)

    @property
    def is_authorized(self) -> bool:
        """Whether the request has `Authorization`."""
        return has(self.request.fields, b"authorization")

    @property
    def keeps_conditions(self) -> bool:
        """Whether a 304 response of the application may answer a condition of the client."""
        return self.is_routed and any(field in CONDITIONS for field, _ in self.request.fields)

    @property
    def unconditional(self) -> Fields:
        """The fields of the request without conditions."""
        return without(self.request.fields, CONDITIONS)

    def reply(self, stored: Stored, status: CacheStatus | None = None) -> Reply:
        """Return the response to the client from a stored one.

        Args:
            stored: the response that the request selects.
            status: why it does not come from the cache alone; None for a hit.
        """
        now, request = time(), self.request
        age = stored.age_at(now)
        ttl = int(stored.lifetime - age)
        status = CacheStatus(hit=True, ttl=ttl) if status is None else replace(status, ttl=ttl)
        code, fields, body = stored.status, stored.fields, stored.body
        if not request.is_plain and is_not_modified(request.fields, stored, now):
            code, fields, body = _NOT_MODIFIED, not_modified_fields(fields), b""
        elif request.method == "HEAD":
            if not has(fields, b"content-length"):
                fields = (*fields, (b"content-length", b"%d" % len(body)))
            body = b""
        return Reply(code, self.marked((*fields, (b"age", b"%d" % int(age))), status), body)

    def not_stored(self) -> Reply:
        """Return the response to a request for a stored response only, where there is none, and report it.

        A cache adds no `Cache-Status` to a response that it generates, unless that is based upon a stored one (RFC 9211,
        section 2).
        """
        if self.observe is not None:
            self.observe(CacheStatus())
        return Reply(_GATEWAY_TIMEOUT, ((b"content-length", b"0"),), b"")

    def marked(self, fields: Fields, status: CacheStatus) -> Fields:
        """Return the fields of a response to the client with `Cache-Status`, and report how it was handled."""
        if self.observe is not None:
            self.observe(status)
        if self.shows_key:
            status = replace(status, key=self.request.target)
        return (*fields, (b"cache-status", status.text(self.name).encode()))
