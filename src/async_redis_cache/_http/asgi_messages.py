"""What an ASGI server and an application pass to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from .exchange import Reply
from .fields import Fields

__all__ = [
    "ASGIApp",
    "Message",
    "NoBody",
    "Receive",
    "Scope",
    "Send",
    "discard",
    "is_stream",
    "path_of",
    "send_reply",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_EVENT_STREAM: Final = b"text/event-stream"


def path_of(scope: Scope) -> bytes:
    """Return the path of a request as sent, as far as the server passes it on."""
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return path


def is_stream(fields: Fields) -> bool:
    """Return whether a response is a stream of server-sent events."""
    return any(
        name == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in fields
    )


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a response from the cache."""
    await send(
        {"type": "http.response.start", "status": reply.status, "headers": list(reply.fields)}
    )
    await send({"type": "http.response.body", "body": reply.body})


class NoBody:
    """What a request of the cache itself receives: no content, and then nothing, since no client can leave."""

    def __init__(self) -> None:
        self._is_received = False

    async def __call__(self) -> Message:
        """Receive a message."""
        if self._is_received:
            await asyncio.get_running_loop().create_future()
        self._is_received = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def discard(message: Message) -> None:
    """Send nothing."""
