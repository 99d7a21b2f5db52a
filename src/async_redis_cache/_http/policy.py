"""What a shared cache may store and reuse (RFC 9111, sections 3 and 4), and how long the record is kept."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from .cache_control import Directives, request_directives, response_directives
from .fields import Fields, end_to_end, has, token_members
from .freshness import HEURISTIC_STATUSES, Freshness, freshness_of
from .messages import Request, Response, Stored
from .validation import can_validate, with_etag

__all__ = ["Policy", "Reason", "Verdict"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_FIRST_FINAL: Final = 200
_PARTIAL: Final = 206
_NOT_MODIFIED: Final = 304
_ERROR: Final = 400
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


class Verdict(NamedTuple):
    """What becomes of a request for which a response is stored.

    Attributes:
        action: "serve" it; "revalidate" in the background and serve it; or "forward" the request.
        freshness: of the stored response.
        reason: why the request is forwarded.
    """

    action: Literal["serve", "revalidate", "forward"]
    freshness: Freshness
    reason: Reason = "stale"


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
        validation: seconds after its lifetime for which a response with a validator of the application is kept, to be
            validated.
        strong_etags: see `with_etag`.
    """

    default_lifetime: float | None = None
    missing_lifetime: float | None = None
    statuses: frozenset[int] | None = None
    heuristic_limit: float = 0
    targeted: tuple[bytes, ...] = ()
    follows_requests: bool = False
    stale_while_revalidate: float = 0
    stale_if_error: float = 0
    validation: float = 3600
    strong_etags: bool = False

    def may_look_up(self, request: Request) -> Reason | None:
        """Return why a request is passed to the application without a look at the cache; None if it is not."""
        if request.method not in {"GET", "HEAD"}:
            return "method"
        if has(request.fields, b"range"):
            return "partial"
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
        tagged = with_etag(response, strong=self.strong_etags)
        fields, is_made = end_to_end(tagged.fields), tagged is not response
        stored = Stored(tagged.status, fields, tagged.body, requested, received, is_made)
        return stored if self.is_worth_storing(stored) else None

    def freshness(self, stored: Stored, now: float) -> Freshness:
        """Return how fresh a stored response is, at a time in seconds since 1970."""
        freshness = freshness_of(
            stored, now, targeted=self.targeted, heuristic_limit=self.heuristic_limit
        )
        if freshness.is_explicit or freshness.lifetime:
            return freshness
        lifetime = self._unstated_lifetime(stored.status)
        return freshness if lifetime is None else freshness._replace(lifetime=lifetime)

    def served_seconds(self, stored: Stored) -> float:
        """Return the seconds for which a response that was just received is served, if no more than revalidated."""
        freshness = self.freshness(stored, stored.received)
        if freshness.directives.has("no-cache"):
            return 0
        return max(0.0, freshness.remaining + self.while_revalidating(freshness))

    def is_worth_storing(self, stored: Stored) -> bool:
        """Return whether a response that was just received can be reused, stale or after validation if not at once."""
        freshness = self.freshness(stored, stored.received)
        return (
            self.served_seconds(stored) > 0
            or self.if_error(freshness) > 0
            or (self.validation > 0 and can_validate(stored))
        )

    @property
    def longest_stale(self) -> float:
        """The most seconds after its lifetime for which a response is kept, as far as the options say."""
        return max(self.stale_while_revalidate, self.stale_if_error, self.validation)

    def judge(self, request: Request, stored: Stored, now: float) -> Verdict:
        """Decide what becomes of a request whose response is stored.

        Args:
            request: a GET or HEAD request.
            stored: the response that the request selects.
            now: in seconds since 1970.
        """
        freshness = self.freshness(stored, now)
        if freshness.directives.has("no-cache"):
            return Verdict("forward", freshness)
        if self.follows_requests:
            verdict = _judge_by_request(request, freshness)
            if verdict is not None:
                return verdict
        remaining = freshness.remaining
        if remaining > 0:
            return Verdict("serve", freshness)
        if -remaining < self.while_revalidating(freshness):
            return Verdict("revalidate", freshness)
        return Verdict("forward", freshness)

    def while_revalidating(self, freshness: Freshness) -> float:
        """Return the seconds after its lifetime in which a response is served while it is revalidated."""
        if freshness.stale_is_forbidden:
            return 0
        own = freshness.directives.seconds("stale-while-revalidate")
        return self.stale_while_revalidate if own is None else own

    def if_error(self, freshness: Freshness) -> float:
        """Return the seconds after its lifetime in which a response is served instead of an error."""
        if freshness.stale_is_forbidden:
            return 0
        own = freshness.directives.seconds("stale-if-error")
        return self.stale_if_error if own is None else own

    def replaces_error(self, stored: Stored, now: float, status: int) -> bool:
        """Return whether a stale response is served instead of a response with this status code."""
        freshness = self.freshness(stored, now)
        return status in _SERVER_ERRORS and -freshness.remaining < self.if_error(freshness)

    def invalidates(self, request: Request, status: int) -> bool:
        """Return whether a response makes the stored ones for its URI invalid (section 4.4)."""
        return request.method not in _SAFE and _FIRST_FINAL <= status < _ERROR

    def may_store(self, request: Request, status: int, fields: Fields) -> bool:
        """Return whether a response with this status code and these fields may be stored (section 3)."""
        if (
            request.method != "GET"
            or status < _FIRST_FINAL
            or status in {_PARTIAL, _NOT_MODIFIED}
            or (self.statuses is not None and status not in self.statuses)
            # The cookie is for one client.
            or has(fields, b"set-cookie")
            or has(fields, b"set-cookie2")
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


def _judge_by_request(request: Request, freshness: Freshness) -> Verdict | None:
    """Return what the directives of a request say; None if nothing (section 5.2.1)."""
    wanted = request_directives(request.fields)
    if wanted.has("no-cache"):
        return Verdict("forward", freshness, "request")
    remaining = freshness.remaining
    most, least = wanted.seconds("max-age"), wanted.seconds("min-fresh")
    if (most is not None and freshness.age > most) or (least or 0) > max(0.0, remaining):
        return Verdict("forward", freshness, "request" if remaining > 0 else "stale")
    if wanted.has("max-stale") and not freshness.stale_is_forbidden:
        # Without a number, any age is acceptable.
        tolerated = wanted.seconds("max-stale") if wanted.named["max-stale"] != [""] else None
        if tolerated is None or tolerated > -remaining:
            return Verdict("serve", freshness)
    return None
