"""A run of the application: its response is collected while it is passed on, and stored if it may be.

A request that finds no response leads a load of the cache, whose loader only waits until the response of the application
is complete, or known not to be storable. So the application runs where its framework runs it, and other requests, in
this process and in others, wait for what is stored.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from time import time
from typing import Final

from msgspec.structs import replace

from async_redis_cache import CacheError, CacheInputError
from async_redis_cache._common.key_rules import distinct_tags

from .cache_status import CacheStatus
from .exchange import Exchange, Reply
from .fields import COOKIES, Fields, announces, announces_more, has, without
from .keys import selecting_names
from .messages import Request, Response, Stored, Uncacheable, Variants
from .policy import Reason
from .response_store import Lead, Outcome
from .validation import validating_fields, with_etag

__all__ = ["Run"]

_UNCACHEABLE_SECONDS: Final = 2
"""For how long requests for a URI whose response could not be stored do not wait for one another."""
_VARIANTS_SECONDS: Final = 86_400
_NOT_MODIFIED: Final = 304
_SERVER_ERROR: Final = 500
_GENERATION_BYTES: Final = 6
_UNAVAILABLE: Final = "unavailable"
"""Detail of a response: the server of the cache has not replied to the last read."""


class Run:
    """A run of the application, and what becomes of its response.

    Run the application with `forward` as the fields of its request, pass its response to `start` and `body`, and call
    `end`, also if it has failed.

    Args:
        exchange: the request.
        reason: why the application has to run.
        lead: the load that waits for the response; None if it is not stored.
    """

    def __init__(self, exchange: Exchange, reason: Reason, lead: Lead | None = None) -> None:
        self.forward: Fields = exchange.request.fields
        """The header fields of the request to the application."""
        self.tags: set[str] = set(exchange.rule.tags)
        """Tags of the response, which the application may add to until its response is complete."""
        self._exchange = exchange
        self._status = CacheStatus(forwarded=reason)
        self._lead = lead
        self._requested = time()
        self._response: Response | None = None
        self._body: list[bytes] | None = None
        """What has been collected of the body; None if it is not collected."""
        self._size = 0
        self._received: float | None = None
        """When the client could have the whole body; None before."""
        self._is_complete = False

    @classmethod
    def leading(cls, exchange: Exchange, lead: Lead, refused: Reason | None = None) -> Run:
        """Return the run for a load that waits for the response.

        Args:
            exchange: the request.
            lead: the load.
            refused: why the request refuses a response that is stored; None if it does not.
        """
        if isinstance(lead.stale, Stored):
            run = cls(exchange, refused or "stale", lead)
            run.forward = (
                exchange.unconditional
                if exchange.keeps_conditions
                else validating_fields(exchange.request.fields, lead.stale)
            )
        else:
            run = cls(exchange, "uri-miss" if exchange.names is None else "vary-miss", lead)
            run.forward = exchange.unconditional
        return run

    @property
    def unconditional(self) -> Fields:
        """The fields of the request without conditions."""
        return self._exchange.unconditional

    @property
    def is_collecting(self) -> bool:
        """Whether the response may be stored once it is complete."""
        return self._body is not None

    def start(self, status: int, fields: Fields, *, is_collected: bool = True) -> Fields | None:
        """Return the fields to send of the application's response; None to hold it back until `end` replaces it.

        Args:
            status: the status code.
            fields: the header fields, with names in lower case.
            is_collected: whether `body` is called with the parts of the body.
        """
        exchange, lead = self._exchange, self._lead
        if lead is None:
            return exchange.marked(fields, self._status)
        self._response = response = Response(status, fields)
        if status == _NOT_MODIFIED and exchange.keeps_conditions:
            lead.decide(Uncacheable("request"), None)
            return exchange.marked(fields, self._status)
        policy, stale = exchange.rule.policy, lead.stale
        if isinstance(stale, Stored) and (
            status == _NOT_MODIFIED or policy.replaces_error(stale, time(), status)
        ):
            return None
        if lead.is_decided:
            # It was given up already.
            return exchange.marked(fields, self._status)
        if (
            not is_collected
            or announces_more(fields, exchange.rule.max_body)
            or not self._may_be_tagged()
        ):
            self.give_up()
        elif policy.stored(exchange.request, response, self._requested, time()) is not None:
            self._body = []
        elif exchange.is_authorized and self._would_be_stored_for_others(response):
            # Other clients may still share one run, and what it returns.
            exchange.store.add_unshared(exchange.key, _UNCACHEABLE_SECONDS)
            lead.decide(Uncacheable("authorization"), None)
        else:
            self.give_up()
        is_reachable = exchange.store.is_reachable
        will_be_stored = self._body is not None and is_reachable and not lead.is_over
        detail = None if is_reachable else _UNAVAILABLE
        self._status = replace(self._status, stored=will_be_stored, detail=detail)
        return exchange.marked(fields, self._status)

    def _would_be_stored_for_others(self, response: Response) -> bool:
        """Return whether the `Authorization` of the request alone forbids to store the response."""
        policy, request = self._exchange.rule.policy, self._exchange.request
        status, fields, _ = response
        return not policy.may_store(request, status, fields) and policy.may_store(
            self._anonymous, status, fields
        )

    @property
    def _anonymous(self) -> Request:
        """The request without `Authorization`."""
        request = self._exchange.request
        return replace(request, fields=without(request.fields, {b"authorization"}))

    def failed(self) -> Reply | None:
        """Return the stale response that replaces the exception of an application; None if there is none."""
        lead, now = self._lead, time()
        if lead is None or self._response is not None or not isinstance(lead.stale, Stored):
            return None
        if not self._exchange.rule.policy.replaces_error(lead.stale, now, _SERVER_ERROR):
            return None
        lead.decide(replace(lead.stale, is_replacement=True), None)
        self._status = replace(self._status, status=_SERVER_ERROR)
        return self._exchange.reply(lead.stale, self._status)

    def give_up(self) -> None:
        """Do not store the response, or what has come of it."""
        self._body = None
        if self._lead is not None:
            self._decide_uncacheable(self._lead)

    def _decide_uncacheable(self, lead: Lead) -> None:
        exchange = self._exchange
        if exchange.names is None and exchange.identity is not None:
            # From now on, clients are told apart: one for which nothing can be stored, such as one without a login,
            # does not keep the responses of others from being stored.
            lead.decide(Variants((), secrets.token_hex(_GENERATION_BYTES)), _VARIANTS_SECONDS)
        else:
            lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)

    def tagged(self, fields: Fields, body: bytes) -> Fields:
        """Return the fields of a response that is stored, with an `ETag` made from its whole body if it has none."""
        response = self._response
        if response is None or self._body is None:
            return fields
        return with_etag(response._replace(fields=fields, body=body)).fields

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
        if self._size <= self._exchange.rule.max_body:
            self._body.append(chunk)
            return
        self.give_up()

    @property
    def _may_be_cut(self) -> bool:
        """Whether the body may have broken off, although its end was sent.

        A middleware such as Starlette's BaseHTTPMiddleware ends a body that breaks off.
        """
        return self._response is not None and not has(self._response.fields, b"content-length")

    def break_off(self) -> None:
        """Do not store the response, because its client left before the end, so that the body may have broken off."""
        if self._may_be_cut:
            self.withdraw()

    def withdraw(self) -> None:
        """Do not store the response, which says nothing of those to other requests: one that waits runs next."""
        self._body = None
        if self._lead is not None:
            self._lead.decide(Uncacheable("request"), None)

    async def retract(self) -> None:
        """Remove the response, because the application failed after the end, so that the body may have broken off."""
        if self._may_be_cut:
            with suppress(CacheError):
                await self._exchange.store.remove(self._exchange.key)

    async def end(self) -> Reply | None:
        """End the run: store what is complete, and return the response that replaces one that was held back."""
        lead, response = self._lead, self._response
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

    def _may_be_tagged(self) -> bool:
        """Return whether the cache accepts the tags of the response; log what is wrong with them."""
        try:
            distinct_tags(self.tags)
        except CacheInputError as error:
            self._exchange.rule.tag_warning.log(error)
            return False
        return True

    async def _outcome(self, lead: Lead, response: Response, received: float) -> Reply | None:
        if not self._may_be_tagged():
            self._decide_uncacheable(lead)
            return None
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
            return await self._replacement(lead, lead.stale, response, received)
        return None

    async def _replacement(
        self, lead: Lead, stale: Stored, response: Response, received: float
    ) -> Reply | None:
        """Return the stale response instead of an error, or with the fields of the 304 response that validated it."""
        self._status = replace(self._status, status=response.status)
        if response.status != _NOT_MODIFIED:
            # What is stored stays as it is.
            lead.decide(replace(stale, is_replacement=True), None)
            return self._exchange.reply(stale, self._status)
        fresh = self._exchange.rule.policy.freshened(stale, response, self._requested, received)
        if fresh is None:
            return None
        if self._exchange.rule.policy.may_store(self._anonymous, fresh.status, fresh.fields):
            self.tags.update(stale.tags)
            names = selecting_names(fresh.fields)
            is_stored = await self._store(lead, self._with_tags(fresh), names)
            self._status = replace(self._status, stored=is_stored)
        else:
            # What the 304 response says applies, such as that the response is now for one client.
            self._decide_uncacheable(lead)
            if lead.replaces:
                with suppress(CacheError):
                    await self._exchange.store.remove(self._exchange.key)
        reply = self._exchange.reply(fresh, self._status)
        # They are for this client, and not stored.
        cookies = (field for field in response.fields if field[0] in COOKIES)
        return replace(reply, fields=(*reply.fields, *cookies))

    def _with_tags(self, stored: Stored) -> Stored:
        """Return a response with the tags that are not those of its route."""
        added = self.tags - self._exchange.rule.tags
        return replace(stored, tags=tuple(sorted(added))) if added else stored

    async def _store_response(self, lead: Lead, response: Response, received: float) -> None:
        exchange = self._exchange
        stored = exchange.rule.policy.stored(exchange.request, response, self._requested, received)
        if stored is None:
            lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)
            return
        await self._store(lead, self._with_tags(stored), selecting_names(response.fields))

    async def _store(self, lead: Lead, stored: Stored, names: tuple[bytes, ...]) -> bool:
        """End the load with a response for the variant that the request selects; return whether it is stored.

        Args:
            lead: the load.
            stored: the response. A 304 response may have changed its `Vary`.
            names: of the fields in its `Vary`.
        """
        exchange = self._exchange
        seconds = exchange.rule.policy.served_seconds(stored, time())
        if exchange.names is not None and not set(names) <= set(exchange.names):
            # The URI has more variants than were known: they are learned anew.
            lead.decide(Uncacheable(), None)
            with suppress(CacheError):
                await exchange.store.remove(exchange.request.target)
            return False
        if exchange.names is None and (names or exchange.identity is not None):
            variants = Variants(names, secrets.token_hex(_GENERATION_BYTES))
            exchange.select(variants)
            outcome = Outcome(stored, seconds, self.tags)
            try:
                await exchange.store.put(exchange.key, outcome, exchange.terms)
            except CacheError:
                # Such as a response that is too large for the cache.
                lead.decide(Uncacheable(), _UNCACHEABLE_SECONDS)
                return False
            lead.decide(variants, _VARIANTS_SECONDS, self.tags)
        else:
            lead.decide(stored, seconds, self.tags)
        return True
