"""A cluster: sends each request to the node that has the slot of its key.

Every node has its own batcher, connections and invalidation channel. `redirects` follows MOVED and ASK;
`topology_refresh` updates the slot map after a redirection, after a failure, and periodically.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.health_log import HealthLog
from async_redis_cache._common.log_events import CIRCUIT, LOGIN, SERVER
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import Connector
from async_redis_cache._protocol.cluster_slots import has_hash_tag
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import PING

from .circuit_breaker import CircuitBreakers
from .cluster_nodes import ClusterNodes
from .node import Node
from .reauthentication import Reauthentication, SupportsReauthenticate
from .redirects import Redirects
from .topology_refresh import TopologyRefresh
from .tracking import InvalidationListener, TrackingGroup

__all__ = ["Cluster"]


class Cluster:
    """The nodes of a cluster. An `Executor`, like the batcher of each of them.

    Args:
        endpoint: addresses of some of the nodes, and the login at all of them.
        options: of the cache.
        counters: of the cache.
        breakers: of the cache.
        health_log: logs changes of state.
        listener: receives invalidations, if there is a near cache.

    Raises:
        CacheUnsupported: UNSUPPORTED, if `max_size` is set and the keys are not in a single slot.
    """

    max_keys_per_request = 1
    """Several keys could be on different nodes, or move apart while the request is in flight."""

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
                "in a cluster, options.max_size needs all keys in one slot: set a key_prefix with a hash "
                "tag, such as {shop}:, or set max_size to 0"
            )
            raise CacheUnsupported("UNSUPPORTED", problem)
        redirects = Redirects(self._refresh_soon)

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
                router=redirects,
            )

        self._tracking_group = (
            None if listener is None else TrackingGroup(listener, self._refresh_soon)
        )
        self._cluster_nodes = ClusterNodes(
            endpoint, options, make_node, self._tracking_group, health_log
        )
        redirects.use_nodes(self._cluster_nodes)
        self._refresh = TopologyRefresh(self._cluster_nodes, self._is_whole)
        self._reauthentication = Reauthentication(
            endpoint.login_source, self._connections, health_log.condition(LOGIN)
        )
        self._refresh_soon()

    def __repr__(self) -> str:
        return f"<Cluster {self._cluster_nodes!r}>"

    @property
    def master(self) -> None:
        """None: there are several."""

    @property
    def executor(self) -> Executor:
        """Runs commands on the nodes that have their keys."""
        return self

    @property
    def executors(self) -> Sequence[Executor]:
        """One executor for each master."""
        nodes = self._cluster_nodes
        return [nodes.node_at(address).batcher for address in nodes.masters]

    async def moves(self, deadline: float) -> int:
        """Refresh the slot map, and return how many times keys were seen to have moved to another node.

        Raises:
            CacheError: no node returned its slot map by the deadline.
        """
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
        """See `Batcher.execute`."""
        command = command.per_key
        batcher = self._cluster_nodes.node_of(command.routing_key(argument)).batcher
        return batcher.execute(command, argument, size, keys=keys, budget=budget, retries=retries)

    def is_circuit_open(self, key: bytes) -> bool:
        """Whether the circuit of the node that has the slot of this key is open."""
        return self._cluster_nodes.node_of(key).is_circuit_open()

    async def connect(self, budget: float, opening: Command = PING) -> None:
        """Find the nodes, connect to them, and run one command: one attempt, within so many seconds.

        The command runs on the node that has the slot of its key, and only if it has one.

        Raises:
            CacheUnsupported: the server is no node of a cluster, or lacks something that an option needs.
            CacheError: the attempt failed otherwise.
        """
        deadline = asyncio.get_running_loop().time() + budget
        failure = await asyncio.shield(self._refresh.refresh(budget))
        if failure is not None:
            raise failure
        for channel in self._cluster_nodes.tracking_channels():
            refused = await channel.first_attempt()
            if refused is not None:
                raise refused.error()
        if opening.routing_key(()) is not None:
            left = deadline - asyncio.get_running_loop().time()
            await self.execute(opening, (), 0, budget=left, retries=0)

    def has_unread(self) -> bool:
        """Whether invalidations have arrived that have not been applied yet."""
        return any(channel.has_unread() for channel in self._cluster_nodes.tracking_channels())

    def stop(self) -> None:
        """Fail every request and close every connection and channel."""
        self._reauthentication.stop()
        self._refresh.stop()
        self._cluster_nodes.stop()

    async def stopped(self) -> None:
        """Wait until all of them are closed."""
        await self._refresh.stopped()
        await self._cluster_nodes.stopped()

    def abandon(self) -> None:
        """Close every connection although the event loop is closed."""
        self._reauthentication.stop()
        self._refresh.abandon()
        self._cluster_nodes.abandon()

    def _refresh_soon(self) -> None:
        self._refresh.refresh_soon()

    def _connections(self) -> Iterator[SupportsReauthenticate]:
        for node in self._cluster_nodes.nodes():
            yield node.pool
        yield from self._cluster_nodes.tracking_channels()

    def _check_idle(self) -> None:
        # A request has timed out: what cut off its connection may have cut off idle ones, to other nodes too.
        for node in self._cluster_nodes.nodes():
            node.pool.check_idle()

    def _is_whole(self) -> bool:
        return self._tracking_group is None or self._tracking_group.is_whole
