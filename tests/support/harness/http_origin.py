"""A reverse proxy, to which `http_proxy` and `http_peer_proxies` add the caches that the public suite runs against."""

from __future__ import annotations

from typing import Final, Self

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["Origin", "Proxy"]

HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
)


class Origin:
    """Passes requests on to the origin. A context manager, whose exit closes the connections.

    Args:
        address: of the origin: scheme, host and port.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        # The origin of the suite closes connections, so that one that is kept may be closed when it is used again.
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=10, limits=limits)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def stream(self, request: Request) -> Response:
        """Return the response, whose body is passed on as it comes; 502 if there is none."""
        received = await self._received(request)
        return _no_answer() if received is None else _Passed(received)

    async def read(self, request: Request) -> Response:
        """Return the response with its whole body; 502 if there is none."""
        received = await self._received(request)
        if received is None:
            return _no_answer()
        try:
            body = b"".join([part async for part in received.aiter_raw()])
        except httpx.HTTPError:
            return _no_answer()
        finally:
            await received.aclose()
        response = Response(body, received.status_code)
        response.raw_headers = _fields_of(received)
        return response

    async def _received(self, request: Request) -> httpx.Response | None:
        query = request.scope["query_string"].decode("latin-1")
        path = request.scope["raw_path"].decode("latin-1")
        url = self._address + path + (f"?{query}" if query else "")
        body = await request.body()
        fields = [
            field
            for field in request.headers.raw
            if field[0] not in {*HOP_BY_HOP, b"content-length"}
        ]
        try:
            asked = httpx.Request(request.method, url, headers=fields, content=body or None)
            return await self._client.send(asked, stream=True)
        except httpx.HTTPError:
            return None


class Proxy:
    """The proxy, as an application: passes requests on to the origin, and its responses back as they come."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        response = await self._origin.stream(Request(scope, receive))
        await response(scope, receive, send)


class _Passed(StreamingResponse):
    """A response of the origin, byte by byte."""

    def __init__(self, received: httpx.Response) -> None:
        super().__init__(received.aiter_raw(), received.status_code)
        self.raw_headers = _fields_of(received)
        self._received = received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and close that of the origin in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._received.aclose()


def _fields_of(received: httpx.Response) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower(), value)
        for name, value in received.headers.raw
        if name.lower() != b"transfer-encoding"
    ]


def _no_answer() -> Response:
    return Response("the origin did not answer", 502)
