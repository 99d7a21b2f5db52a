"""Requests for a response by the ASGI middleware, beside `retrieve` of the same bytes.

The time of a request includes its scope and the call of the bare application, which are about a microsecond.
"""

from collections.abc import Awaitable, Mapping
from typing import Any

from async_redis_cache.asgi import ResponseCache, ResponseOptions

from .peers import AsyncPeer
from .peers_ours import Ours
from .servers import Target
from .workloads import OURS, RETRIEVE, UNCACHED, Operation, Workload

Message = Any


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def request(app: Any, path: str, query: str = "") -> bytes:
    """Return the body of the response of an ASGI application."""
    body = b""

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, _receive, send)
    return body


class Responses(Ours):
    """Stored responses; or, where `is_opted_in` is false, those of a route under a middleware that stores others."""

    def __init__(self, name: str = OURS, *, near: bool, is_opted_in: bool = True) -> None:
        super().__init__(name, near_cache_enabled=near)
        self._values: dict[str, Any] = {}
        self._pattern = "/*" if is_opted_in else "/other/*"

    async def open(self, server: Target) -> None:
        await super().open(server)
        rules: dict[str, ResponseOptions] = {self._pattern: {"ttl": 60}}
        self._app = ResponseCache(self._respond, cache=self._cache, rules=rules)

    async def _respond(self, scope: Message, receive: Message, send: Message) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._values[scope["path"]]})

    async def retrieve(self, key: str) -> object:
        return await request(self._app, f"/{key}")

    async def fill(self, values: Mapping[str, object]) -> object:
        self._values = {f"/{key}": value for key, value in values.items()}
        for key in values:
            await self.retrieve(key)
        return None


class Retrieved(Ours):
    """The bytes of the bodies."""

    def __init__(self, *, near: bool) -> None:
        super().__init__(RETRIEVE, near_cache_enabled=near, serializer="raw")

    def retrieve(self, key: str) -> Awaitable[object]:
        return self._cache.retrieve(None, key, type=bytes)


def responses(workload: Workload) -> list[AsyncPeer]:
    """The middleware, and `retrieve`."""
    near = workload.operation is Operation.NEAR_HIT
    return [Responses(near=near, is_opted_in=workload.note != UNCACHED), Retrieved(near=near)]
