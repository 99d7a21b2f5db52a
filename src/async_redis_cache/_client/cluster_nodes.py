"""The nodes of a cluster: who has which slots, by what they have said last."""

from __future__ import annotations

import random
from collections.abc import Callable

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.health_log import (
    CIRCUIT,
    INVALIDATION_CHANNEL,
    SERVER,
    HealthLog,
)
from async_redis_cache._common.options import Options
from async_redis_cache._common.tasks import OwnedTasks
from async_redis_cache._connection.connector import Connector
from async_redis_cache._protocol.cluster_slots import MOST_NODES, SLOTS, SlotRange, slot_of

from .batcher import Batcher
from .node import UNKNOWN_ADDRESS, Node, keepalive_policy
from .tracking import TrackingChannel
from .tracking_group import TrackingGroup

__all__ = ["ClusterNodes", "SlotMap"]

SlotMap = tuple[SlotRange, ...]


class ClusterNodes:
    """The nodes that are known, with their connections and links.

    Args:
        endpoint: some of the nodes, and who we are there.
        options: of the cache.
        make: makes a node of what connects to it.
        unison: of the links, where there are to be some.
        health_log: records the changes of the nodes' state.
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
        self._nodes: dict[Address, Node] = {}
        self._addresses: dict[Batcher, Address] = {}
        self._tracking_channels: dict[Address, TrackingChannel] = {}
        self._by_slot = [self.at(endpoint.seeds[0])] * SLOTS
        self.masters: tuple[Address, ...] = ()
        self.others: frozenset[Address] = frozenset(endpoint.seeds)
        """Who may know the masters, beside themselves."""
        self.moves = 0
        """How often it was seen that keys had moved from node to node."""
        self._tasks = OwnedTasks()

    def __repr__(self) -> str:
        return repr([*self._nodes.values()])

    def at(self, place: Address) -> Node:
        """The node at this address, known or not."""
        node = self._nodes.get(place)
        if node is None:
            connector = Connector(self._endpoint.at(place), self._options)
            node = self._nodes[place] = self._make_node(connector, name_of(place))
            self._addresses[node.batcher] = place
        return node

    def has_room_for(self, place: Address) -> bool:
        """Whether a redirection may lead there: a server that names ever new nodes is not believed for ever."""
        return place in self._nodes or len(self._nodes) < MOST_NODES

    def node_of(self, key: bytes | None) -> Node:
        """The node that has the slot of a key, as far as is known; any, where there is no key."""
        # By chance: none is to be asked more than others.
        slot = random.randrange(SLOTS) if key is None else slot_of(key)  # noqa: S311  no secret
        return self._by_slot[slot]

    def host_of(self, batcher: Batcher) -> str:
        """Where a node is whose calls these are."""
        return self._addresses.get(batcher, UNKNOWN_ADDRESS)[0]

    def moved(self, key: bytes, node: Node) -> None:
        """The slot of this key has turned out to be there."""
        self._by_slot[slot_of(key)] = node
        self.moves += 1

    def tracking_channels(self) -> list[TrackingChannel]:
        """Those on which the masters say what changes."""
        return list(self._tracking_channels.values())

    def apply_slot_map(self, view: SlotMap) -> None:
        """Go by what the nodes say from now on."""
        masters = tuple(dict.fromkeys(slots.master for slots in view))
        for place in masters:
            if self.masters and place not in self.masters:
                self._health_log.master_changed(name_of(place))
        self.masters = masters
        replicas = {replica for slots in view for replica in slots.replicas}
        self.others = frozenset({*replicas, *self._endpoint.seeds})
        former = self._by_slot.copy()
        for slots in view:
            self._by_slot[slots.first : slots.last + 1] = [self.at(slots.master)] * slots.size
        self.moves += former != self._by_slot
        for place in self.masters:
            self.track(place)
        serving = {*self._by_slot}
        for place in [place for place, node in self._nodes.items() if node not in serving]:
            self._retire(self._nodes.pop(place), place)
            self._health_log.node_removed(name_of(place), SERVER, CIRCUIT, INVALIDATION_CHANNEL)

    def stop(self) -> None:
        """End every call, every connection and every link."""
        for node in self.nodes():
            node.stop()
        for link in self._tracking_channels.values():
            link.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        for node in self.nodes():
            await node.stopped()
        for link in self.tracking_channels():
            await link.stopped()
        await self._tasks.wait()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        for node in self.nodes():
            node.abandon()
        for link in self._tracking_channels.values():
            link.abandon()

    def nodes(self) -> list[Node]:
        """All nodes that are known."""
        return list(self._nodes.values())

    def track(self, place: Address) -> None:
        """Be told of changes on a node; until that is so, nothing near is trusted."""
        if self._tracking_group is not None and place not in self._tracking_channels:
            self._tracking_channels[place] = link = TrackingChannel(
                Connector(self._endpoint.at(place), self._options, protocol=3),
                self._tracking_group.add(place),
                prefix=self._options.key_prefix.encode(),
                pace=keepalive_policy(self._options, self._options.heartbeat_seconds),
                told=self._health_log.condition(INVALIDATION_CHANNEL, name_of(place)),
            )
            link.start()

    def _retire(self, node: Node, place: Address) -> None:
        """Let a node go that has no slots any more; what waits for it is asked elsewhere."""
        del self._addresses[node.batcher]
        node.retire()
        self._tasks.spawn(node.stopped())
        if (
            self._tracking_group is not None
            and place not in self.masters
            and place in self._tracking_channels
        ):
            link = self._tracking_channels.pop(place)
            link.stop()
            self._tracking_group.remove(place)
            self._tasks.spawn(link.stopped())
