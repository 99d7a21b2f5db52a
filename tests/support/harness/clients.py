"""A plain redis-py client, to inspect servers with."""

from __future__ import annotations

from typing import Any, Protocol, Self, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class Client(Protocol):
    """The type of `redis.Redis` without decoding, for strict type checkers."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def close(self) -> None: ...
    def get(self, name: str | bytes) -> bytes | None: ...
    def __getattr__(self, name: str) -> Any: ...  # All other methods of `redis.Redis`.


def connect(url: str, **options: object) -> Client:
    """A synchronous client that tries once, speaks RESP2 and takes any option of `redis.Redis`."""
    plain = {"socket_timeout": 60.0, "retry": Retry(NoBackoff(), 0), "protocol": 2}
    client: Client = cast("Any", redis.Redis).from_url(url, **(plain | options))
    return client
