"""A cluster: which node a call is for, and what becomes of it where that was another.

Each node has its own calls, connections and link. A node that is not the right one for a key names the one
that is (MOVED), or the one that is while the slot is moving (ASK): the call goes on to it, by the same
deadline, and its caller knows of nothing. What the nodes know of the slots is asked again whenever it has
proven wrong, and every so often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.health_log import CIRCUIT, SERVER, HealthLog
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import Connector
from async_redis_cache._protocol.cluster_slots import Asking, has_hash_tag
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import PING

from .batcher import Batcher
from .circuit_breaker import CircuitBreakers
from .cluster_nodes import ClusterNodes
from .node import Node
from .pipeline import Request
from .topology_refresh import TopologyRefresh
from .tracking import InvalidationListener
from .tracking_group import TrackingGroup

__all__ = ["Cluster"]

_MAX_REDIRECTS: Final = 8


class Cluster:
    """The servers that share the slots. It asks as a `Batcher` does, the right one.

    Args:
        endpoint: some of the nodes, and who we are there.
        options: of the cache.
        counters: of the cache.
        breakers: of the cache.
        health_log: records the changes of state.
        listener: told what changes, where somebody wants to know.

    Raises:
        CacheUnsupported: UNSUPPORTED, where the bound could not be kept.
    """

    max_keys_per_request = 1
    """Those of a call may be on different nodes, and may be moved while it is under way."""

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        counters: CacheStats,
        breakers: CircuitBreakers,
        health_log: HealthLog,
        *,
        listener: InvalidationListener | None,
    ) -> None:
        if options.max_size and not has_hash_tag(options.key_prefix.encode()):
            problem = (
                "options.max_size is kept in one slot of a cluster: it needs a key_prefix with a "
                "hash tag, as {shop}:, or to be 0"
            )
            raise CacheUnsupported("UNSUPPORTED", problem)
        self._stopped = False

        def make_node(connector: Connector, server: str) -> Node:
            return Node(
                connector,
                options,
                counters,
                health=health_log.condition(SERVER, server),
                breakers=breakers,
                circuit_health=health_log.condition(CIRCUIT, server),
                on_lost=self._refresh_soon,
                on_timeout=self._check_idle,
                router=self,
            )

        self._tracking_group = (
            None if listener is None else TrackingGroup(listener, self._refresh_soon)
        )
        self._cluster_nodes = ClusterNodes(
            endpoint, options, make_node, self._tracking_group, health_log
        )
        self._refresh = TopologyRefresh(self._cluster_nodes, self._is_whole)
        self.executor: Executor = self
        """Who asks the right node."""
        self._refresh_soon()

    def __repr__(self) -> str:
        return f"<Cluster {self._cluster_nodes!r}>"

    @property
    def master(self) -> None:
        """There are several."""

    @property
    def executors(self) -> Sequence[Executor]:
        """Who asks each node that has keys."""
        return [self._cluster_nodes.at(place).batcher for place in self._cluster_nodes.masters]

    async def moves(self, deadline: float) -> int:
        """How often keys were seen to have moved from node to node, now that the nodes were asked."""
        await self._refresh.refresh_by(deadline)
        return self._cluster_nodes.moves

    def execute(
        self,
        command: Command,
        argument: Any,
        size: int,
        *,
        keys: int = 1,
        budget: float | None = None,
        retries: int | None = None,
    ) -> asyncio.Future[Any]:
        """See `Batcher.ask`."""
        command = command.per_key
        batcher = self._cluster_nodes.node_of(command.key(argument)).batcher
        return batcher.execute(command, argument, size, keys=keys, budget=budget, retries=retries)

    def is_circuit_open(self, key: bytes) -> bool:
        """See `Node.is_left_alone`: the node that has the slot of this key."""
        return self._cluster_nodes.node_of(key).is_circuit_open()

    async def connect(self, budget: float, opening: Command = PING) -> None:
        """Find the nodes, and connect to them: one attempt, within so many seconds.

        What has a key is then asked of the node that has it.

        Raises:
            CacheUnsupported: the server is no node of a cluster, or cannot do what an option needs.
            CacheError: whatever else came of the attempt.
        """
        deadline = asyncio.get_running_loop().time() + budget
        failure = await asyncio.shield(self._refresh.refresh(budget))
        if failure is not None:
            raise failure
        for link in self._cluster_nodes.tracking_channels():
            refused = await link.first()
            if refused is not None:
                raise refused.error()
        if opening.key(()) is not None:
            await self.execute(
                opening, (), 0, budget=deadline - asyncio.get_running_loop().time(), retries=0
            )

    def has_unread(self) -> bool:
        """Whether there is news of changes that has come, and has not been passed on."""
        return any(link.has_unread() for link in self._cluster_nodes.tracking_channels())

    def stop(self) -> None:
        """End every call, every connection and every link."""
        self._stopped = True
        self._refresh.stop()
        self._cluster_nodes.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        await self._refresh.stopped()
        await self._cluster_nodes.stopped()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._stopped = True
        self._refresh.abandon()
        self._cluster_nodes.abandon()

    def redirected(self, sender: Batcher, call: Request, failure: Failure) -> bool:
        """Pass a call on to the node that its refusal names, unless it has seen too many."""
        call.redirects += 1
        if failure.address is None or call.redirects > _MAX_REDIRECTS or self._stopped:
            return False
        host, port = failure.address
        place = (host or self._cluster_nodes.host_of(sender), port)
        if not self._cluster_nodes.has_room_for(place):
            return False
        node = self._cluster_nodes.at(place)
        # It may have joined just now, with no slots but one that moves: nobody has told of it yet.
        self._cluster_nodes.track(place)
        key = call.command.key(call.argument)
        if failure.code == "ASK":
            self._cluster_nodes.moves += 1
            call.command = Asking(call.command)
        elif key is not None:
            self._cluster_nodes.moved(key, node)
            self._refresh_soon()
        node.batcher.enqueue(call)
        return True

    def owner_of(self, call: Request) -> Batcher:
        """The node that has the slot of a call's key, as far as is known; any, where it has none."""
        if isinstance(call.command, Asking):
            call.command = call.command.wrapped
        return self._cluster_nodes.node_of(call.command.key(call.argument)).batcher

    def _refresh_soon(self) -> None:
        self._refresh.refresh_soon()

    def _check_idle(self) -> None:
        """A call got no answer: what has cut its connection may have cut others, on other nodes too."""
        for node in self._cluster_nodes.nodes():
            node.pool.check_idle()

    def _is_whole(self) -> bool:
        return self._tracking_group is None or self._tracking_group.is_whole
