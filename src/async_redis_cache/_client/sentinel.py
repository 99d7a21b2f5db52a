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
from async_redis_cache._common.failures import MISREAD, Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.hosts import address_named
from async_redis_cache._common.options import Options
from async_redis_cache._connection.connector import Dialer, fields_of
from async_redis_cache._connection.push_channel import Keeper, Pace
from async_redis_cache._connection.push_connection import Question, refusal_in
from async_redis_cache._connection.tls import Trust

__all__ = ["UNKNOWN", "Sentinels", "dialers_of"]

_SECOND: Final = 1000
_OTHERS_SECONDS: Final = 0.1
"""How long the others are waited for at first, when one has said who is the master."""
_SWITCHED: Final = b"+switch-master"
_PROMOTED: Final = b"+promoted-slave"
"""What the sentinel that leads a failover says first; until the other replicas follow, it says no more."""

UNKNOWN: Final = Failure(
    CacheUnavailable,
    "CONNECT_FAILED",
    "no sentinel can be asked, or knows a server that will do",
    passing=True,
)
_UNNAMED: Final = Failure(
    CacheConfigError, "BAD_OPTION", "the sentinels know no master by options.sentinel_master"
)


class _Said(NamedTuple):
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
        pace: Pace,
        told: Callable[[Address], Condition],
    ) -> None:
        self._moved = moved
        # What it has said counts when its link is lost too: no election is undone.
        self._said: dict[Address, _Said] = {}
        self.place: Address | None = None
        """Where everybody was led."""
        self.links: list[Keeper] = []
        dialers = dialers_of(endpoint, options, protocol=3)
        for sentinel, dialer in zip(endpoint.seeds, dialers, strict=True):
            witness = _Witness(endpoint.master.encode(), partial(self._heard, sentinel))
            self.links.append(
                Keeper(dialer, witness, order=witness.order, pace=pace, told=told(sentinel))
            )

    async def master(self) -> Address | Failure:
        """Where the master is; why nobody says so, where all that were asked have not.

        At first all are waited for, and for a short time only when one has spoken.
        """
        if self.place is None:
            await self._all_heard()
        if not self._said:
            return self._refusal()
        self.place = max(self._said.values()).place
        return self.place

    async def _all_heard(self) -> None:
        pending = {asyncio.ensure_future(link.first()) for link in self.links}
        try:
            while pending:
                grace = _OTHERS_SECONDS if self._said else None
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
        failures = [link.failure for link in self.links if link.failure is not None]
        # What somebody has to mend says more than that one of them is away.
        return next((failure for failure in failures if not failure.passing), UNKNOWN)

    def _heard(self, sentinel: Address, said: _Said) -> None:
        self._said[sentinel] = said
        latest = max(self._said.values()).place
        if self.place not in {None, latest}:
            self.place = latest
            self._moved(latest)


class _Witness:
    """Reads what one sentinel says.

    Args:
        master: its name.
        heard: called with what it says of it.
    """

    def __init__(self, master: bytes, heard: Callable[[_Said], None]) -> None:
        self._master = master
        self._heard = heard
        self._epoch = 0
        # In this order: when they are answered apart, the place is newer than its epoch, and not older.
        # The second names a master from its promotion on, the first only when all replicas follow it.
        self.question = Question(
            (
                (b"SENTINEL", b"MASTER", master),
                (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master),
            ),
            self._heed,
        )
        self.order = self.question._replace(subscription=(b"SUBSCRIBE", _SWITCHED, _PROMOTED))

    def told(self, message: list[Any]) -> None:
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
            self._say(self._epoch + 1, host, port)

    def alive_until(self, moment: float) -> None:
        """It was asked, and has answered."""

    def silent(self) -> None:
        """The others tell."""

    def _heed(self, replies: Sequence[Any]) -> Failure | None:
        fields, address = replies
        if address is None:
            return _UNNAMED
        if (refusal := refusal_in(replies)) is not None:
            return refusal
        try:
            self._say(int(fields_of(fields)[b"config-epoch"]), *address)
        except (AttributeError, LookupError, TypeError, ValueError):
            return MISREAD
        return None

    def _say(self, epoch: int, host: bytes, port: bytes) -> None:
        place = address_named(host, port)
        self._epoch = epoch
        self._heard(_Said(epoch, place))


def dialers_of(endpoint: Endpoint, options: Options, *, protocol: int = 2) -> list[Dialer]:
    """Who connects to each of the sentinels."""
    sentinel = Endpoint(
        tls=options.sentinel_tls,
        username=options.sentinel_username or None,
        password=options.sentinel_password or None,
    )
    trust = Trust.of(options, sentinels=True)
    return [
        Dialer(sentinel.at(place), options, protocol=protocol, trust=trust)
        for place in endpoint.seeds
    ]
