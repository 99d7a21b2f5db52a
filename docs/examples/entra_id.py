"""A cache on Azure Managed Redis, or Azure Cache for Redis, with Microsoft Entra ID instead of an access key.

    pip install azure-identity
    CACHE_URL=rediss://products.swedencentral.redis.azure.net:10000 python entra_id.py

A token is valid for about an hour, and Azure closes the connections that were made with it when it ends. So the
provider streams each following token a few minutes earlier, and the cache sends it on its open connections.
"""

import asyncio
import base64
import importlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from async_redis_cache import AsyncRedisCache

SCOPE = "https://redis.azure.com/.default"
RENEW_BEFORE_SECONDS = 240.0
"""azure-identity returns the same token until five minutes before its end."""
RETRY_SECONDS = 10.0


class AccessToken(Protocol):
    """A token of azure-identity."""

    @property
    def token(self) -> str:
        """The token itself, which is the password."""
        ...

    @property
    def expires_on(self) -> float:
        """When it ends, in seconds since 1970."""
        ...


class Credential(Protocol):
    """A credential of azure-identity, such as `DefaultAzureCredential()`."""

    def get_token(self, *scopes: str) -> AccessToken:
        """Return a token, from memory if it is valid for a while. May block."""
        ...


class EntraIdLogin:
    """Returns the login of each connection, and streams tokens. Pass it as `credential_provider`.

    It has the methods of a `StreamingCredentialProvider` of redis-py, and streams tuples instead of tokens. A daemon thread renews the token, from the first
    connection to the end of the process.

    Args:
        credential: the identity of the program; its object id is the user of the server.
        renew_before: seconds before the end of a token at which the next one is requested.
    """

    def __init__(
        self, credential: Credential, *, renew_before: float = RENEW_BEFORE_SECONDS
    ) -> None:
        self._credential = credential
        self._renew_before = renew_before
        self._lock = threading.Lock()
        self._is_renewing = False
        self._on_next: Callable[[Any], object] = ignore
        self._on_error: Callable[[Exception], object] = ignore

    def get_credentials(self) -> tuple[str, str]:
        """Return user and token. The cache calls this in a thread."""
        access = self._credential.get_token(SCOPE)
        with self._lock:
            if not self._is_renewing:
                self._is_renewing = True
                threading.Thread(target=self._renew, args=(access,), daemon=True).start()
        return login_of(access)

    def on_next(self, callback: Callable[[Any], object]) -> None:
        """Call this with the login of each following token."""
        self._on_next = callback

    def on_error(self, callback: Callable[[Exception], object]) -> None:
        """Call this when no token is returned; it is requested again."""
        self._on_error = callback

    def is_streaming(self) -> bool:
        """Return whether tokens are being renewed."""
        return self._is_renewing

    def _renew(self, access: AccessToken) -> None:
        while True:
            time.sleep(max(0.0, access.expires_on - self._renew_before - time.time()))
            try:
                following = self._credential.get_token(SCOPE)
                login = login_of(following)
            except Exception as error:  # noqa: BLE001  azure-identity may raise anything
                self._on_error(error)
                time.sleep(RETRY_SECONDS)
            else:
                if following.token == access.token:
                    time.sleep(RETRY_SECONDS)
                    continue
                access = following
                self._on_next(login)


def ignore(_: object) -> None:
    """Do nothing: no cache is open yet."""


def login_of(access: AccessToken) -> tuple[str, str]:
    """Return the object id in a token, and the token. The server verifies it."""
    payload = access.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims["oid"], access.token


async def main(credential: Credential) -> None:
    url = os.environ["CACHE_URL"]
    login = EntraIdLogin(credential)
    async with AsyncRedisCache.from_url(url, credential_provider=login) as cache:
        greetings = cache.namespace("greeting", type=str, ttl=60)
        print(await greetings.get_or_load("world", lambda: "hello, world"))


if __name__ == "__main__":
    identity = importlib.import_module("azure.identity")
    asyncio.run(main(identity.DefaultAzureCredential()))
