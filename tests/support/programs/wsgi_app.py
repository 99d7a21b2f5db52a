"""A WSGI application with a global cache, opened when it is imported; gunicorn serves it.

GET /<key> gives the process, and whether the cache holds what belongs to the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from async_redis_cache import RedisCache

cache = RedisCache.from_url(
    os.environ["APP_CACHE_URL"], key_prefix="gunicorn:", command_timeout=5000
)
cache.open(None)


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    key = environ["PATH_INFO"].strip("/")
    mine = f"{os.getpid()} {key}"
    cache.store(None, mine, mine)
    right = cache.retrieve(None, mine) == mine and cache.retrieve(None, key) == f"value of {key}"
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "right": right}).encode()]
