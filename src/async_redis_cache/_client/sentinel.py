"""Sentinel: finds the current master, and reports when another server becomes master.

A master that is partitioned, or was demoted, goes on acknowledging writes that will be lost, and only the Sentinels
know. Any of them can be out of date. So the cache subscribes to all of them all the time. Each reports a master
and the epoch of its election; the latest election counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.errors import CacheConfigError, CacheUnavailable, CacheUnsupported
from async_redis_cache._common.failures import UNEXPECTED_REPLY, Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.hosts import parse_address
from async_redis_cache._common.options import Options
from async_redis_cache._connection.connection import Connection
from async_redis_cache._connection.connector import Connector, fields_of, verify_master
from async_redis_cache._connection.provided_login import LoginIfRequired
from async_redis_cache._connection.push import KeepalivePolicy, Probe, PushChannel, refusal_in
from async_redis_cache._connection.sockets import TLSConfig

from .sentinel_connector import SentinelConnector

__all__ = ["MasterConnector", "Sentinels"]

_GRACE_SECONDS: Final = 0.1
"""At first, how long to wait for further Sentinels after one has reported a master."""
_SWITCHED: Final = b"+switch-master"
_PROMOTED: Final = b"+promoted-slave"
"""Announced first, by the Sentinel that leads a failover. `+switch-master` follows once the other replicas have
been reconfigured."""

_UNKNOWN_MASTER: Final = Failure(
    CacheUnavailable,
    "CONNECT_FAILED",
    "no Sentinel could be reached that knows the master",
    retryable=True,
)
_WRONG_NAME: Final = Failure(
    CacheConfigError,
    "BAD_OPTION",
    "the Sentinels monitor no master with the name options.sentinel_master",
)


class _Report(NamedTuple):
    """The master according to one Sentinel. Reports order by epoch."""

    epoch: int
    """Number of the election; each later one has a higher number."""
    master: Address


class Sentinels:
    """A push channel to each Sentinel, and the master by their latest report.

    Args:
        endpoint: addresses of the Sentinels, and the name of the master.
        options: time limits, TLS, and the login at the Sentinels.
        on_master_changed: called with the address of the new master.
        policy: heartbeat and lifetime of the channels.
        health_of: returns the log condition of the channel to a Sentinel.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        on_master_changed: Callable[[Address], None],
        policy: KeepalivePolicy,
        health_of: Callable[[Address], Condition],
    ) -> None:
        self._on_master_changed = on_master_changed
        # The report of a Sentinel that is down still counts: an election cannot be undone.
        self._reports: dict[Address, _Report] = {}
        self.master: Address | None = None
        """The master that connections were made to last; None before the first."""
        self.channels: list[PushChannel] = []
        login = Endpoint(
            tls=options.sentinel_tls,
            username=options.sentinel_username or None,
            password=options.sentinel_password or None,
        )
        provider = endpoint.login_source if options.credential_provider is not None else None
        self._sources: dict[PushChannel, LoginIfRequired] = {}
        """By channel, the source of its login, if the Sentinels have no login of their own."""
        tls = TLSConfig.of(options, sentinels=True)
        for address in endpoint.seeds:
            source = None
            if provider is not None and not (login.username or login.password):
                source = LoginIfRequired(provider)
            at_sentinel = replace(login.at(address), login_source=source)
            watcher = _SentinelWatcher(
                address, endpoint.master.encode(), partial(self._on_report, address)
            )
            connector = SentinelConnector(partial(_connector_to, at_sentinel, options, tls))
            channel = PushChannel(
                connector,
                watcher,
                subscription=watcher.subscription,
                policy=policy,
                health=health_of(address),
            )
            connector.on_protocol = partial(_subscribe_or_poll, channel, watcher)
            self.channels.append(channel)
            if source is not None:
                self._sources[channel] = source

    def with_login_of_cache(self) -> Iterator[PushChannel]:
        """The channels to Sentinels that required the login of the cache."""
        return (channel for channel, source in self._sources.items() if source.is_required)

    async def find_master(self) -> Address | Failure:
        """Return the address of the master, or why it is unknown.

        The first call waits until all Sentinels have replied or failed, but only 0.1 s once one has reported a master.
        """
        if self.master is None:
            await self._first_reports()
        if not self._reports:
            return self._failure()
        self.master = max(self._reports.values()).master
        return self.master

    async def _first_reports(self) -> None:
        pending = {asyncio.ensure_future(channel.first_attempt()) for channel in self.channels}
        try:
            while pending:
                grace = _GRACE_SECONDS if self._reports else None
                done, pending = await asyncio.wait(
                    pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
        finally:
            for attempt in pending:
                attempt.cancel()
            if pending:
                await asyncio.wait(pending)

    def _failure(self) -> Failure:
        failures = [channel.failure for channel in self.channels if channel.failure is not None]
        # A permanent failure, such as a refused login, says more than that one of them is unreachable.
        return next((failure for failure in failures if not failure.retryable), _UNKNOWN_MASTER)

    def _on_report(self, sentinel: Address, report: _Report) -> None:
        self._reports[sentinel] = report
        latest = max(self._reports.values()).master
        if self.master not in {None, latest}:
            self.master = latest
            self._on_master_changed(latest)


def _connector_to(endpoint: Endpoint, options: Options, tls: TLSConfig, protocol: int) -> Connector:
    return Connector(endpoint, options, protocol=protocol, tls=tls)


def _subscribe_or_poll(channel: PushChannel, watcher: _SentinelWatcher, protocol: int) -> None:
    """Choose the first commands of the next connection by its RESP version."""
    channel.subscription = watcher.subscription if protocol == 3 else watcher.probe


class _SentinelWatcher:
    """Reads the announcements and replies of one Sentinel.

    Args:
        address: of the Sentinel.
        name: name of the master.
        on_report: called with each report about this master.
    """

    def __init__(self, address: Address, name: bytes, on_report: Callable[[_Report], None]) -> None:
        self._address = address
        self._name = name
        self._on_report = on_report
        self._epoch = 0
        # In this order: if a failover comes between the replies, the address is newer than the epoch, not older.
        # GET-MASTER-ADDR-BY-NAME returns the new master from its promotion on, MASTER only after all replicas
        # have been reconfigured.
        self.probe = Probe(
            (
                (b"SENTINEL", b"MASTER", name),
                (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name),
            ),
            self._on_master_reply,
        )
        self.subscription = self.probe._replace(subscription=(b"SUBSCRIBE", _SWITCHED, _PROMOTED))

    def on_event(self, message: list[Any]) -> None:
        """Report the new master if the announcement concerns the configured one.

        Raises:
            LookupError, TypeError, ValueError: the announcement is malformed.
        """
        if message[0] != b"message":
            return
        _, channel, text = message
        words = text.split()
        if channel == _SWITCHED:
            name, _, _, host, port = words
        else:
            # The promoted replica, followed by its former master.
            _, _, host, port, _, name, *_ = words
        if name == self._name:
            # An announcement has no epoch. It is a later election than the last one; the next probe reads its number.
            self._report(self._epoch + 1, host, port)

    def on_reply(self, moment: float) -> None:
        """Do nothing: `_on_master_reply` has read the reply."""

    def on_lost(self) -> None:
        """Do nothing: the other Sentinels report."""

    def _on_master_reply(self, replies: Sequence[Any]) -> Failure | None:
        fields, address = replies
        if address is None:
            return _WRONG_NAME
        if (refusal := refusal_in(replies)) is not None:
            if refusal.kind is CacheUnsupported:
                problem = (
                    f"{name_of(self._address)} answers, but is no Sentinel: check the addresses in the "
                    "URI, or set options.topology to single"
                )
                return refusal._replace(message=problem)
            return refusal
        try:
            self._report(int(fields_of(fields)[b"config-epoch"]), *address)
        except (AttributeError, LookupError, TypeError, ValueError):
            return UNEXPECTED_REPLY
        return None

    def _report(self, epoch: int, host: bytes, port: bytes) -> None:
        master = parse_address(host, port)
        self._epoch = epoch
        self._on_report(_Report(epoch, master))


class MasterConnector:
    """Connects to the current master.

    Args:
        sentinels: know the address.
        endpoint: login at the data servers.
        options: time limits and TLS.
        protocol: RESP version of the connections.
    """

    def __init__(
        self, sentinels: Sentinels, endpoint: Endpoint, options: Options, *, protocol: int = 2
    ) -> None:
        self._sentinels = sentinels
        self._endpoint = endpoint
        self._options = options
        self._protocol = protocol
        self._timeout = options.connect_seconds
        self._current: tuple[Address, Connector] | None = None
        """The address of the master, and the connector for it."""
        self._connectors: dict[Connection, Connector] = {}
        """By connection, the connector that made it, which also has to close it."""

    async def open_connection(self) -> Connection | Failure:
        """Return a connection to the master, or why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                address = await self._sentinels.find_master()
                if isinstance(address, Failure):
                    return address
                connector = self._connector_for(address)
                # When the master changes, the caller of this method cancels it: see `drop_other_addresses`.
                outcome = await connector.open_connection()
                if not isinstance(outcome, Failure):
                    self._connectors[outcome] = connector
                return outcome
        except TimeoutError:
            return _UNKNOWN_MASTER

    async def close_idle(self) -> None:
        """Close connections whose login failed or was cancelled."""
        connectors = set(self._connectors.values())
        if self._current is not None:
            connectors.add(self._current[1])
        for connector in connectors:
            await connector.close_idle()

    async def discard_connection(self, connection: Connection) -> None:
        """Close a connection that will not be used again."""
        await self._connectors.pop(connection).discard_connection(connection)

    def _connector_for(self, address: Address) -> Connector:
        if self._current is None or self._current[0] != address:
            connector = Connector(
                self._endpoint.at(address),
                self._options,
                protocol=self._protocol,
                verify=verify_master,
            )
            self._current = address, connector
        return self._current[1]
