"""A Pip.Services application with the cache as a component: from its factory, by configuration.

    python pip_services_app.py

Set `CACHE_URL` to the address of your server (`redis://127.0.0.1:6379/0`), and `CACHE_USERNAME` and
`CACHE_PASSWORD` to your login there; the default is a private server that runs as long as the program.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

from pip_services4_components.config import ConfigParams
from pip_services4_components.context import Context, ContextResolver, IContext
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

from async_redis_cache import DefaultRedisFactory, RedisCache, SyncNamespace

CACHE = Descriptor("pip-services", "cache", "redis", "default", "1.0")
CATALOGUE = Descriptor("example", "catalogue", "default", "default", "1.0")
CREDENTIALS = Descriptor("pip-services", "credential-store", "memory", "default", "1.0")
DISCOVERY = Descriptor("pip-services", "discovery", "memory", "default", "1.0")


@dataclass
class Description:
    name: str
    length: int


class Catalogue(IReferenceable):
    """A component of the application, which gets the cache by reference."""

    _descriptions: SyncNamespace[Description]

    def set_references(self, references: IReferences) -> None:
        cache: RedisCache = references.get_one_required(
            Descriptor("*", "cache", "redis", "*", "1.0")
        )
        self._descriptions = cache.namespace(
            "description", type=Description, ttl=timedelta(minutes=1)
        )

    def describe(self, context: IContext, name: str) -> Description:
        return self._descriptions.get_or_load(
            name,
            lambda: Description(name, len(name)),  # replace with your slow function
            trace_id=ContextResolver.get_trace_id(context),
        )


def main() -> None:
    config = ConfigParams.from_value(
        {
            "connection": {"discovery_key": "redis"},
            "options": {"key_prefix": "catalogue:"},
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
