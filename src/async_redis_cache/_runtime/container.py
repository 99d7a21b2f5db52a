"""What the Pip.Services container gives a cache: configuration, references, loggers and counters."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, Final, Protocol, cast

import anyio
import anyio.to_thread

from async_redis_cache._common.endpoint import (
    DEFAULT_PORTS,
    Endpoint,
    Topology,
    parse_number,
    parse_port,
    parse_uri,
)
from async_redis_cache._common.errors import CacheConfigError, CacheError
from async_redis_cache._common.health_log import Record
from async_redis_cache._common.options import SECTIONS, Options
from async_redis_cache._common.pip_services import (
    ConfigParams,
    ConnectionParams,
    ConnectionResolver,
    Context,
    CredentialParams,
    CredentialResolver,
    Descriptor,
    IReferences,
    trace_id_of,
)
from async_redis_cache._common.stats import DEPRECATED_NAMES, LEVELS, CacheStats

__all__ = ["Monitors", "MonitorsOf", "Settings"]


_CONNECTION: Final = ("discovery_key", "uri", "host", "ip", "port", "protocol", "database")
_CREDENTIAL: Final = ("store_key", "username", "user", "password", "pass")


class Settings:
    """What a cache was told: its configuration, and where to look up what that refers to.

    Args:
        has_serializer: whether the cache was given a serializer in place of the one that options name.
    """

    def __init__(self, *, has_serializer: bool = False) -> None:
        self._has_serializer = has_serializer
        self.options = Options()
        self._connections = ConnectionResolver()
        self._credentials = CredentialResolver()
        self._references: IReferences | None = None

    def configure(self, config: ConfigParams) -> None:
        """Take a whole new configuration, in sections or with its parameters at top level.

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
            problem = "options.foreign_readers is not for a serializer of your own"
            raise CacheConfigError("BAD_OPTION", problem)
        self.options = options
        # New resolvers: the framework's add to what they were configured with before.
        self._connections = ConnectionResolver(_in_section(config, "connection", _CONNECTION))
        self._credentials = CredentialResolver(_in_section(config, "credential", _CREDENTIAL))
        if self._references is not None:
            self.set_references(self._references)

    def set_references(self, references: IReferences) -> None:
        """Where discovery services and credential stores are found."""
        self._references = references
        self._connections.set_references(references)
        self._credentials.set_references(references)

    def monitors(self) -> tuple[list[Any], list[Any]]:
        """The loggers and the counters that the references hold."""
        if self._references is None:
            return [], []
        loggers = self._references.get_optional(Descriptor("*", "logger", "*", "*", "1.0"))
        counters = self._references.get_optional(Descriptor("*", "counters", "*", "*", "1.0"))
        return list(loggers), list(counters)

    def resolve(self, context: Context) -> Endpoint:
        """Find the server and the login. Blocks: a discovery service may ask the network.

        Raises:
            CacheConfigError: NO_CONNECTION, BAD_URI, CANNOT_RESOLVE.
        """
        connections, credential = self._look_up(context)
        endpoint = self._endpoint_of(connections)
        if self.options.tls:
            if endpoint.kind != "tcp":
                problem = (
                    f"options.tls is not for {endpoint.kind}://, which never leaves the machine"
                )
                raise CacheConfigError("BAD_OPTION", problem)
            endpoint = replace(endpoint, tls=True)
        if credential is None:
            return endpoint
        return endpoint.with_login(
            credential.get_username() or None, credential.get_password() or None
        )

    def _endpoint_of(self, connections: Sequence[ConnectionParams]) -> Endpoint:
        """What the connections lead to: one server, or those who know which it is."""
        topology = cast("Topology", self.options.topology)
        endpoints = [_place_of(connection, topology) for connection in connections]
        endpoint = endpoints[0]
        if endpoint.topology == "single" and topology != "single":
            if any(one.kind != "tcp" for one in endpoints):
                raise CacheConfigError("BAD_OPTION", "options.topology needs hosts and ports")
            seeds = tuple((one.host, one.port) for one in endpoints)
            endpoint = replace(endpoint, topology=topology, seeds=seeds)
        if endpoint.topology not in {topology, "single"} and topology != "single":
            raise CacheConfigError("BAD_OPTION", "options.topology and connection.uri disagree")
        if endpoint.topology == "sentinel":
            endpoint = replace(endpoint, master=endpoint.master or self.options.sentinel_master)
            if not endpoint.master:
                problem = "options.sentinel_master is not given, nor does the URI name it"
                raise CacheConfigError("BAD_OPTION", problem)
        return endpoint

    def _look_up(
        self, context: Context
    ) -> tuple[Sequence[ConnectionParams], CredentialParams | None]:
        refers = any(connection.use_discovery() for connection in self._connections.get_all())
        if self._references is None and refers:
            raise _unresolved("connection.discovery_key is given, and no references were set")
        stored = any(one.use_credential_store() for one in self._credentials.get_all())
        if self._references is None and stored:
            raise _unresolved("credential.store_key is given, and no references were set")
        connections: Sequence[ConnectionParams] = ()
        credential: CredentialParams | None = None
        failure: str | None = None
        try:
            # The framework's resolvers hand the context to their own errors as a trace id.
            trace_id: Any = trace_id_of(context)
            connections = self._resolved(trace_id)
            credential = self._credentials.lookup(trace_id)
        except Exception as error:  # noqa: BLE001  a discovery service may raise anything
            failure = type(error).__name__
        # Raised outside of the handler: the original may quote a credential.
        if failure is not None:
            raise _unresolved(f"discovery service or credential store failed with {failure}")
        if not (connections and all(one.get_uri() or one.get_host() for one in connections)):
            if refers:
                raise _unresolved("no discovery service knows connection.discovery_key")
            raise CacheConfigError("NO_CONNECTION", "neither connection.uri nor connection.host")
        if stored and not (credential and credential.get_password()):
            raise _unresolved("no credential store has a password for credential.store_key")
        return connections, credential

    def _resolved(self, trace_id: Any) -> Sequence[ConnectionParams]:
        """The connections; of a single server, the first that is found."""
        if self.options.topology != "single":
            return self._connections.resolve_all(trace_id)
        connection = self._connections.resolve(trace_id)
        return () if connection is None else (connection,)


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


def _place_of(connection: ConnectionParams, topology: Topology) -> Endpoint:
    uri = connection.get_uri()
    if uri:
        return parse_uri(uri)
    port = connection.get_as_nullable_string("port")
    database = connection.get_as_nullable_string("database")
    return Endpoint(
        # There is one: `_look_up` refuses a connection without.
        host=connection.get_host() or "",
        port=parse_port(port) if port else DEFAULT_PORTS[topology],
        tls=connection.get_as_nullable_string("protocol") in {"rediss", "valkeys"},
        database=parse_number(database, "database") if database else 0,
    )


def _unresolved(problem: str) -> CacheError:
    return CacheConfigError("CANNOT_RESOLVE", problem)


_INTERVAL: Final = 10.0
"""Seconds between two reports of counts."""
_PATIENCE: Final = 1.0
"""Seconds that a close waits for the last one."""
_PREFIX: Final = "cache."


class Logs(Protocol):
    """What is needed of an `ILogger`."""

    def warn(self, context: Any, message: Any) -> Any:
        """It is worse."""
        ...

    def info(self, context: Any, message: Any) -> Any:
        """It is better."""
        ...


class Counts(Protocol):
    """What is needed of an `ICounters`."""

    def increment(self, name: str, value: float) -> Any:
        """So much more than before."""
        ...

    def last(self, name: str, value: float) -> Any:
        """So much now."""
        ...


class MonitorsOf(Protocol):
    """Where they are found."""

    def monitors(self) -> tuple[Sequence[Logs], Sequence[Counts]]:
        """The loggers and the counters."""
        ...


class Monitors:
    """Reports what happens in one open cache.

    Args:
        settings: where they are found.
        stats: what is counted.
    """

    def __init__(self, settings: MonitorsOf, stats: CacheStats) -> None:
        self._loop = asyncio.get_running_loop()
        self._logs, self._counts = settings.monitors()
        self._stats = stats
        self._reported = stats.snapshot()
        self._records: deque[Record] = deque()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        # Not one task for all the time: a loop that is closed without us would leave it unfinished.
        self._reporting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report from now on."""
        if self._counts:
            self._timer = self._loop.call_later(
                _INTERVAL, self._tick, context=contextvars.Context()
            )

    def told(self, record: Record) -> None:
        """Something has happened, in the loop's thread or in another."""
        if self._logs:
            self._records.append(record)
            # The loop may be closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._report_soon)

    async def stop(self) -> None:
        """Report for the last time, and wait for that as long as is decent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._timer is not None or self._records:
            self._report_soon()
        if self._reporting is not None:
            with anyio.CancelScope(shield=True):
                _, late = await asyncio.wait((self._reporting,), timeout=_PATIENCE)
                if late:
                    self._reporting.cancel()
                    await asyncio.wait(late)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_INTERVAL, self._tick, context=contextvars.Context())
        self._report_soon()

    def _report_soon(self) -> None:
        self._is_due = True
        if self._reporting is None:
            self._reporting = self._loop.create_task(self._report(), context=contextvars.Context())

    async def _report(self) -> None:
        try:
            while self._is_due:
                self._is_due = False
                records = [self._records.popleft() for _ in range(len(self._records))]
                before, self._reported = self._reported, self._stats.snapshot()
                report = partial(self._pass_on, records, before, self._reported)
                # The interpreter may be ending, and start no thread any more.
                with contextlib.suppress(RuntimeError):
                    await anyio.to_thread.run_sync(report, abandon_on_cancel=True)
        finally:
            self._reporting = None

    def _pass_on(self, records: Sequence[Record], before: CacheStats, now: CacheStats) -> None:
        """On a worker thread."""
        for logs in self._logs:
            for record in records:
                tell = logs.warn if record.event.level >= logging.WARNING else logs.info
                with contextlib.suppress(Exception):
                    tell(None, record.message)
        growth, levels = _growth(before, now), _levels(now)
        for counts in self._counts:
            for name, value in growth.items():
                with contextlib.suppress(Exception):
                    counts.increment(name, value)
            for name, value in levels.items():
                with contextlib.suppress(Exception):
                    counts.last(name, value)


def _growth(before: CacheStats, now: CacheStats) -> Mapping[str, int]:
    grown = {
        field.name: getattr(now, field.name) - getattr(before, field.name)
        for field in fields(CacheStats)
        if field.name not in LEVELS
    }
    return _as_counters({name: value for name, value in grown.items() if value})


def _levels(now: CacheStats) -> Mapping[str, int]:
    return _as_counters({name: int(getattr(now, name)) for name in sorted(LEVELS)})


def _as_counters(values: Mapping[str, int]) -> Mapping[str, int]:
    """The values by the name of their counter, renamed ones also by their deprecated name."""
    deprecated = {
        DEPRECATED_NAMES[name]: values[name] for name in values if name in DEPRECATED_NAMES
    }
    return {_PREFIX + name: value for name, value in {**values, **deprecated}.items()}
