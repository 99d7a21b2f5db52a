"""A service that forks after it has opened its cache: `forking.py <url> <pid of the server> <prefix> <rounds>`.

Prints, as JSON, the way each child went, what went wrong, and the slowest call of the parent.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count

from async_redis_cache import CacheError, RedisCache
from harness.contention import Stopwatch

KEYS = 64
RIGHT, WRONG = 0, 9
HUNG_SECONDS = 20.0

cache: RedisCache | None = None


def calls(open_cache: RedisCache, number: int, seed: int) -> int:
    """Ask for keys in an order of one's own, and count the wrong answers."""
    keys = [(seed * 17 + step * 23) % KEYS for step in range(number)]
    return sum(open_cache.retrieve(None, f"key-{key}") != key for key in keys)


def inherited() -> RedisCache:
    assert cache is not None
    return cache


def answered() -> None:
    """Call, on several threads at once."""
    wrong: list[int] = []
    callers = [
        threading.Thread(target=lambda: wrong.append(calls(inherited(), 50, os.getpid())))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if wrong != [0] * 3:
        os._exit(WRONG)


def leave_at_once() -> None:
    os._exit(RIGHT)


def use_and_leave_at_once() -> None:
    answered()
    os._exit(RIGHT)


def use_and_leave() -> None:
    answered()
    sys.exit(RIGHT)


def use_close_and_leave() -> None:
    answered()
    inherited().close(None)
    sys.exit(RIGHT)


def close_and_leave() -> None:
    inherited().close(None)
    sys.exit(RIGHT)


def close_reopen_and_leave() -> None:
    inherited().close(None)
    inherited().open(None)
    answered()
    sys.exit(RIGHT)


def collect_and_leave() -> None:
    global cache  # noqa: PLW0603  the child forgets it, as a service that starts anew does
    cache = None
    gc.collect()
    sys.exit(RIGHT)


def fail() -> None:
    answered()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise LookupError("the way many children go")


def be_killed() -> None:
    answered()
    os.kill(os.getpid(), signal.SIGKILL)


def become_another_program() -> None:
    os.execv("/bin/true", ["/bin/true"])


def fork_again() -> None:
    answered()
    child = os.fork()
    if child == 0:
        answered()
        sys.exit(RIGHT)
    answered()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


WAYS: dict[Callable[[], None], int] = {
    leave_at_once: RIGHT,
    use_and_leave_at_once: RIGHT,
    use_and_leave: RIGHT,
    use_close_and_leave: RIGHT,
    close_and_leave: RIGHT,
    close_reopen_and_leave: RIGHT,
    collect_and_leave: RIGHT,
    fail: 1,
    be_killed: -signal.SIGKILL,
    become_another_program: RIGHT,
    fork_again: RIGHT,
}


def fork(go: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        go()
        os._exit(WRONG)
    return child


def main(url: str, server: int, prefix: str, rounds: int) -> None:
    global cache  # noqa: PLW0603  as in a service, it is there for whoever needs it
    cache = RedisCache.from_url(url, key_prefix=prefix, command_timeout=10_000)
    cache.open(None)
    cache.store_many(None, {f"key-{key}": key for key in range(KEYS)})
    problems: list[str] = []
    wrong = 0
    ways = list(WAYS) * rounds
    stopwatch = Stopwatch(server)
    seeds = count()
    while ways:
        going = {fork(way): (way, time.monotonic()) for way in (ways.pop() for _ in ways[:4])}
        while going:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child:
                way, _ = going.pop(child)
                code = os.waitstatus_to_exitcode(status)
                if code != WAYS[way]:
                    problems.append(f"{way.__name__} went with {code}")

            def call() -> None:
                nonlocal wrong
                try:
                    wrong += calls(inherited(), 1, next(seeds))
                except CacheError as error:
                    problems.append(repr(error))

            stopwatch.time(call)
            for child, (way, since) in tuple(going.items()):
                if time.monotonic() - since > HUNG_SECONDS:
                    problems.append(f"{way.__name__} hung")
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    del going[child]
    stats = cache.stats()
    cache.close(None)
    figures = {
        "wrong": wrong,
        "problems": problems,
        "slowest": stopwatch.slowest,
        "calls": stats.hits,
        "errors": stats.errors,
        "children": len(WAYS) * rounds,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
