"""The options of a route, and what the core makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from fnmatch import translate
from inspect import iscoroutinefunction
from typing import Any, Final, TypedDict

from async_redis_cache._common.durations import LONGEST, SECOND
from async_redis_cache._common.key_rules import distinct_tags
from async_redis_cache._common.option_suggestions import nearest_option

from .keys import without_parameters
from .policy import Policy
from .response_log import TagWarning

__all__ = ["PathRules", "ResponseOptions", "Rule", "queries_of"]

_SEVERAL: Final = ("tags", "parameters", "ignored_parameters", "targeted")
"""The options that take several names."""
_LONGEST_SECONDS: Final = LONGEST // SECOND
_MAX_BODY: Final = 1_000_000
_WAIT_SECONDS: Final = 30.0


class ResponseOptions(TypedDict, total=False):
    """How the responses of a route are cached. Durations are seconds or a timedelta, and 0 by default."""

    ttl: float | timedelta
    """For how long a success or a permanent redirection (200, 203, 204, 300, 301, 308) is fresh that has none of
    `max-age`, `s-maxage` and `Expires`."""
    missing_ttl: float | timedelta
    """The same for 404 and 410."""
    heuristic_ttl: float | timedelta
    """For how long at most a response without explicit freshness is fresh that has `Last-Modified`: a tenth of its age
    at that time (RFC 9111, section 4.2.2)."""
    stale_while_revalidate: float | timedelta
    """For how long after its TTL a response is served while the application is asked for another, where the response
    does not say."""
    stale_if_error: float | timedelta
    """For how long after its TTL a response is served instead of an error 500, 502, 503 or 504, where the response does
    not say."""
    tags: Iterable[str]
    """Tags of the responses, by which they can be invalidated."""
    vary_on: Callable[[Any], str]
    """Returns the identity that a response is for, such as the id of a user, from the request: a `Request` of the
    framework (FastAPI, Starlette, Litestar, aiohttp), or the ASGI scope without one of these. Only a hash of it is
    stored. Without it, the responses are for all clients."""
    statuses: Collection[int]
    """The status codes of responses to store; by default, all that state their freshness."""
    max_body: int
    """Bytes of the greatest body to store; by default 1 MB."""
    parameters: Collection[str]
    """Names of the query parameters that the handler reads. A request with any other is passed to the handler, and its
    response is not stored, so that a client cannot fill the cache with invented ones. By default, any may be sent."""
    ignored_parameters: Collection[str]
    """Names of query parameters that do not change the response, such as `utm_source`."""
    sorts_parameters: bool
    """Whether the order of query parameters of different names does not change the response."""
    follows_requests: bool
    """Whether `Cache-Control: no-cache`, `max-age`, `min-fresh`, `max-stale` and `only-if-cached` of requests apply.
    With them, every client can run the handler at will. The response to a request that refuses the stored one, such as a
    forced reload, replaces it."""
    targeted: Sequence[str]
    """Names of targeted fields that apply before `Cache-Control`, such as `CDN-Cache-Control` (RFC 9213)."""


class Rule:
    """Options, prepared.

    Args:
        options: of a route.
        pattern: of the paths that they apply to; None for those of a handler.

    Raises:
        TypeError: an option is unknown or has another type.
        ValueError: a duration is negative or more than ten years, or `max_body` is negative, or a tag is invalid.
    """

    def __init__(self, options: ResponseOptions, pattern: str | None = None) -> None:
        _check_types(options)
        ttl, missing_ttl = options.get("ttl"), options.get("missing_ttl")
        statuses, parameters = options.get("statuses"), options.get("parameters")
        self.policy: Policy = Policy(
            default_lifetime=None if ttl is None else _seconds("ttl", ttl),
            missing_lifetime=None if missing_ttl is None else _seconds("missing_ttl", missing_ttl),
            statuses=None if statuses is None else frozenset(statuses),
            heuristic_limit=_seconds("heuristic_ttl", options.get("heuristic_ttl", 0)),
            targeted=tuple(name.lower().encode() for name in options.get("targeted", ())),
            follows_requests=options.get("follows_requests", False),
            stale_while_revalidate=_seconds(
                "stale_while_revalidate", options.get("stale_while_revalidate", 0)
            ),
            stale_if_error=_seconds("stale_if_error", options.get("stale_if_error", 0)),
            parameters=None if parameters is None else _encoded(parameters),
        )
        self.tags: frozenset[str] = frozenset(distinct_tags(options.get("tags", ())))
        self.tag_warning: TagWarning = TagWarning("tags")
        self.pattern: str | None = pattern
        self._vary_on = options.get("vary_on")
        self.wait_seconds: float = _WAIT_SECONDS
        """How long a request waits for the response to another one."""
        self.max_body: int = options.get("max_body", _MAX_BODY)
        if self.max_body < 0:
            raise ValueError("max_body must not be negative")
        self._ignored = _encoded(options.get("ignored_parameters", ()))
        self._is_sorted = options.get("sorts_parameters", False)
        if self._ignored or self._is_sorted:
            _NORMALIZING[self._ignored, self._is_sorted] = self

    @property
    def is_personal(self) -> bool:
        """Whether its responses are for one client each."""
        return self._vary_on is not None

    def identity(self, request: Any) -> str | None:
        """Return for which client a response is; None if it is for all.

        Args:
            request: that of the framework, or the ASGI scope.

        Raises:
            TypeError: `vary_on` returned something other than text. None would make a personal response one for all.
        """
        if self._vary_on is None:
            return None
        identity = self._vary_on(request)
        if not isinstance(identity, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"vary_on must return a str, not {type(identity).__name__}")
        return identity

    def query(self, query: bytes) -> bytes:
        """Return the query as it is in keys."""
        if not query or not (self._ignored or self._is_sorted):
            return query
        return without_parameters(query, self._ignored, is_sorted=self._is_sorted)


_NORMALIZING: Final[dict[tuple[frozenset[bytes], bool], Rule]] = {}
"""A rule for each way in which the rules of this program normalise queries."""


def queries_of(query: bytes) -> set[bytes]:
    """Return a query in each form that it has in keys: which rule stored a response is not known when it is removed."""
    return {query, *(rule.query(query) for rule in _NORMALIZING.values())}


class PathRules:
    """Rules by patterns of paths, with "*" for any text.

    Args:
        rules: the patterns and their options.
    """

    def __init__(self, rules: Mapping[str, ResponseOptions] | None) -> None:
        self._rules = [
            (re.compile(translate(pattern)), Rule(options, pattern))
            for pattern, options in (rules or {}).items()
        ]

    def find(self, path: str) -> Rule | None:
        """Return the rule of the first pattern that matches a path."""
        for pattern, rule in self._rules:
            if pattern.match(path):
                return rule
        return None


def _check_types(options: Any) -> None:
    """Refuse unknown options, and those that would fail, or never apply, when a request is handled.

    Raises:
        TypeError: see `Rule`.
    """
    known = ResponseOptions.__annotations__
    for name in options:
        if name not in known:
            nearest = nearest_option(name, known)
            hint = f"; did you mean `{nearest}`?" if nearest else ""
            raise TypeError(f"unknown option of responses: `{name}`{hint}")
    for name in _SEVERAL:
        if isinstance(options.get(name), str):
            # Its characters would be the names.
            raise TypeError(f"{name} must be a list of str, not a str")
    for name, kind in (
        ("parameters", str),
        ("ignored_parameters", str),
        ("targeted", str),
        ("statuses", int),
    ):
        if not _is_list_of(kind, options.get(name) or ()):
            raise TypeError(f"{name} must be a list of {kind.__name__}")
    vary_on = options.get("vary_on")
    if vary_on is not None and (not callable(vary_on) or iscoroutinefunction(vary_on)):
        raise TypeError("vary_on must be a plain function of the request")


def _is_list_of(kind: type, items: Any) -> bool:
    # An iterator, which has no length, would be exhausted by this check.
    return hasattr(items, "__len__") and all(isinstance(item, kind) for item in items)


def _encoded(names: Collection[str]) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)


def _seconds(name: str, duration: float | timedelta) -> float:
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    elif isinstance(duration, bool) or not isinstance(duration, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(duration).__name__}")
    if not 0 <= duration <= _LONGEST_SECONDS:
        raise ValueError(
            f"{name} must be from 0 to {_LONGEST_SECONDS} seconds, which are ten years"
        )
    return duration
