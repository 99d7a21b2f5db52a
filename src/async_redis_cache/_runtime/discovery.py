"""Connections and credentials of a configuration, as they are written there or looked up by the framework's services.

Plain ones need only the framework's ConfigParams. Those with a `discovery_key` or `store_key` are resolved by
pip-services4-config, which defines the interfaces of discovery services and credential stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_redis_cache._common.errors import CacheConfigError
from async_redis_cache._common.pip_services import (
    ConfigParams,
    IReferences,
    import_resolvers,
    new_connection_resolver,
    new_credential_resolver,
)

__all__ = [
    "find_connections",
    "find_credential",
    "is_discovered",
    "is_stored",
    "require_resolvers",
    "sections",
    "text",
]


def sections(config: ConfigParams, name: str) -> list[ConfigParams]:
    """Return the sections of `connections` or `credentials`, or else the one section `connection` or `credential`."""
    several = config.get_section(f"{name}s")
    if several.get_section_names():
        return [several.get_section(section) for section in several.get_section_names()]
    return [config.get_section(name)]


def text(params: ConfigParams, *names: str) -> str:
    """Return the first of these parameters that is set; an empty text if none is."""
    return next(filter(None, map(params.get_as_nullable_string, names)), "")


def is_discovered(connection: ConfigParams) -> bool:
    """Return whether a discovery service has the connection."""
    return "discovery_key" in connection


def is_stored(credential: ConfigParams) -> bool:
    """Return whether a credential store has the credential."""
    return "store_key" in credential


def require_resolvers() -> None:
    """Import what discovery services and credential stores need.

    Raises:
        CacheConfigError: CANNOT_RESOLVE, if it is not installed.
    """
    try:
        import_resolvers()
    except ImportError:
        problem = (
            "connection.discovery_key and credential.store_key need an extra: "
            "pip install 'async-redis-cache[pip-services]'"
        )
        raise CacheConfigError("CANNOT_RESOLVE", problem) from None


def find_connections(
    connections: Sequence[ConfigParams], references: IReferences | None, trace_id: Any, *, all: bool
) -> Sequence[ConfigParams]:
    """Return the connections: one that needs no discovery service if there is one, or all. This may block.

    Raises:
        Exception: whatever a discovery service raises.
    """
    plain = [connection for connection in connections if not is_discovered(connection)]
    if plain and (not all or len(plain) == len(connections)):
        return plain if all else plain[:1]
    resolver = new_connection_resolver(connections, references)
    if all:
        return resolver.resolve_all(trace_id)
    found = resolver.resolve(trace_id)
    return () if found is None else (found,)


def find_credential(
    credentials: Sequence[ConfigParams], references: IReferences | None, trace_id: Any
) -> ConfigParams | None:
    """Return the credential: the first one that needs no credential store if there is one. This may block.

    Raises:
        Exception: whatever a credential store raises.
    """
    for credential in credentials:
        if not is_stored(credential):
            return credential
    return new_credential_resolver(credentials, references).lookup(trace_id)
