"""What a shared cache may store and reuse (RFC 9111, sections 3 and 4), and how long the record is kept."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from .cache_control import Directives, request_directives, response_directives
from .fields import (
    COOKIES,
    Fields,
    announces_content,
    end_to_end,
    has,
    has_any,
    token_members,
    without,
)
from .freshness import HEURISTIC_STATUSES, freshness_of
from .keys import parameters_of
from .messages import Request, Response, Stored
from .validation import can_validate, updated_fields, with_etag

__all__ = ["Policy", "Reason", "Verdict"]

_FIRST_FINAL: Final = 200
_VALIDATION_SECONDS: Final = 3600
"""For how long after its lifetime a response is kept at least, to be validated by the application."""
_PARTIAL: Final = 206
_NOT_MODIFIED: Final = 304
_SUCCESSES: Final = frozenset({200, 203, 204, 300, 301, 308})
_MISSING: Final = frozenset({404, 410})
_SERVER_ERRORS: Final = frozenset({500, 502, 503, 504})
_UNDERSTOOD: Final = HEURISTIC_STATUSES | {
    201,
    202,
    302,
    303,
    307,
    400,
    401,
    403,
    409,
    500,
    502,
    503,
}
"""Status codes whose caching requirements this cache knows, for `must-understand` (section 5.2.2.3)."""

Reason: TypeAlias = Literal[
    "miss", "uri-miss", "vary-miss", "stale", "bypass", "method", "partial", "request"
]
"""Why a request is passed to the application: a value of `fwd` (RFC 9211, section 2.2)."""


Verdict: TypeAlias = Literal["serve", "revalidate", "forward"]
"""What becomes of a request for which a response is stored: it is served, also while it is revalidated in the
background, or the request is forwarded to the application."""


class Policy(NamedTuple):
    """The rules of a shared cache, with the options of one application or route.

    Attributes:
        default_lifetime: seconds for which a success or a permanent redirection without explicit freshness is fresh;
            None for "not at all", unless the heuristics apply.
        missing_lifetime: the same for 404 and 410 responses.
        statuses: the status codes of responses to store; None for all that state their freshness.
        heuristic_limit: the most seconds of heuristic freshness. 0 for "no heuristics".
        targeted: the targeted fields to follow, such as `cdn-cache-control`, in lower case.
        follows_requests: whether `no-cache`, `max-age`, `min-fresh` and `max-stale` of requests apply. They let a
            client cause a run of the handler.
        stale_while_revalidate: seconds after its lifetime in which a response is served while it is revalidated,
            where the response does not say.
        stale_if_error: seconds after its lifetime in which a response replaces an error, where the response does
            not say.
        parameters: the names of the query parameters that requests may have; None for any.
    """

    default_lifetime: float | None = None
    missing_lifetime: float | None = None
    statuses: frozenset[int] | None = None
    heuristic_limit: float = 0
    targeted: tuple[bytes, ...] = ()
    follows_requests: bool = False
    stale_while_revalidate: float = 0
    stale_if_error: float = 0
    parameters: frozenset[bytes] | None = None

    def may_look_up(self, request: Request) -> Reason | None:
        """Return why a request is passed to the application without a lookup; None if it is not."""
        if request.method not in {"GET", "HEAD"}:
            return "method"
        if not request.is_plain:
            if has(request.fields, b"range"):
                return "partial"
            if announces_content(request.fields):
                # The handler may read it, and it is not part of the key.
                return "bypass"
        if self.parameters is not None and not parameters_of(request.query) <= self.parameters:
            return "bypass"
        return None

    def stored(
        self, request: Request, response: Response, requested: float, received: float
    ) -> Stored | None:
        """Return the form in which a response is stored; None if it must not be, or would never be reused.

        Args:
            request: that the response is for.
            response: of the application.
            requested: when the request was passed to it, in seconds since 1970.
            received: when the response was complete.
        """
        if not self.may_store(request, response.status, response.fields):
            return None
        tagged = with_etag(response)
        stored = self._record(tagged, requested, received, tag_is_made=tagged is not response)
        is_worth_it = (
            self.served_seconds(stored, received) > 0 or stored.if_error > 0 or can_validate(stored)
        )
        return stored if is_worth_it else None

    def freshened(
        self, stored: Stored, response: Response, requested: float, received: float
    ) -> Stored | None:
        """Return a stored response with the fields of the 304 response that has validated it.

        Args:
            stored: the response.
            response: has the status code 304.
            requested: when the request was passed to the application, in seconds since 1970.
            received: when the 304 response was received.

        Returns:
            None if the 304 response is about another representation.
        """
        fields = updated_fields(stored, response)
        if fields is None:
            return None
        is_made = stored.tag_is_made and not has(response.fields, b"etag")
        fresh = Response(stored.status, fields, stored.body)
        return self._record(fresh, requested, received, tag_is_made=is_made)

    def _record(
        self, response: Response, requested: float, received: float, *, tag_is_made: bool
    ) -> Stored:
        freshness = freshness_of(
            response.status,
            response.fields,
            requested,
            received,
            targeted=self.targeted,
            heuristic_limit=self.heuristic_limit,
        )
        directives, lifetime = freshness.directives, freshness.lifetime
        if not (freshness.is_explicit or lifetime):
            lifetime = self._unstated_lifetime(response.status) or 0
        must_revalidate = freshness.must_revalidate
        stated = directives.seconds("stale-while-revalidate")
        while_revalidating = self.stale_while_revalidate if stated is None else stated
        stated = directives.seconds("stale-if-error")
        if_error = self.stale_if_error if stated is None else stated
        return Stored(
            status=response.status,
            fields=without(end_to_end(response.fields), {b"age"}),
            body=response.body,
            received=received,
            age=freshness.age,
            lifetime=0 if directives.has("no-cache") else lifetime,
            while_revalidating=0 if must_revalidate else while_revalidating,
            if_error=0 if must_revalidate else if_error,
            must_revalidate=must_revalidate,
            tag_is_made=tag_is_made,
        )

    def served_seconds(self, stored: Stored, now: float) -> float:
        """Return for how many seconds from now on a response is served, also while it is revalidated."""
        return max(0.0, stored.remaining_at(now) + stored.while_revalidating)

    @property
    def longest_stale(self) -> float:
        """The most seconds after its lifetime for which a response is kept, as far as the options say."""
        return max(self.stale_while_revalidate, self.stale_if_error, _VALIDATION_SECONDS)

    def judge(self, request: Request, stored: Stored, now: float) -> Verdict:
        """Decide what becomes of a request whose response is stored.

        Args:
            request: a GET or HEAD request.
            stored: the response that the request selects.
            now: in seconds since 1970.
        """
        if self.follows_requests:
            verdict = _judge_by_request(request, stored, now)
            if verdict is not None:
                return verdict
        remaining = stored.remaining_at(now)
        if remaining > 0:
            return "serve"
        return "revalidate" if -remaining < stored.while_revalidating else "forward"

    def replaces_error(self, stored: Stored, now: float, status: int) -> bool:
        """Return whether a stored response is served instead of a response with this status code."""
        return (
            status in _SERVER_ERRORS
            and stored.if_error > 0
            and -stored.remaining_at(now) < stored.if_error
        )

    def may_store(self, request: Request, status: int, fields: Fields) -> bool:
        """Return whether a response with this status code and these fields may be stored (section 3)."""
        if (
            request.method != "GET"
            or status < _FIRST_FINAL
            or status in {_PARTIAL, _NOT_MODIFIED}
            or (self.statuses is not None and status not in self.statuses)
            or has_any(fields, COOKIES)
            or "*" in token_members(fields, b"vary")
            or request_directives(request.fields).has("no-store")
        ):
            return False
        directives = response_directives(fields, self.targeted)
        understands = directives.has("must-understand") and status in _UNDERSTOOD
        if (
            directives.has("private")
            or (directives.has("no-store") and not understands)
            or (directives.has("must-understand") and not understands)
            or (has(request.fields, b"authorization") and not _is_shared(directives))
        ):
            return False
        return (
            directives.has("public")
            or directives.has("max-age")
            or directives.has("s-maxage")
            or (not directives.is_targeted and has(fields, b"expires"))
            or status in HEURISTIC_STATUSES
            or self._unstated_lifetime(status) is not None
        )

    def _unstated_lifetime(self, status: int) -> float | None:
        if status in _SUCCESSES:
            return self.default_lifetime
        return self.missing_lifetime if status in _MISSING else None


def _is_shared(directives: Directives) -> bool:
    """Return whether a response may be reused although its request had `Authorization` (section 3.5)."""
    return (
        directives.has("public") or directives.has("s-maxage") or directives.has("must-revalidate")
    )


def _judge_by_request(request: Request, stored: Stored, now: float) -> Verdict | None:
    """Return what the directives of a request say; None if nothing (section 5.2.1)."""
    wanted = request_directives(request.fields)
    if wanted.has("no-cache"):
        return "forward"
    remaining = stored.remaining_at(now)
    most, least = wanted.seconds("max-age"), wanted.seconds("min-fresh")
    if (most is not None and stored.age_at(now) > most) or (least or 0) > max(0.0, remaining):
        return "forward"
    if wanted.has("max-stale") and not stored.must_revalidate:
        # Without a number, any age is acceptable.
        tolerated = wanted.seconds("max-stale") if wanted.named["max-stale"] != [""] else None
        if tolerated is None or tolerated > -remaining:
            return "serve"
    return None
