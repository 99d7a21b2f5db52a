"""Fork and exit while the look-up of a host name hangs: `name_lookup.py <port> <connect_timeout>`.

Prints the error code of `open`, the value that a child reads once its own look-up succeeds, and "exiting"
after the last line, with the look-up still in progress.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

from async_redis_cache import CacheError, RedisCache

NAME = "cache.test"
port, connect_timeout = map(int, sys.argv[1:])
real = socket.getaddrinfo
answers = threading.Event()


def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
    answers.wait()
    return real("127.0.0.1", *args, **kwargs)


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


socket.getaddrinfo = resolve
cache = RedisCache.from_url(
    f"redis://{NAME}:{port}",
    key_prefix="nameless:",
    command_timeout=20_000,
    connect_timeout=connect_timeout,
)
try:
    cache.open(None)
except CacheError as error:
    say(error.code)
if os.fork() == 0:
    answers.set()
    with cache:
        say(cache.store(None, "key", "value"))
    sys.exit(0)
os.wait()
say("exiting")
