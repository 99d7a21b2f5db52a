"""One server, or the one that the sentinels call the master; and the links on which they tell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.health_log import (
    CIRCUIT,
    INVALIDATION_CHANNEL,
    REPLICA,
    SENTINEL,
    SERVER,
    HealthLog,
)
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import Dialer, Dials
from async_redis_cache._connection.push_channel import Keeper
from async_redis_cache._protocol.command import Asker, Verb
from async_redis_cache._protocol.commands import PING

from .batcher import Batcher
from .circuit_breaker import Breakers
from .node import Node, pace_of
from .pipeline import Call
from .sentinel import Sentinels
from .sentinel_connector import MasterDialer, ReplicaDialer
from .tracking import Listener, Tracking

__all__ = ["Single"]

_SECOND: Final = 1000
_SENTINEL_HEARTBEAT: Final = 1.0


class Single:
    """A server.

    Args:
        endpoint: where it is, or the sentinels are.
        options: of the cache.
        counters: of the cache.
        breakers: of the cache.
        health_log: records the changes of state.
        listener: told what changes, where somebody wants to know.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        counters: CacheStats,
        breakers: Breakers,
        health_log: HealthLog,
        *,
        listener: Listener | None,
    ) -> None:
        self._health_log = health_log
        self._name = endpoint.name
        by_sentinels = endpoint.topology == "sentinel"
        self._sentinels: Sentinels | None = None
        if by_sentinels:
            self._sentinels = Sentinels(
                endpoint,
                options,
                self._moved,
                pace_of(options, _SENTINEL_HEARTBEAT),
                lambda sentinel: health_log.condition(SENTINEL, name_of(sentinel)),
            )
        self._node = Node(
            self._dialer(endpoint, options),
            options,
            counters,
            told=health_log.condition(SERVER),
            breakers=breakers,
            alone=health_log.condition(CIRCUIT),
            may_move=by_sentinels,
            unanswered=self._check_idle,
            demoted=None if by_sentinels else partial(self._leave_all_but, None),
        )
        self._replica: Node | None = None
        if options.read_from == "replica":
            if not by_sentinels:
                problem = (
                    "options.read_from replica needs sentinels, or a cluster, to find replicas by"
                )
                raise CacheUnsupported("UNSUPPORTED", problem)
            dialer = ReplicaDialer(endpoint, options)
            self._replica = Node(
                dialer,
                options,
                counters,
                told=health_log.condition(REPLICA),
                breakers=breakers,
                heard=self._node.is_of_use,
                unanswered=self._check_idle,
                router=self,
            )
        self._tracking: Tracking | None = None
        if listener is not None:
            self._tracking = Tracking(
                self._dialer(endpoint, options, protocol=3),
                listener,
                prefix=options.key_prefix.encode(),
                pace=pace_of(options, options.near_cache_heartbeat / _SECOND),
                told=health_log.condition(INVALIDATION_CHANNEL),
            )
        for link in self._links():
            link.start()

    def __repr__(self) -> str:
        return repr(self._node)

    @property
    def master(self) -> Address | None:
        """Where the sentinels have led everybody, if there are any."""
        return None if self._sentinels is None else self._sentinels.place

    @property
    def asker(self) -> Asker:
        """Who asks it."""
        return self._node.batcher

    @property
    def askers(self) -> Sequence[Asker]:
        """Who asks each server that has keys."""
        return (self.asker,)

    async def moves(self, deadline: float) -> int:
        """How often keys were seen to have moved from one server to another."""
        return 0

    @property
    def reader(self) -> Asker:
        """Who asks for what may be a moment old, if that is allowed."""
        return self.asker if self._replica is None else self._replica.batcher

    def redirected(self, sender: Batcher, call: Call, failure: Failure) -> bool:
        """Nobody refuses a call for another."""
        return False

    def home(self, call: Call) -> Batcher:
        """What a replica did not answer, the master is asked."""
        return self._node.batcher

    def is_left_alone(self, key: bytes) -> bool:
        """See `Node.is_left_alone`."""
        return self._node.is_left_alone()

    async def connect(self, budget: float, opening: Verb = PING) -> None:
        """Connect, log in and ask for a first sign of life: one attempt, within so many seconds.

        Raises:
            CacheUnsupported: the server, or the user, cannot do what an option needs.
            CacheError: whatever else came of the attempt.
        """
        await self.asker.ask(opening, (), 0, budget=budget, retries=0)
        if self._tracking is not None:
            failure = await self._tracking.first()
            if failure is not None:
                raise failure._replace(server=self._name).error()

    def has_unread(self) -> bool:
        """Whether there is news of changes that has come, and has not been passed on."""
        return self._tracking is not None and self._tracking.has_unread()

    def stop(self) -> None:
        """End every call, every connection and every link."""
        for node in self._nodes():
            node.stop()
        for link in self._links():
            link.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        for node in self._nodes():
            await node.stopped()
        for link in self._links():
            await link.stopped()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        for node in self._nodes():
            node.abandon()
        for link in self._links():
            link.abandon()

    def _nodes(self) -> list[Node]:
        return [node for node in (self._node, self._replica) if node is not None]

    def _links(self) -> list[Keeper]:
        links = [] if self._sentinels is None else self._sentinels.links
        return links if self._tracking is None else [*links, self._tracking]

    def _check_idle(self) -> None:
        """A call got no answer: what has cut its connection may have cut others."""
        for node in self._nodes():
            node.transport.check_idle()

    def _moved(self, place: Address) -> None:
        """The master is now there: what was said to another is not to be relied on."""
        self._health_log.master_changed(name_of(place))
        self._leave_all_but(place)

    def _leave_all_but(self, place: Address | None) -> None:
        self._node.transport.leave_all_but(place)
        if self._tracking is not None:
            self._tracking.leave_all_but(place)

    def _dialer(self, endpoint: Endpoint, options: Options, *, protocol: int = 2) -> Dials:
        if self._sentinels is None:
            return Dialer(endpoint, options, protocol=protocol)
        return MasterDialer(self._sentinels, endpoint, options, protocol=protocol)
