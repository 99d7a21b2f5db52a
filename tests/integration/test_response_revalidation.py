"""Stale responses that the application validates, or that must not be served, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions
from harness.responses import ask

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

RULES: dict[str, ResponseOptions] = {"*": {}}


@pytest.mark.parametrize("before", ["", "X-Tenant"])
async def test_vary_of_a_304_response_selects_variants(
    any_server: Server, key_prefix: str, before: str
) -> None:
    """A response whose 304 response names another field in `Vary` is served to no request that differs in that field."""
    validated: list[bytes] = []

    async def personal(scope: Any, receive: Any, send: Any) -> None:
        fields = dict(scope["headers"])
        user, is_valid = fields[b"x-user"], fields.get(b"if-none-match") == b'"of-ann"'
        # The first response is stale at once.
        age, vary = (b"0", b"X-User") if validated else (b"60", before.encode())
        if is_valid and user == b"ann":
            validated.append(user)
            age, vary = b"0", b"X-User"
        headers = [
            (b"etag", b'"of-%s"' % user),
            (b"cache-control", b"max-age=60"),
            (b"age", age),
            (b"vary", vary),
        ]
        status = 304 if is_valid and user == b"ann" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if status == 304 else user})

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(personal, cache=cache, rules=RULES)
        answers = [
            await ask(cached, headers=[("host", "shop"), ("x-tenant", "a"), ("x-user", user)])
            for user in ("ann", "ann", "bob", "ann")
        ]
    assert validated == [b"ann"]
    assert [answer.body for answer in answers] == [b"ann", b"ann", b"bob", b"ann"]


async def test_stale_response_for_all_replaces_no_personal_one(
    any_server: Server, key_prefix: str
) -> None:
    """What was stored before a route told clients apart is neither validated for one of them, nor sent instead of an error."""
    asked: list[bool] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        asked.append(b"if-none-match" in dict(scope["headers"]))
        headers = [(b"etag", b'"1"'), (b"cache-control", b"max-age=60"), (b"age", b"60")]
        status = 503 if (b"x-user", b"bob") in scope["headers"] else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"of ann"})

    shared: ResponseOptions = {"stale_if_error": 60}
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        before = ResponseCache(page, cache=cache, rules={"*": shared})
        after = ResponseCache(
            page, cache=cache, rules={"*": {**shared, "vary_on": lambda _: "bob"}}
        )
        await ask(before, headers=[("host", "shop"), ("x-user", "ann")])
        # It is stale at once, but for the resolution of the clock.
        while await cache.namespace("responses").contains("http://shop/page?"):
            pass
        answer = await ask(after, headers=[("host", "shop"), ("x-user", "bob")])
    assert answer.status == 503
    assert asked == [False, False]
