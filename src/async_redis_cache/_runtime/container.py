"""What a Pip.Services container configures a cache with: options, connections, credentials and references."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

from async_redis_cache._common.endpoint import (
    DEFAULT_PORTS,
    Endpoint,
    Topology,
    parse_number,
    parse_port,
    parse_uri,
)
from async_redis_cache._common.errors import CacheConfigError, CacheError
from async_redis_cache._common.logins import CredentialSource, Login
from async_redis_cache._common.options import SECTIONS, Options
from async_redis_cache._common.pip_services import (
    ConfigParams,
    Context,
    Descriptor,
    IReferences,
    trace_id_of,
)

from .discovery import (
    find_connections,
    find_credential,
    is_discovered,
    is_stored,
    require_resolvers,
    sections,
    text,
)
from .stored_login import StoredLogin

__all__ = ["Settings"]

_CONNECTION: Final = ("discovery_key", "uri", "host", "ip", "port", "protocol", "database")
_CREDENTIAL: Final = ("store_key", "username", "user", "password", "pass")


class Settings:
    """The configuration of a cache, and the references to look up its connection and credential in.

    Args:
        has_serializer: whether the cache has a serializer object, which replaces the one that the options name.
    """

    def __init__(self, *, has_serializer: bool = False) -> None:
        self._has_serializer = has_serializer
        self._provider: CredentialSource | None = None
        self.options = Options()
        self._connections: Sequence[ConfigParams] = ()
        self._credentials: Sequence[ConfigParams] = ()
        self._references: IReferences | None = None

    def use_provider(self, provider: CredentialSource | None) -> None:
        """Use this credential provider unless `options.credential_provider` is set.

        Raises:
            CacheConfigError: BAD_OPTION, if it is none.
        """
        self._provider = Options.parse({"credential_provider": provider}).credential_provider

    def configure(self, config: ConfigParams) -> None:
        """Replace the configuration. Its parameters may be in sections or at top level.

        Raises:
            CacheConfigError: BAD_OPTION.
        """
        top = {name: value for name, value in _items(config) if name in Options.names()}
        own = {
            f"{section}.{name}": value
            for section in SECTIONS
            for name, value in _section(config, section)
        }
        options = Options.parse(top | own | dict(_section(config, "options")))
        if options.foreign_readers and self._has_serializer:
            problem = "options.foreign_readers cannot be combined with a serializer object"
            raise CacheConfigError("BAD_OPTION", problem)
        if options.credential_provider is None:
            options = replace(options, credential_provider=self._provider)
        self.options = options
        self._connections = sections(_in_section(config, "connection", _CONNECTION), "connection")
        self._credentials = sections(_in_section(config, "credential", _CREDENTIAL), "credential")

    def set_references(self, references: IReferences) -> None:
        """Set the references to look up discovery services, credential stores, loggers and counters in."""
        self._references = references

    def monitors(self) -> tuple[list[Any], list[Any]]:
        """Return the loggers and the counters of the references."""
        if self._references is None:
            return [], []
        loggers = self._references.get_optional(Descriptor("*", "logger", "*", "*", "1.0"))
        counters = self._references.get_optional(Descriptor("*", "counters", "*", "*", "1.0"))
        return list(loggers), list(counters)

    def resolve(self, context: Context) -> Endpoint:
        """Return the address and the login of the server. This blocks: a discovery service may use the network.

        Raises:
            CacheConfigError: NO_CONNECTION, BAD_URI, CANNOT_RESOLVE.
        """
        connections, credential = self._look_up(context)
        endpoint = self._endpoint_of(connections)
        if endpoint.kind in {"unix", "embedded"} and not hasattr(asyncio, "open_unix_connection"):
            problem = (
                f"{endpoint.kind}:// needs Unix sockets, which Python lacks on this platform: use redis:// and a host"
                f"{', or fake:// in tests' if endpoint.kind == 'embedded' else ''}"
            )
            raise CacheConfigError("BAD_URI", problem)
        if self.options.tls:
            if endpoint.kind != "tcp":
                problem = f"options.tls is for servers at a host; {endpoint.kind}:// stays on this machine"
                raise CacheConfigError("BAD_OPTION", problem)
            endpoint = replace(endpoint, tls=True)
        endpoint = _with_credential(endpoint, credential)
        provider = self.options.credential_provider
        if provider is None:
            return self._with_store(endpoint)
        if endpoint.username or endpoint.password:
            problem = "options.credential_provider replaces the login: remove that of `connection` or `credential`"
            raise CacheConfigError("BAD_OPTION", problem)
        # It imports redis-py, which importing this package does not.
        from async_redis_cache._connection.provided_login import ProvidedLogin  # noqa: PLC0415

        return replace(endpoint, login_source=ProvidedLogin(provider, self.options.connect_seconds))

    def _with_store(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with a login that is looked up again when it is refused, if it comes from a credential store."""
        credentials, references = self._credentials, self._references
        if not any(map(is_stored, credentials)):
            return endpoint

        def look_up() -> Login:
            found = find_credential(credentials, references, None)
            return _with_credential(endpoint, found).login

        source = StoredLogin(endpoint.login, look_up, self.options.connect_seconds)
        return replace(endpoint, login_source=source)

    def _endpoint_of(self, connections: Sequence[ConfigParams]) -> Endpoint:
        """The endpoint of the connections: a server, or the seeds of a Sentinel set-up or a cluster."""
        topology = cast("Topology", self.options.topology)
        endpoints = [_endpoint_at(connection, topology) for connection in connections]
        endpoint = endpoints[0]
        if endpoint.topology == "single" and topology != "single":
            if any(seed.kind != "tcp" for seed in endpoints):
                problem = f"options.topology `{topology}` needs connections with a host and a port"
                raise CacheConfigError("BAD_OPTION", problem)
            seeds = tuple((seed.host, seed.port) for seed in endpoints)
            endpoint = replace(endpoint, topology=topology, seeds=seeds)
        if endpoint.topology not in {topology, "single"} and topology != "single":
            problem = f"options.topology is `{topology}`, connection.uri says `{endpoint.topology}`"
            raise CacheConfigError("BAD_OPTION", problem)
        if endpoint.topology == "sentinel":
            endpoint = replace(endpoint, master=endpoint.master or self.options.sentinel_master)
            if not endpoint.master:
                problem = "Sentinel needs a master: set options.sentinel_master, or name it in connection.uri"
                raise CacheConfigError("BAD_OPTION", problem)
        if endpoint.topology != "single":
            endpoint = replace(endpoint, address_map=self.options.address_map)
        return endpoint

    def _look_up(self, context: Context) -> tuple[Sequence[ConfigParams], ConfigParams | None]:
        refers = any(map(is_discovered, self._connections))
        if self._references is None and refers:
            raise _unresolved("connection.discovery_key is set, but set_references was not called")
        stored = any(map(is_stored, self._credentials))
        if self._references is None and stored:
            raise _unresolved("credential.store_key is set, but set_references was not called")
        if refers or stored:
            require_resolvers()
        connections: Sequence[ConfigParams] = ()
        credential: ConfigParams | None = None
        failure: str | None = None
        try:
            # The framework's resolvers pass their context on to their errors as a trace id.
            trace_id: Any = trace_id_of(context)
            connections = find_connections(
                self._connections, self._references, trace_id, all=self.options.topology != "single"
            )
            credential = find_credential(self._credentials, self._references, trace_id)
        except Exception as error:  # noqa: BLE001  a discovery service may raise anything
            failure = type(error).__name__
        # Raised outside of the handler, without a cause: the original may contain a credential.
        if failure is not None:
            raise _unresolved(f"a discovery service or credential store raised {failure}")
        if not (connections and all(text(found, "uri", "host", "ip") for found in connections)):
            if refers:
                raise _unresolved("no discovery service resolves connection.discovery_key")
            problem = "set connection.uri or connection.host"
            raise CacheConfigError("NO_CONNECTION", problem)
        if stored and not (credential and text(credential, "password", "pass")):
            raise _unresolved("no credential store has a password for credential.store_key")
        return connections, credential


def _in_section(config: ConfigParams, section: str, names: tuple[str, ...]) -> ConfigParams:
    if any(name.startswith((f"{section}.", f"{section}s.")) for name, _ in _items(config)):
        return config
    flat = ConfigParams()
    for name, value in _items(config):
        if name in names:
            flat.put(f"{section}.{name}", value)
    return flat


def _section(config: ConfigParams, name: str) -> list[tuple[str, Any]]:
    return _items(config.get_section(name))


def _items(config: ConfigParams) -> list[tuple[str, Any]]:
    return list(cast("dict[str, Any]", config).items())


def _with_credential(endpoint: Endpoint, credential: ConfigParams | None) -> Endpoint:
    if credential is None:
        return endpoint
    return endpoint.with_login(
        text(credential, "username", "user") or None, text(credential, "password", "pass") or None
    )


def _endpoint_at(connection: ConfigParams, topology: Topology) -> Endpoint:
    if uri := text(connection, "uri"):
        return parse_uri(uri)
    port = text(connection, "port")
    database = text(connection, "database")
    return Endpoint(
        # `_look_up` refuses a connection without a host.
        host=text(connection, "host", "ip"),
        port=parse_port(port, "connection.port") if port else DEFAULT_PORTS[topology],
        tls=text(connection, "protocol") in {"rediss", "valkeys"},
        database=parse_number(database, "connection.database") if database else 0,
    )


def _unresolved(problem: str) -> CacheError:
    return CacheConfigError("CANNOT_RESOLVE", problem)
