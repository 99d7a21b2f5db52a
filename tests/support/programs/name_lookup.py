"""A program that nobody tells what a name means, and that forks: `name_lookup.py <port> <connect_timeout>`.

Prints the code that `open` gives, what a child gets that is told, and "exiting" when its last line has
run, with the look-up still under way.
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
    f"redis://{NAME}:{port}", key_prefix="nameless:", connect_timeout=connect_timeout
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
