"""One request, from the look into the cache to the end of the application's run: what `asgi` and `aiohttp` translate.

A request that finds no response leads a load of the cache, whose loader only waits until the response of the application
is complete, or known not to be storable. So the application runs where its framework runs it, its response is passed on
while it is collected, and other requests, in this process and in others, wait for what is stored.

The record of a URI is a `Stored` response, or `Variants` if its responses have `Vary`, or `Uncacheable`. The key of a
variant contains the random generation of the `Variants`: without this record, no variant can be reached, not even one
that is being stored. So removing one key invalidates all variants.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import time
from typing import Final, NamedTuple

from msgspec.structs import replace

from async_redis_cache import CacheError

from .cache_control import Directives, request_directives
from .cache_status import CacheStatus
from .fields import Fields, announces, has, without
from .keys import selecting_names, variant_key
from .messages import Record, Request, Response, Stored, Uncacheable, Variants
from .policy import Policy, Reason
from .response_store import Lead, Outcome, ResponseStore, Terms
from .validation import (
    CONDITIONS,
    is_not_modified,
    not_modified_fields,
    validating_fields,
    with_etag,
)

__all__ = ["Exchange", "Reply"]

_NOT_HANDLED: Final = CacheStatus()
_UNCACHEABLE_SECONDS: Final = 2
"""For how long requests for a URI whose response could not be stored do not wait for one another."""
_VARIANTS_SECONDS: Final = 86_400
_MOST_LOOKUPS: Final = 4
"""A URI, its variant, and once more if the fields of `Vary` have changed meanwhile."""
_NOT_MODIFIED: Final = 304
_SERVER_ERROR: Final = 500
_GATEWAY_TIMEOUT: Final = 504
_GENERATION_BYTES: Final = 6

Rerun = Callable[["Exchange"], Awaitable[None]]
"""Runs the application for an exchange in the background, and passes its response to it."""


class Reply(NamedTuple):
    """A response from the cache: a status code, header fields with `Age` and `Cache-Status`, and a body."""

    status: int
    fields: Fields
    body: bytes


class Exchange:
    """A request, and the response to it.

    Call `begin`. If it returns a `Reply`, that is the response. Otherwise run the application with `forward` as the
    fields of its request, pass its response to `start` and `body`, and call `end`, also if it has failed.

    Args:
        store: of responses.
        policy: the rules of the route.
        request: the request.
        key: of its URI.
        identity: for which client the response is; None for any client that may see it.
        max_body: bytes of the greatest body to store.
        wait_seconds: how long the request waits for the response to another one.
        rerun: revalidates a stale response that is served.
        name: of the cache in `Cache-Status`, a token.
        is_routed: whether the application has begun, so that it may have read the conditions of the client.
        observe: called with `status` before a response to a client is sent.
    """

    def __init__(
        self,
        store: ResponseStore,
        policy: Policy,
        request: Request,
        key: str,
        *,
        identity: str | None = None,
        max_body: int,
        wait_seconds: float = 30,
        rerun: Rerun | None = None,
        name: str = "async-redis-cache",
        is_routed: bool = False,
        observe: Callable[[CacheStatus], None] | None = None,
    ) -> None:
        self.forward = request.fields
        """The header fields of the request to the application."""
        self.tags: set[str] = set()
        """Tags of the response, which the application may add to until its response is complete."""
        self.status = _NOT_HANDLED
        """How the request was handled."""
        self._store = store
        self._policy = policy
        self._request = request
        self._uri_key = key
        self._key = key
        self._identity = identity
        self._names: tuple[bytes, ...] | None = None
        """The fields that select the variant, while its key is used."""
        self._max_body = max_body
        self._wait_seconds = wait_seconds
        self._rerun = rerun
        self._name = name
        self._is_routed = is_routed
        self._observe = observe
        self._lead: Lead | None = None
        self._requested = 0.0
        self._response: Response | None = None
        self._body: list[bytes] | None = None
        """What has been collected of the body; None if it is not collected."""
        self._size = 0
        self._received: float | None = None
        """When the client could have the whole body; None before."""
        self._is_complete = False

    async def begin(self) -> Reply | None:
        """Return the response if there is one in the cache, or if another request is about to store it."""
        reason = self._policy.may_look_up(self._request)
        if reason is not None:
            self.status = CacheStatus(forwarded=reason)
            return None
        begun = time()
        for _ in range(_MOST_LOOKUPS):
            record: Record | None = await self._store.read(self._key)
            is_joined = False
            if record is None or not self._is_usable(record):
                found = await self._wait_or_run(record)
                if found is None or isinstance(found, Reply):
                    return found
                record, is_joined = found, True
            if isinstance(record, Variants):
                self._select(record)
            elif isinstance(record, Uncacheable):
                if not self._may_look_again(record, begun):
                    break
            elif self._names is None and self._identity is not None:
                # It was stored before the route told clients apart.
                break
            elif not is_joined or record.received >= begun or self._may_reuse(record):
                return self._reply(record, is_collapsed=is_joined)
            # Otherwise it was being stored when the request began, and is stale already.
        return self._bypass()

    def _bypass(self) -> Reply | None:
        """Run the application and do not store its response, unless the request is for a stored one only."""
        if self._is_only_if_cached:
            return Reply(_GATEWAY_TIMEOUT, (), b"")
        self.status = CacheStatus(forwarded="bypass")
        return None

    async def _wait_or_run(self, record: Record | None) -> Record | Reply | None:
        """Return the record that another request has stored meanwhile; None if the application has to run.

        Args:
            record: that cannot be used; None if there is none.
        """
        if self._is_only_if_cached:
            return Reply(_GATEWAY_TIMEOUT, (), b"")
        reason = self._reason_to_run_alone(record)
        if reason is not None:
            self.status = CacheStatus(forwarded=reason)
            return None
        found = await self._store.join_or_lead(self._key, self._terms)
        if isinstance(found, Lead):
            self._begin_lead(found)
            return None
        return found

    @property
    def _terms(self) -> Terms:
        return Terms(self._policy.longest_stale, self._wait_seconds)

    @property
    def _keeps_conditions(self) -> bool:
        """Whether a 304 response may answer a condition of the client."""
        return self._is_routed and any(field in CONDITIONS for field, _ in self._request.fields)

    @property
    def _wanted(self) -> Directives:
        return request_directives(self._request.fields)

    @property
    def _is_authorized(self) -> bool:
        return has(self._request.fields, b"authorization")

    @property
    def _is_only_if_cached(self) -> bool:
        return self._policy.follows_requests and self._wanted.has("only-if-cached")

    def _reason_to_run_alone(self, record: Record | None) -> Reason | None:
        """Return why the request neither waits for another one nor lets others wait; None if it does."""
        if self._request.method != "GET":
            return "miss" if record is None else "stale"
        if self._wanted.has("no-store"):
            return "request"
        if self._is_authorized and self._store.is_unshared(self._key):
            return "bypass"
        return None

    def _may_look_again(self, record: Uncacheable, begun: float) -> bool:
        """Return whether the request may lead, or wait for another one, after one that it waited for has failed."""
        is_of_one = record.cause == "request" or (
            record.cause == "authorization" and not self._is_authorized
        )
        return is_of_one and time() - begun < self._wait_seconds

    def _may_reuse(self, joined: Stored) -> bool:
        """Return whether to serve what another request was given, although it is older than this request."""
        return joined.is_replacement or self._is_usable(joined)

    def start(self, status: int, fields: Fields) -> Fields | None:
        """Return the fields to send of the application's response; None to hold it back until `end` replaces it.

        Args:
            status: the status code.
            fields: the header fields, with names in lower case.
        """
        lead = self._lead
        if lead is None:
            return self._marked(fields)
        self._response = Response(status, fields)
        if status == _NOT_MODIFIED and self._keeps_conditions:
            lead.decide(Uncacheable("request"), None)
            return self._marked(fields)
        stale = lead.stale
        if isinstance(stale, Stored) and (
            status == _NOT_MODIFIED or self._policy.replaces_error(stale, time(), status)
        ):
            return None
        if lead.is_decided:
            # It was given up already.
            return self._marked(fields)
        policy, request = self._policy, self._request
        if policy.stored(request, self._response, self._requested, time()) is not None:
            self._body = []
        elif (
            self._is_authorized
            and not policy.may_store(request, status, fields)
            and policy.may_store(self._anonymous, status, fields)
        ):
            # Other clients may still share one run, and what it returns.
            self._store.add_unshared(self._key, _UNCACHEABLE_SECONDS)
            lead.decide(Uncacheable("authorization"), None)
        else:
            lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)
        will_be_stored = self._body is not None and self._store.is_reachable
        self.status = self.status._replace(stored=will_be_stored)
        return self._marked(fields)

    @property
    def is_collecting(self) -> bool:
        """Whether the response may be stored once it is complete."""
        return self._body is not None

    @property
    def unconditional(self) -> Fields:
        """The fields of the request without conditions."""
        return without(self._request.fields, CONDITIONS)

    @property
    def _anonymous(self) -> Request:
        return self._request._replace(fields=without(self._request.fields, {b"authorization"}))

    def failed(self) -> Reply | None:
        """Return the stale response that replaces the exception of an application; None if there is none."""
        lead, now = self._lead, time()
        if lead is None or self._response is not None or not isinstance(lead.stale, Stored):
            return None
        if not self._policy.replaces_error(lead.stale, now, _SERVER_ERROR):
            return None
        lead.decide(replace(lead.stale, is_replacement=True), None)
        self.status = self.status._replace(status=_SERVER_ERROR)
        return self._reply(lead.stale)

    def give_up(self) -> None:
        """Do not store the response, or what has come of it."""
        self._body = None
        if self._lead is not None:
            self._lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)

    def tagged(self, fields: Fields, body: bytes) -> Fields:
        """Return the fields of a response that is stored, with an `ETag` made from its whole body if it has none."""
        response = self._response
        if response is None or self._body is None:
            return fields
        return with_etag(
            response._replace(fields=fields, body=body), strong=self._policy.strong_etags
        ).fields

    def body(self, chunk: bytes, *, is_last: bool = False) -> None:
        """Collect a part of the body, up to the bound. The response may be stored once the last part has come."""
        self._size += len(chunk)
        self._is_complete = is_last
        response = self._response
        if (
            self._received is None
            and response is not None
            and (is_last or announces(response.fields, self._size))
        ):
            # Before it is passed on: a request that begins afterwards did not wait for it.
            self._received = time()
        if self._body is None:
            return
        if self._size <= self._max_body:
            self._body.append(chunk)
            return
        self.give_up()

    async def end(self) -> Reply | None:
        """End the exchange: store what is complete, and return the response that replaces one that was held back."""
        lead, response = self._lead, self._response
        # It may refer to the exchange, and objects that refer to each other are freed late.
        self._rerun = None
        if lead is None:
            return None
        self._lead = None
        try:
            reply = None
            # Otherwise the application has failed, or its response was cut off.
            if self._is_complete and response is not None and self._received is not None:
                reply = await self._outcome(lead, response, self._received)
        finally:
            lead.decide(Uncacheable("request"), None)
        await lead.ends()
        return reply

    async def _outcome(self, lead: Lead, response: Response, received: float) -> Reply | None:
        if self._body is not None:
            complete = response._replace(body=b"".join(self._body))
            if announces(response.fields, self._size) or not has(
                response.fields, b"content-length"
            ):
                await self._store_response(lead, complete, received)
            else:
                # What was sent is not what was announced.
                lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)
        elif isinstance(lead.stale, Stored) and not lead.is_decided:
            return self._replacement(lead, lead.stale, response, received)
        return None

    def _replacement(
        self, lead: Lead, stale: Stored, response: Response, received: float
    ) -> Reply | None:
        """Return the stale response instead of an error, or with the fields of the 304 response that validated it."""
        self.status = self.status._replace(status=response.status)
        if response.status != _NOT_MODIFIED:
            # What is stored stays as it is.
            lead.decide(replace(stale, is_replacement=True), None)
            return self._reply(stale)
        fresh = self._policy.freshened(stale, response, self._requested, received)
        if fresh is None:
            return None
        lead.decide(fresh, self._policy.served_seconds(fresh), self.tags)
        self.status = self.status._replace(stored=True)
        return self._reply(fresh)

    def _begin_lead(self, lead: Lead) -> None:
        self._lead = lead
        self._requested = time()
        if isinstance(lead.stale, Stored):
            self.status = CacheStatus(forwarded="stale")
            self.forward = (
                without(self._request.fields, CONDITIONS)
                if self._keeps_conditions
                else validating_fields(self._request.fields, lead.stale)
            )
        else:
            self.status = CacheStatus(forwarded="uri-miss" if self._names is None else "vary-miss")
            self.forward = without(self._request.fields, CONDITIONS)

    def _is_usable(self, record: Record) -> bool:
        """Return whether no load is needed; start one in the background if a stale response is to be served."""
        if not isinstance(record, Stored):
            return True
        verdict = self._policy.judge(self._request, record, time())
        if verdict == "revalidate" and self._rerun is not None:
            self._store.start(self._revalidate(self._rerun))
            return True
        return verdict == "serve"

    async def _revalidate(self, rerun: Rerun) -> None:
        """Run the application for a request of the cache itself, unless this process or another does so."""
        fields = without(self._request.fields, CONDITIONS)
        exchange = Exchange(
            self._store,
            self._policy,
            self._request._replace(method="GET", fields=fields),
            self._uri_key,
            identity=self._identity,
            max_body=self._max_body,
            wait_seconds=self._wait_seconds,
            name=self._name,
        )
        exchange._key, exchange._names = self._key, self._names

        async def run(lead: Lead) -> None:
            exchange._begin_lead(lead)
            try:
                await rerun(exchange)
            finally:
                await exchange.end()

        await self._store.refresh(self._key, self._terms, run)

    async def _store_response(self, lead: Lead, response: Response, received: float) -> None:
        stored = self._policy.stored(self._request, response, self._requested, received)
        if stored is None:
            lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)
            return
        names, seconds = selecting_names(response.fields), self._policy.served_seconds(stored)
        if self._names is not None and not set(names) <= set(self._names):
            # The URI has more variants than were known: they are learned anew.
            lead.decide(Uncacheable(), None)
            with suppress(CacheError):
                await self._store.remove(self._uri_key)
        elif self._names is None and (names or self._identity is not None):
            variants = Variants(names, secrets.token_hex(_GENERATION_BYTES))
            self._select(variants)
            outcome = Outcome(stored, seconds, self.tags)
            try:
                await self._store.put(self._key, outcome, self._terms)
            except CacheError:
                # Such as a response that is too large for the cache.
                lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)
            else:
                lead.decide(variants, _VARIANTS_SECONDS, self.tags)
        else:
            lead.decide(stored, seconds, self.tags)

    def _select(self, variants: Variants) -> None:
        """Use the key of the variant that the request selects."""
        self._names = variants.names
        key = f"{self._uri_key} {variants.generation}"
        self._key = variant_key(key, variants.names, self._request.fields, self._identity)

    def _reply(self, stored: Stored, *, is_collapsed: bool = False) -> Reply:
        now, request = time(), self._request
        age = stored.age_at(now)
        ttl = int(stored.lifetime - age)
        if self.status.forwarded is not None:
            self.status = self.status._replace(ttl=ttl)
        elif is_collapsed:
            self.status = CacheStatus(forwarded="uri-miss", collapsed=True, ttl=ttl)
        else:
            self.status = CacheStatus(hit=True, ttl=ttl)
        fields = stored.fields
        status, body = stored.status, stored.body
        if is_not_modified(request.fields, stored, now):
            status, body, fields = _NOT_MODIFIED, b"", not_modified_fields(fields)
        elif request.method == "HEAD":
            if not has(fields, b"content-length"):
                fields = (*fields, (b"content-length", b"%d" % len(body)))
            body = b""
        return Reply(status, self._marked((*fields, (b"age", b"%d" % int(age)))), body)

    def _marked(self, fields: Fields) -> Fields:
        if self._observe is not None:
            self._observe(self.status)
        return (*fields, (b"cache-status", self.status.text(self._name).encode()))
