"""The only module that imports the Pip.Services packages.

They contain no type information. `pip_services4_components.run` cannot be the first of them that a process imports,
because it is part of an import cycle: `config` and `context` must be imported before it, so the sorting of imports is
disabled here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

# isort: off
from pip_services4_components.config import ConfigParams, IConfigurable
from pip_services4_components.context import ContextResolver, IContext
from pip_services4_components.build import Factory
from pip_services4_components.refer import Descriptor, IReferenceable, IReferences
from pip_services4_components.run import IOpenable

# isort: on
from pip_services4_commons.errors import (
    ApplicationException,
    BadRequestException,
    ConfigException,
    ConflictException,
    ConnectionException,
    InvalidStateException,
    InvocationException,
    UnauthorizedException,
    UnsupportedException,
)
from pip_services4_logic.cache import ICache

if TYPE_CHECKING:
    from pip_services4_config.auth import CredentialResolver
    from pip_services4_config.connect import ConnectionResolver

__all__ = [
    "ApplicationException",
    "BadRequestException",
    "ConfigException",
    "ConfigParams",
    "ConflictException",
    "ConnectionException",
    "ConnectionResolver",
    "Context",
    "CredentialResolver",
    "Descriptor",
    "Factory",
    "ICache",
    "IConfigurable",
    "IContext",
    "IOpenable",
    "IReferenceable",
    "IReferences",
    "InvalidStateException",
    "InvocationException",
    "UnauthorizedException",
    "UnsupportedException",
    "import_resolvers",
    "new_connection_resolver",
    "new_credential_resolver",
    "trace_id_of",
]

Context = IContext | str | None
"""The first argument of every method: a context of the framework, a trace id, or None."""


def trace_id_of(context: Context) -> str | None:
    """The trace id of a context, for errors; None if there is none."""
    if context is None or isinstance(context, str):
        return context
    try:
        return ContextResolver.get_trace_id(context) or None
    except Exception:  # noqa: BLE001  runs while an error is reported, which must not be lost
        return None


# pip-services4-config is an extra: only discovery services and credential stores need it, and it brings pytest with it.
def import_resolvers() -> None:
    """Import what resolves connections and credentials.

    Raises:
        ImportError: pip-services4-config is not installed.
    """
    import_module("pip_services4_config.auth")
    import_module("pip_services4_config.connect")


def new_connection_resolver(
    connections: Iterable[ConfigParams], references: IReferences | None
) -> ConnectionResolver:
    """Create the framework's resolver of connections, which asks discovery services."""
    from pip_services4_config.connect import ConnectionParams, ConnectionResolver  # noqa: PLC0415

    resolver = ConnectionResolver(None, references)
    for connection in connections:
        resolver.add(ConnectionParams(connection))
    return resolver


def new_credential_resolver(
    credentials: Iterable[ConfigParams], references: IReferences | None
) -> CredentialResolver:
    """Create the framework's resolver of credentials, which asks credential stores."""
    from pip_services4_config.auth import CredentialParams, CredentialResolver  # noqa: PLC0415

    resolver = CredentialResolver(None, references)
    for credential in credentials:
        resolver.add(CredentialParams(credential))
    return resolver
