"""Forks inside of a call of its cache: `forking_inside.py <url> <prefix> <where>`, a loader or a serializer.

Prints, as JSON, what the call ended in there, and a call after it: of the child, and of the parent.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import msgspec

from async_redis_cache import CacheError, RedisCache

children: list[int] = []


def fork() -> str:
    children.append(os.fork())
    return "forked"


class Forking:
    """A serializer of JSON that forks when it is given that word."""

    def dumps(self, value: Any) -> bytes:
        if value == "fork":
            fork()
        return msgspec.json.encode(value)

    def loads(self, data: bytes) -> Any:
        return msgspec.json.decode(data)


def say(found: list[Any]) -> None:
    sys.stdout.write(f"{json.dumps(found)}\n")
    sys.stdout.flush()


def main(url: str, prefix: str, where: str) -> None:
    with RedisCache.from_url(
        url, key_prefix=prefix, serializer=Forking(), command_timeout=20_000
    ) as cache:
        try:
            if where == "loader":
                options: Any = {"in_thread": "caller", "hard_timeout": 600_000}
                ended = cache.retrieve_or_load(None, "key", fork, **options)
            else:
                ended = cache.store(None, "key", "fork")
        except CacheError as error:
            ended = error.code
        found = [ended, cache.store(None, "next", 1)]
        if children == [0]:
            say(found)
            os._exit(0)
        os.waitpid(children[0], 0)
    say(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
