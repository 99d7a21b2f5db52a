"""Sentinels: who knows which server is the master, and tells when it is another.

A master that was cut off, or has given way, goes on to acknowledge writes which nobody will ever see again,
and only they know. Any of them may not know yet, or not any more. So all of them are listened to all the
time; each says whom it holds to be the master, and of which election, and the latest election counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from async_redis_cache._common.endpoint import Address, Endpoint
from async_redis_cache._common.errors import CacheConfigError, CacheUnavailable
from async_redis_cache._common.failures import UNEXPECTED_REPLY, Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.hosts import parse_address
from async_redis_cache._common.options import Options
from async_redis_cache._connection.connector import Connector, fields_of
from async_redis_cache._connection.push import KeepalivePolicy, Probe, PushChannel, refusal_in
from async_redis_cache._connection.sockets import TLSConfig

__all__ = ["UNKNOWN", "Sentinels", "sentinel_connectors"]

_OTHERS_SECONDS: Final = 0.1
"""How long the others are waited for at first, when one has said who is the master."""
_SWITCHED: Final = b"+switch-master"
_PROMOTED: Final = b"+promoted-slave"
"""What the sentinel that leads a failover says first; until the other replicas follow, it says no more."""

UNKNOWN: Final = Failure(
    CacheUnavailable,
    "CONNECT_FAILED",
    "no sentinel can be asked, or knows a server that will do",
    retryable=True,
)
_UNNAMED: Final = Failure(
    CacheConfigError, "BAD_OPTION", "the sentinels know no master by options.sentinel_master"
)


class _Claim(NamedTuple):
    """Whom a sentinel holds to be the master."""

    epoch: int
    """Of the election: each later one has a higher number."""
    place: Address


class Sentinels:
    """All of them, and whom they hold to be the master.

    Args:
        endpoint: where they are, and the master's name.
        options: time limits, TLS, and who we are to them.
        moved: called with where the master is now.
        pace: how the links to them are kept.
        told: gives, for each, where it is told when the link to it is lost, and armed again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        moved: Callable[[Address], None],
        pace: KeepalivePolicy,
        told: Callable[[Address], Condition],
    ) -> None:
        self._on_master_changed = moved
        # What it has said counts when its link is lost too: no election is undone.
        self._claims: dict[Address, _Claim] = {}
        self.place: Address | None = None
        """Where everybody was led."""
        self.channels: list[PushChannel] = []
        dialers = sentinel_connectors(endpoint, options, protocol=3)
        for sentinel, dialer in zip(endpoint.seeds, dialers, strict=True):
            witness = _SentinelWatcher(endpoint.master.encode(), partial(self._on_claim, sentinel))
            self.channels.append(
                PushChannel(
                    dialer,
                    witness,
                    subscription=witness.subscription,
                    policy=pace,
                    health=told(sentinel),
                )
            )

    async def master(self) -> Address | Failure:
        """Where the master is; why nobody says so, where all that were asked have not.

        At first all are waited for, and for a short time only when one has spoken.
        """
        if self.place is None:
            await self._all_answered()
        if not self._claims:
            return self._refusal()
        self.place = max(self._claims.values()).place
        return self.place

    async def _all_answered(self) -> None:
        pending = {asyncio.ensure_future(link.first_attempt()) for link in self.channels}
        try:
            while pending:
                grace = _OTHERS_SECONDS if self._claims else None
                ended, pending = await asyncio.wait(
                    pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED
                )
                if not ended:
                    break
        finally:
            for one in pending:
                one.cancel()
            if pending:
                await asyncio.wait(pending)

    def _refusal(self) -> Failure:
        failures = [link.failure for link in self.channels if link.failure is not None]
        # What somebody has to mend says more than that one of them is away.
        return next((failure for failure in failures if not failure.retryable), UNKNOWN)

    def _on_claim(self, sentinel: Address, said: _Claim) -> None:
        self._claims[sentinel] = said
        latest = max(self._claims.values()).place
        if self.place not in {None, latest}:
            self.place = latest
            self._on_master_changed(latest)


class _SentinelWatcher:
    """Reads what one sentinel says.

    Args:
        master: its name.
        heard: called with what it says of it.
    """

    def __init__(self, master: bytes, heard: Callable[[_Claim], None]) -> None:
        self._master = master
        self._on_claim = heard
        self._epoch = 0
        # In this order: when they are answered apart, the place is newer than its epoch, and not older.
        # The second names a master from its promotion on, the first only when all replicas follow it.
        self.probe = Probe(
            (
                (b"SENTINEL", b"MASTER", master),
                (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master),
            ),
            self._on_master_reply,
        )
        self.subscription = self.probe._replace(subscription=(b"SUBSCRIBE", _SWITCHED, _PROMOTED))

    def on_event(self, message: list[Any]) -> None:
        """Pass on where the master is now, if it is ours."""
        if message[0] != b"message":
            return
        _, channel, text = message
        words = text.split()
        if channel == _SWITCHED:
            name, _, _, host, port = words
        else:
            # It is the replica that is named first, then the one that was the master.
            _, _, host, port, _, name, *_ = words
        if name == self._master:
            # Which election it was will be asked; it was a later one than the last.
            self._claim(self._epoch + 1, host, port)

    def on_reply(self, moment: float) -> None:
        """It was asked, and has answered."""

    def on_lost(self) -> None:
        """The others tell."""

    def _on_master_reply(self, replies: Sequence[Any]) -> Failure | None:
        fields, address = replies
        if address is None:
            return _UNNAMED
        if (refusal := refusal_in(replies)) is not None:
            return refusal
        try:
            self._claim(int(fields_of(fields)[b"config-epoch"]), *address)
        except (AttributeError, LookupError, TypeError, ValueError):
            return UNEXPECTED_REPLY
        return None

    def _claim(self, epoch: int, host: bytes, port: bytes) -> None:
        place = parse_address(host, port)
        self._epoch = epoch
        self._on_claim(_Claim(epoch, place))


def sentinel_connectors(
    endpoint: Endpoint, options: Options, *, protocol: int = 2
) -> list[Connector]:
    """Who connects to each of the sentinels."""
    sentinel = Endpoint(
        tls=options.sentinel_tls,
        username=options.sentinel_username or None,
        password=options.sentinel_password or None,
    )
    trust = TLSConfig.of(options, sentinels=True)
    return [
        Connector(sentinel.at(place), options, protocol=protocol, tls=trust)
        for place in endpoint.seeds
    ]
