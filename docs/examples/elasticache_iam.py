r"""A cache on Amazon ElastiCache with IAM authentication: there is no password to store or to rotate.

    CACHE_URL=rediss://products-abc123.serverless.eun1.cache.amazonaws.com:6379 \
    CACHE_NAME=products CACHE_USER=shop AWS_REGION=eu-north-1 CACHE_SERVERLESS=yes \
    python elasticache_iam.py

A token is a URL, signed with the AWS keys of the process and valid for 15 minutes. It is signed for each connection,
which needs no network. ElastiCache requires TLS for it, and closes a connection after 12 hours;
`options.max_connection_age` replaces it long before.
"""

import asyncio
import functools
import hashlib
import hmac
import importlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from async_redis_cache import AsyncRedisCache

SERVICE = "elasticache"
VALID_SECONDS = 900
"""The longest that ElastiCache accepts."""


class Keys(NamedTuple):
    """Credentials of AWS: the fields that botocore has for them, in the same order."""

    access_key: str
    secret_key: str
    token: str | None


@functools.cache
def credentials_of_role() -> Any:
    """Return the credentials that botocore finds, which renew themselves; None if botocore is not installed."""
    try:
        session = importlib.import_module("botocore.session")
    except ImportError:
        return None
    return session.get_session().get_credentials()


def find_keys() -> Keys:
    """Return the current AWS keys of the process: those of its role, or those of the environment."""
    credentials = credentials_of_role()
    if credentials is not None:
        return Keys(*credentials.get_frozen_credentials()[:3])
    environment = os.environ
    return Keys(
        environment["AWS_ACCESS_KEY_ID"],
        environment["AWS_SECRET_ACCESS_KEY"],
        environment.get("AWS_SESSION_TOKEN"),
    )


class IamLogin:
    """Signs the login of each connection. Pass it as `credential_provider`.

    Args:
        user: the id of the ElastiCache user, which must be its name as well.
        cache: the name of the serverless cache, or the id of the replication group.
        region: such as `eu-north-1`.
        is_serverless: whether it is a serverless cache.
        keys: returns the AWS keys to sign with. May block.
        clock: returns the seconds since 1970.
    """

    def __init__(
        self,
        user: str,
        cache: str,
        region: str,
        *,
        is_serverless: bool = False,
        keys: Callable[[], Keys] = find_keys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._user = user
        # ElastiCache compares it in lower case.
        self._cache = cache.lower()
        self._region = region
        self._is_serverless = is_serverless
        self._keys = keys
        self._clock = clock

    def __call__(self) -> tuple[str, str]:
        """Return the user and a token."""
        query = {"Action": "connect", "User": self._user}
        if self._is_serverless:
            query["ResourceType"] = "ServerlessCache"
        now = datetime.fromtimestamp(self._clock(), UTC)
        return self._user, presigned(self._cache, query, self._region, self._keys(), now)


def presigned(host: str, query: dict[str, str], region: str, keys: Keys, now: datetime) -> str:
    """Sign a GET request by its query (AWS Signature Version 4), and return its URL without the scheme."""
    moment = f"{now:%Y%m%dT%H%M%SZ}"
    scope = f"{now:%Y%m%d}/{region}/{SERVICE}/aws4_request"
    parameters = query | {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(VALID_SECONDS),
        "X-Amz-SignedHeaders": "host",
    }
    if keys.token:
        parameters["X-Amz-Security-Token"] = keys.token
    text = "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in sorted(parameters.items())
    )
    request = f"GET\n/\n{text}\nhost:{host}\n\nhost\n{hashlib.sha256().hexdigest()}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{keys.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"{host}/?{text}&X-Amz-Signature={signature}"


async def main() -> None:
    login = IamLogin(
        os.environ["CACHE_USER"],
        os.environ["CACHE_NAME"],
        os.environ["AWS_REGION"],
        is_serverless=os.environ.get("CACHE_SERVERLESS") == "yes",
    )
    url = os.environ["CACHE_URL"]
    async with AsyncRedisCache.from_url(url, credential_provider=login) as cache:
        greetings = cache.namespace("greeting", type=str, ttl=60)
        print(await greetings.get_or_load("world", lambda: "hello, world"))


if __name__ == "__main__":
    asyncio.run(main())
