"""The border to the Pip.Services packages: the only module that imports them.

They ship no type information, and `pip_services4_components.run` cannot be the first of them that
a process imports (its imports run in a circle): `config` and `context` go first here, once, which
is why the sorting of imports is switched off.
"""

from __future__ import annotations

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
    ConnectionException,
    InvalidStateException,
    InvocationException,
    UnauthorizedException,
    UnsupportedException,
)
from pip_services4_config.auth import CredentialParams, CredentialResolver
from pip_services4_config.connect import ConnectionParams, ConnectionResolver
from pip_services4_logic.cache import ICache

__all__ = [
    "ApplicationException",
    "BadRequestException",
    "ConfigException",
    "ConfigParams",
    "ConnectionException",
    "ConnectionParams",
    "ConnectionResolver",
    "Context",
    "CredentialParams",
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
    "trace_id_of",
]

Context = IContext | str | None
"""What every verb takes first: a context of the framework, a trace id, or nothing."""


def trace_id_of(context: Context) -> str | None:
    """The trace id that an error carries to the caller's log; None where there is none."""
    if context is None or isinstance(context, str):
        return context
    try:
        return ContextResolver.get_trace_id(context) or None
    except Exception:  # noqa: BLE001  asked while an error is reported, which must not be lost
        return None
