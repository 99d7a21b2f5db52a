"""No response is served to a client, or under a URI, that it is not for, whatever requests come in which order."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, ResponseOptions
from harness.responses import ask
from harness.run_length import scaled

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

AT_ONCE: Final = 5
PERSONAL: Final[tuple[str, ...]] = ("x-user", "x-tenant", "cookie", "authorization", "user-agent")
VALUES: Final = ("", "ann", "Ann", "bob", "ann;bob", "3:bob;", "absent", "é", "ann" * 200)
PATHS: Final = ("/a", "/A", "//a", "/a/", "/a/b", "/a%2Fb", "/a%2fb", "/a;b", "/a%3Fx=1", "/me/a")
QUERIES: Final = ("", "x=1", "x=%31", "x=1&y=2", "y=2&x=1", "x=1;y=2")
HOSTS: Final = ("shop", "SHOP", "shop:80", "other", "shop.other")
RULES: Final[dict[str, ResponseOptions]] = {
    "/me/*": {"ttl": 60, "vary_on": lambda scope: value_of(scope, b"x-user")},
    "*": {"ttl": 60},
}


class Asked(NamedTuple):
    """A request: its URI, and the fields that are present."""

    scheme: str
    host: str
    path: str
    query: str
    forwarded: str | None
    fields: dict[str, str]

    @property
    def uri(self) -> list[str | None]:
        """What a response depends on in any case."""
        return [
            self.scheme,
            self.host.lower(),
            self.path,
            self.query,
            self.forwarded or self.host.lower(),
        ]


REQUESTS: Final = st.builds(
    Asked,
    st.sampled_from(["http", "https"]),
    st.sampled_from(HOSTS),
    st.sampled_from(PATHS),
    st.sampled_from(QUERIES),
    st.sampled_from([None, None, None, "shop", "evil"]),
    st.fixed_dictionaries({}, optional={name: st.sampled_from(VALUES) for name in PERSONAL}),
)


@st.composite
def batches(draw: st.DrawFn) -> list[list[Asked]]:
    """Ten batches of concurrent requests, each for few URIs, so that most requests find something."""
    chosen: list[list[Asked]] = []
    for _ in range(10):
        known = st.sampled_from(draw(st.lists(REQUESTS, min_size=2, max_size=4)))
        others = known | REQUESTS
        chosen.append([draw(known)._replace(fields=draw(others).fields) for _ in range(AT_ONCE)])
    return chosen


def value_of(scope: Any, name: bytes) -> str:
    """Return the value of a field of a request, marked so that none is not an empty one."""
    return next((f"={value!r}" for field, value in scope["headers"] if field == name), "none")


class Personal:
    """An application whose responses depend on what they say, and which says it in another way at each run."""

    def __init__(self, seed: int) -> None:
        self.runs = 0
        self._random = random.Random(seed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with all that the response depends on."""
        self.runs += 1
        fields = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        used, headers = self._kind()
        if scope["path"].startswith("/me/"):
            used = {*used, "x-user"}
        uri = [
            scope["scheme"],
            fields["host"].lower(),
            scope["raw_path"].decode(),
            scope["query_string"].decode(),
            fields.get("x-forwarded-host") or fields["host"].lower(),
        ]
        body = json.dumps([uri, {name: fields.get(name) for name in sorted(used)}])
        for _ in range(self._random.randrange(3)):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})

    def _kind(self) -> tuple[set[str], list[tuple[bytes, bytes]]]:
        """Choose the request fields that a response depends on, and the fields that say so."""
        everything = set[str](PERSONAL)
        kinds: list[tuple[set[str], list[tuple[bytes, bytes]]]] = [
            (everything, [(b"Cache-Control", b"private, max-age=60")]),
            (everything, [(b"Set-Cookie", b"session=1"), (b"Cache-Control", b"public")]),
            (everything, [(b"Vary", b"X-User"), (b"Vary", b"*")]),
            (everything, [(b"Cache-Control", b"no-store")]),
            (set(), [(b"Cache-Control", b"s-maxage=60")]),
            # Stored for those without the field only.
            ({"authorization"}, []),
        ]
        chosen = self._random.randrange(9)
        if chosen < len(kinds):
            return kinds[chosen]
        used = set[str](self._random.sample(PERSONAL, self._random.randrange(1, 4)))
        lines = [(b"Vary", name.title().encode()) for name in used]
        is_public = self._random.random() < 0.5
        return used, [*lines, (b"Cache-Control", b"public")] if is_public else lines


@given(asked=batches(), seed=st.integers(0, 1_000_000))
@settings(
    max_examples=scaled(20, 1_000),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_response_crosses_identities(
    any_server: Server, asked: list[list[Asked]], seed: int
) -> None:
    """Each response, of 1,000, depends on values of the fields of its own request only; of 50,000 in the long form."""
    asyncio.run(ask_all(any_server, asked, Personal(seed)))


async def ask_all(server: Server, batched: list[list[Asked]], app: Personal) -> None:
    """Send batches of concurrent requests, and compare each response with its request."""
    prefix = f"{uuid.uuid4().hex[:12]}:"
    async with AsyncRedisCache.from_url(
        server.url, key_prefix=prefix, command_timeout=10_000
    ) as cache:
        cached = ResponseCache(app, cache=cache, rules=RULES)
        for batch in batched:
            for request, body in zip(
                batch, await asyncio.gather(*(sent(cached, one) for one in batch)), strict=True
            ):
                uri, used = json.loads(body)
                assert uri == request.uri
                for name, value in used.items():
                    is_own = value == request.fields.get(name)
                    assert is_own or (name == "authorization" and value is None), (request, used)
        await cached.close()


async def sent(app: Any, asked: Asked) -> bytes:
    """Send a request, and return the body of the response."""
    forwarded = [] if asked.forwarded is None else [("x-forwarded-host", asked.forwarded)]
    answer = await ask(
        app,
        asked.path,
        [("host", asked.host), *forwarded, *asked.fields.items()],
        scheme=asked.scheme,
        query=asked.query,
    )
    return answer.body
