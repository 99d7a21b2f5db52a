"""A Pip.Services application with the cache as a component: from its factory, by configuration.

    python pip_services_app.py

Set `CACHE_URL` to the address of your server (`redis://127.0.0.1:6379/0`), and `CACHE_USERNAME` and
`CACHE_PASSWORD` to your login there; the default is a private server that runs as long as the program.
"""

import os
from typing import Any

from pip_services4_components.config import ConfigParams
from pip_services4_components.context import Context, IContext
from pip_services4_components.refer import (
    Descriptor,
    IReferenceable,
    IReferences,
    Referencer,
    References,
)
from pip_services4_components.run import Closer, Opener
from pip_services4_config.auth import CredentialParams, MemoryCredentialStore
from pip_services4_config.connect import MemoryDiscovery
from pip_services4_logic.cache import ICache

from async_redis_cache import DefaultRedisFactory

CACHE = Descriptor("pip-services", "cache", "redis", "default", "1.0")
CATALOGUE = Descriptor("example", "catalogue", "default", "default", "1.0")
CREDENTIALS = Descriptor("pip-services", "credential-store", "memory", "default", "1.0")
DISCOVERY = Descriptor("pip-services", "discovery", "memory", "default", "1.0")


class Catalogue(IReferenceable):
    """A component of the application that uses `ICache`, and does not depend on Redis."""

    _cache: ICache

    def set_references(self, references: IReferences) -> None:
        self._cache = references.get_one_required(Descriptor("*", "cache", "*", "*", "1.0"))

    def describe(self, context: IContext, name: str) -> dict[str, Any]:
        description: dict[str, Any] | None = self._cache.retrieve(context, name)
        if description is None:
            description = {"name": name, "length": len(name)}  # replace with your slow function
            self._cache.store(context, name, description, 60_000)
        return description


def main() -> None:
    config = ConfigParams.from_value(
        {
            "connection": {"discovery_key": "redis"},
            "options": {"key_prefix": "catalogue:", "timeout": 60_000},
        }
    )
    discovery = MemoryDiscovery(
        ConfigParams.from_value({"redis": {"uri": os.environ.get("CACHE_URL", "embedded://")}})
    )
    credentials = MemoryCredentialStore()
    if password := os.environ.get("CACHE_PASSWORD"):
        login = {"username": os.environ.get("CACHE_USERNAME"), "password": password}
        credentials.store(None, "redis", CredentialParams(login))
        config.put("credential.store_key", "redis")

    cache = DefaultRedisFactory().create(CACHE)
    cache.configure(config)
    catalogue = Catalogue()

    references = References.from_tuples(
        *(DISCOVERY, discovery),
        *(CREDENTIALS, credentials),
        *(CACHE, cache),
        *(CATALOGUE, catalogue),
    )
    components = references.get_all()
    context = Context.from_trace_id("example-1")
    Referencer.set_references(references, components)
    Opener.open(context, components)
    try:
        for _ in range(2):
            print(catalogue.describe(context, "kettle"))
        print(f"{cache.stats().hits} of 2 from the cache")
    finally:
        Closer.close(context, components)


if __name__ == "__main__":
    main()
