"""The known nodes of a cluster, and the slot map."""

from __future__ import annotations

import random
from collections.abc import Callable

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.health_log import HealthLog
from async_redis_cache._common.log_events import CIRCUIT, INVALIDATION_CHANNEL, SERVER
from async_redis_cache._common.options import Options
from async_redis_cache._common.tasks import OwnedTasks
from async_redis_cache._connection.connector import Connector
from async_redis_cache._protocol.cluster_slots import MAX_NODES, SLOTS, SlotRange, slot_of

from .batcher import Batcher
from .node import Node, keepalive_policy
from .tracking import TrackingChannel, TrackingGroup

__all__ = ["ClusterNodes", "SlotMap"]

SlotMap = tuple[SlotRange, ...]


class ClusterNodes:
    """The nodes by address and by slot, and the invalidation channels of the masters.

    Args:
        endpoint: addresses of some of the nodes, and the login at all of them.
        options: of the cache.
        make_node: makes a node, given its connector and its name in log records.
        tracking_group: of the invalidation channels, if there is a near cache.
        health_log: logs changes of state.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        make_node: Callable[[Connector, str], Node],
        tracking_group: TrackingGroup | None,
        health_log: HealthLog,
    ) -> None:
        self._endpoint = endpoint
        self._options = options
        self._make_node = make_node
        self._tracking_group = tracking_group
        self._health_log = health_log
        self._stopped = False
        self._nodes: dict[Address, Node] = {}
        self._addresses: dict[Batcher, Address] = {}
        self._tracking_channels: dict[Address, TrackingChannel] = {}
        self._by_slot = [self.node_at(endpoint.seeds[0])] * SLOTS
        self.masters: tuple[Address, ...] = ()
        self.others: frozenset[Address] = frozenset(endpoint.seeds)
        """Further nodes that can be queried for the slot map: replicas, and the addresses in the configuration."""
        self.moves = 0
        """How many times keys were seen to have moved to another node."""
        self._tasks = OwnedTasks()

    def __repr__(self) -> str:
        return repr([*self._nodes.values()])

    def nodes(self) -> list[Node]:
        """Return all known nodes."""
        return list(self._nodes.values())

    def tracking_channels(self) -> list[TrackingChannel]:
        """Return the invalidation channels of all masters."""
        return list(self._tracking_channels.values())

    def node_at(self, address: Address) -> Node:
        """Return the node at this address, which is made if it is unknown."""
        node = self._nodes.get(address)
        if node is None:
            connector = Connector(self._endpoint.at(address), self._options)
            node = self._nodes[address] = self._make_node(connector, name_of(address))
            self._addresses[node.batcher] = address
        return node

    def node_of(self, key: bytes | None) -> Node:
        """Return the node that has the slot of this key, by the slot map; a random node for None."""
        slot = random.randrange(SLOTS) if key is None else slot_of(key)  # noqa: S311  no secret
        return self._by_slot[slot]

    def host_of(self, batcher: Batcher) -> str:
        """Return the host of the node with this batcher; an empty string if it has been removed."""
        address = self._addresses.get(batcher)
        return "" if address is None else address[0]

    def may_redirect_to(self, address: Address) -> bool:
        """Whether a redirection to this address may be followed.

        The number of nodes is limited, as a server could name ever new ones.
        """
        return not self._stopped and (address in self._nodes or len(self._nodes) < MAX_NODES)

    def record_move(self, key: bytes, node: Node) -> None:
        """Update the slot of this key after a MOVED."""
        self._by_slot[slot_of(key)] = node
        self.moves += 1

    def apply_slot_map(self, slot_map: SlotMap) -> None:
        """Replace the slot map, track new masters, and retire nodes without slots."""
        masters = tuple(dict.fromkeys(slots.master for slots in slot_map))
        for address in masters:
            if self.masters and address not in self.masters:
                self._health_log.master_changed(name_of(address))
        self.masters = masters
        replicas = {replica for slots in slot_map for replica in slots.replicas}
        self.others = frozenset({*replicas, *self._endpoint.seeds})
        former = self._by_slot.copy()
        for slots in slot_map:
            node = self.node_at(slots.master)
            self._by_slot[slots.first : slots.last + 1] = [node] * slots.size
        self.moves += former != self._by_slot
        for address in self.masters:
            self.track(address)
        with_slots = {*self._by_slot}
        for address, node in tuple(self._nodes.items()):
            if node not in with_slots:
                self._retire(node, address)

    def track(self, address: Address) -> None:
        """Open an invalidation channel to a node, if there is a near cache and the node has none yet.

        Until the channel is up, the near cache is off.
        """
        if self._tracking_group is None or address in self._tracking_channels:
            return
        channel = self._tracking_channels[address] = TrackingChannel(
            Connector(self._endpoint.at(address), self._options, protocol=3),
            self._tracking_group.add(address),
            prefix=self._options.key_prefix.encode(),
            policy=keepalive_policy(self._options, self._options.heartbeat_seconds),
            health=self._health_log.condition(INVALIDATION_CHANNEL, name_of(address)),
        )
        channel.start()

    def stop(self) -> None:
        """Fail every request and close every connection and channel."""
        self._stopped = True
        for node in self._nodes.values():
            node.stop()
        for channel in self._tracking_channels.values():
            channel.stop()

    async def stopped(self) -> None:
        """Wait until all of them are closed."""
        for node in self.nodes():
            await node.stopped()
        for channel in self.tracking_channels():
            await channel.stopped()
        await self._tasks.wait()

    def abandon(self) -> None:
        """Close every connection although the event loop is closed."""
        self._stopped = True
        for node in self._nodes.values():
            node.abandon()
        for channel in self._tracking_channels.values():
            channel.abandon()

    def _retire(self, node: Node, address: Address) -> None:
        """Remove a node that has no slots any more. Its waiting requests go to other nodes."""
        del self._nodes[address]
        del self._addresses[node.batcher]
        node.retire()
        self._tasks.spawn(node.stopped())
        if self._tracking_group is not None and address not in self.masters:
            channel = self._tracking_channels.pop(address, None)
            if channel is not None:
                channel.stop()
                self._tracking_group.remove(address)
                self._tasks.spawn(channel.stopped())
        self._health_log.node_removed(name_of(address), SERVER, CIRCUIT, INVALIDATION_CHANNEL)
