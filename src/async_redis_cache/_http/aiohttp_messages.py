"""Header fields and responses of aiohttp, which has them as text in UTF-8."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from multidict import CIMultiDict

from .exchange import Reply
from .fields import Fields

__all__ = ["fields_of", "lines_of", "response_of"]


def fields_of(response: web.StreamResponse) -> Fields:
    """Return the header fields of a response, with those of its cookies."""
    fields = tuple(
        (name.lower().encode(), value.encode(errors="surrogateescape"))
        for name, value in response.headers.items()
    )
    # aiohttp adds them to the headers when it sends the response.
    cookies = (morsel.OutputString().encode() for morsel in response.cookies.values())
    return (*fields, *((b"set-cookie", cookie) for cookie in cookies))


def lines_of(fields: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    """Return header fields as aiohttp takes them."""
    return CIMultiDict(
        (name.decode(), value.decode(errors="surrogateescape")) for name, value in fields
    )


def response_of(reply: Reply) -> web.Response:
    """Return a response from the cache."""
    return web.Response(status=reply.status, headers=lines_of(reply.fields), body=reply.body)
