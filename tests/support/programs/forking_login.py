"""A service with a credential provider that forks: `forking_login.py <url> <user> <password>`.

Prints, as JSON, how often the provider was asked in the parent and in the child, and what the child stored.
"""

from __future__ import annotations

import json
import os
import sys

from async_redis_cache import RedisCache


def main(url: str, user: str, password: str) -> None:
    asked_in: list[int] = []

    def provider() -> tuple[str, str]:
        asked_in.append(os.getpid())
        return user, password

    cache = RedisCache.from_url(url, credential_provider=provider, command_timeout=20_000)
    cache.open(None)
    parent = list(asked_in)
    reading, writing = os.pipe()
    if os.fork() == 0:
        cache.store(None, "key", "of the child")
        mine = asked_in.count(os.getpid())
        os.write(writing, json.dumps(mine).encode())
        os._exit(0)
    os.wait()
    found = {
        "parent": len(parent),
        "child": json.loads(os.read(reading, 100)),
        "value": cache.retrieve(None, "key"),
    }
    cache.close(None)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
