"""The lookup: it finds a stored response, waits for another request that is about to store one, or returns a run.

The record of a URI is a `Stored` response, or `Variants` if its responses have `Vary`, or `Uncacheable`. The key of a
variant contains the random generation of the `Variants`: without this record, no variant can be reached, not even one
that is being stored. So removing one key invalidates all variants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time
from typing import Final

from .cache_status import CacheStatus
from .exchange import Exchange, Reply
from .messages import Record, Stored, Uncacheable, Variants
from .policy import Reason
from .response_store import Lead
from .run import Run

__all__ = ["Rerun", "look_up"]

_MOST_LOOKUPS: Final = 4
"""A URI, its variant, and once more if the fields of `Vary` have changed meanwhile."""
_COLLAPSED: Final = CacheStatus(forwarded="uri-miss", collapsed=True)

Rerun = Callable[[Run], Awaitable[None]]
"""Runs the application in the background, and passes its response to the run."""


async def look_up(exchange: Exchange, rerun: Rerun | None = None) -> Reply | Run:
    """Return the response if there is one in the cache, or if another request is about to store it.

    Args:
        exchange: the request.
        rerun: revalidates a stale response that is served.
    """
    reason = exchange.rule.policy.may_look_up(exchange.request)
    if reason is not None:
        return Run(exchange, reason)
    begun = time()
    for _ in range(_MOST_LOOKUPS):
        record = await exchange.store.read(exchange.key)
        is_joined = False
        if record is None or not _is_usable(exchange, record, rerun):
            found = await _wait_or_run(exchange, record)
            if isinstance(found, Reply | Run):
                return found
            record, is_joined = found, True
        if isinstance(record, Variants):
            exchange.select(record)
        elif _is_of_no_use(exchange, record, begun):
            break
        elif isinstance(record, Stored) and (
            # Otherwise it was being stored when the request began, and is stale already.
            not is_joined or record.received >= begun or _may_reuse(exchange, record, rerun)
        ):
            return exchange.reply(record, _COLLAPSED if is_joined else None)
    if _is_only_if_cached(exchange):
        return exchange.not_stored()
    return Run(exchange, "bypass")


async def _wait_or_run(exchange: Exchange, record: Record | None) -> Record | Reply | Run:
    """Return the record that another request has stored meanwhile, or the run of the application.

    Args:
        exchange: the request.
        record: that cannot be used; None if there is none.
    """
    if _is_only_if_cached(exchange):
        return exchange.not_stored()
    refused = _refused(exchange, record)
    reason = _reason_to_run_alone(exchange, record, refused)
    if reason is not None:
        return Run(exchange, reason)
    found = await exchange.store.join_or_lead(
        exchange.key, exchange.terms, replaces=refused is not None
    )
    if not isinstance(found, Lead):
        return found
    if isinstance(found.stale, Stored):
        if _is_of_no_use(exchange, found.stale, 0):
            found.stale = None
        elif refused is None and _accepts(exchange, found.stale):
            # The others that wait do not.
            found.decide(Uncacheable("request"), None)
            return exchange.reply(found.stale)
    return Run.leading(exchange, found, refused)


def _accepts(exchange: Exchange, stale: Stored) -> bool:
    """Return whether the request accepts a stale response, by `max-stale`."""
    policy = exchange.rule.policy
    return policy.follows_requests and policy.judge(exchange.request, stale, time()) == "serve"


def _refused(exchange: Exchange, record: Record | None) -> Reason | None:
    """Return why a response is replaced that other requests may get: a directive of the request, such as `no-cache`.

    None if there is no such response: the request is one of those that wait for another one.
    """
    policy, now = exchange.rule.policy, time()
    if not (policy.follows_requests and isinstance(record, Stored)):
        return None
    if record.remaining_at(now) > 0:
        return "request"
    return "stale" if policy.served_seconds(record, now) else None


def _is_usable(exchange: Exchange, record: Record, rerun: Rerun | None) -> bool:
    """Return whether no load is needed; start one in the background if a stale response is to be served."""
    if not isinstance(record, Stored):
        return True
    verdict = exchange.rule.policy.judge(exchange.request, record, time())
    if verdict == "revalidate" and rerun is not None:
        exchange.store.start(_revalidate(exchange, rerun))
        return True
    return verdict == "serve"


def _may_reuse(exchange: Exchange, joined: Stored, rerun: Rerun | None) -> bool:
    """Return whether to serve what another request was given, although it is older than this request."""
    return joined.is_replacement or _is_usable(exchange, joined, rerun)


def _is_of_no_use(exchange: Exchange, record: Stored | Uncacheable, begun: float) -> bool:
    """Return whether the request neither gets the response, nor may lead or wait for another one."""
    if isinstance(record, Stored):
        # Whether it was stored before the route told clients apart.
        return exchange.names is None and exchange.identity is not None
    # After a request that it waited for has failed, it may.
    is_of_one = record.cause == "request" or (
        record.cause == "authorization" and not exchange.is_authorized
    )
    return not is_of_one or time() - begun >= exchange.rule.wait_seconds


def _is_only_if_cached(exchange: Exchange) -> bool:
    return exchange.rule.policy.follows_requests and exchange.directives.has("only-if-cached")


def _reason_to_run_alone(
    exchange: Exchange, record: Record | None, refused: Reason | None
) -> Reason | None:
    """Return why the request neither waits for another one nor lets others wait; None if it does."""
    if exchange.request.method != "GET":
        return refused or ("miss" if record is None else "stale")
    if exchange.directives.has("no-store"):
        return "request"
    if exchange.is_authorized and exchange.store.is_unshared(exchange.key):
        return refused or "bypass"
    return None


async def _revalidate(exchange: Exchange, rerun: Rerun) -> None:
    """Run the application for a request of the cache itself, unless this process or another does so."""
    own = exchange.of_the_cache()

    async def run(lead: Lead) -> None:
        running = Run.leading(own, lead)
        try:
            await rerun(running)
        finally:
            await running.end()

    await own.store.refresh(own.key, own.terms, run)
