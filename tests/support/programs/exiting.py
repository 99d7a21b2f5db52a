"""A program that ends without closing its cache: `exiting.py <url> <how> <command_timeout>`.

Prints what its hooks and threads got, "waiting" when a call waits that nobody will answer, and
"exiting" when its last line has run. Between these two it reads a line.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable

from async_redis_cache import CacheError, RedisCache

url, how, command_timeout = sys.argv[1:]
cache = RedisCache.from_url(url, key_prefix="exiting:", command_timeout=int(command_timeout))


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except CacheError as error:
        return error.code


def retrieve() -> object:
    return outcome(lambda: cache.retrieve(None, "key"))


def open_another() -> object:
    another = RedisCache.from_url(url, key_prefix="exiting:")
    opened = outcome(lambda: another.open(None))
    return opened or outcome(lambda: another.retrieve(None, "key"))


def wait_for_nobody(*, daemon: bool) -> None:
    """Begin a call, and tell so, once the test has seen to it that it is not answered."""
    say("waiting")
    sys.stdin.readline()
    threading.Thread(target=lambda: say(retrieve()), daemon=daemon).start()


if how == "hook before open":
    atexit.register(lambda: say(retrieve()))
elif how == "close in hook before open":
    atexit.register(lambda: say(outcome(lambda: cache.close(None))))
cache.open(None)
while outcome(lambda: cache.store(None, "key", "value")) != "value":
    pass  # A machine that stalls may outlast a short deadline.
if how == "hook after open":
    atexit.register(lambda: say(retrieve()))
elif how == "close in hook after open":
    atexit.register(lambda: say(outcome(lambda: cache.close(None))))
elif how == "open in hook":
    atexit.register(lambda: say(open_another()))
elif how == "daemon thread":
    wait_for_nobody(daemon=True)
elif how == "thread":
    wait_for_nobody(daemon=False)
elif how == "daemon threads that go on":
    for _ in range(8):
        # They end when they are refused: one that printed a traceback while the interpreter ends
        # could be caught holding stderr, and Python aborts then.
        threading.Thread(target=lambda: list(iter(retrieve, "NOT_OPENED")), daemon=True).start()
elif how == "frozen":
    say("waiting")
    sys.stdin.readline()
elif how == "closed":
    cache.close(None)
elif how == "reopened":
    cache.close(None)
    cache.open(None)
elif how == "child":
    if os.fork() == 0:
        retrieve()
        sys.exit(0)
    os.wait()
say("exiting")
if how == "error":
    raise LookupError("the end of many programs")
