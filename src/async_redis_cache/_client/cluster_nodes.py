"""The nodes of a cluster: who has which slots, by what they have said last."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from functools import partial
from typing import Any, Final

from async_redis_cache._common.endpoint import Address, Endpoint, name_of
from async_redis_cache._common.health_log import (
    CIRCUIT,
    INVALIDATION_CHANNEL,
    REPLICA,
    SERVER,
    Condition,
    HealthLog,
)
from async_redis_cache._common.options import Options
from async_redis_cache._connection.connector import Dialer, see_it_read
from async_redis_cache._protocol.cluster_slots import MOST_NODES, SLOTS, SlotRange, slot_of

from .batcher import Batcher
from .node import NOWHERE, Node, pace_of
from .tracking import Tracking
from .tracking_group import Unison

__all__ = ["Members", "View"]

_SECOND: Final = 1000
View = tuple[SlotRange, ...]


def _ignore() -> None:
    pass


class Members:
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
        make: Callable[[Dialer, Condition, Condition | None, Callable[[], None]], Node],
        unison: Unison | None,
        health_log: HealthLog,
    ) -> None:
        self._endpoint = endpoint
        self._options = options
        self._make = make
        self._unison = unison
        self._health_log = health_log
        self._nodes: dict[Address, Node] = {}
        self._replicas: dict[Address, Node] = {}
        """Those that are asked, which is by who allows it alone."""
        self._masters_of: dict[Address, Address] = {}
        """By replica."""
        self._places: dict[Batcher, Address] = {}
        self._links: dict[Address, Tracking] = {}
        self._by_slot = [self.at(endpoint.seeds[0])] * SLOTS
        self._readers: list[Node] = self._by_slot
        """By slot who answers reads: a replica, where that is allowed and there is one."""
        self.masters: tuple[Address, ...] = ()
        self.others: frozenset[Address] = frozenset(endpoint.seeds)
        """Who may know the masters, beside themselves."""
        self.moves = 0
        """How often it was seen that keys had moved from node to node."""
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return repr([*self._nodes.values()])

    def at(self, place: Address) -> Node:
        """The node at this address, known or not."""
        node = self._nodes.get(place)
        if node is None:
            dialer = Dialer(self._endpoint.at(place), self._options)
            told = self._health_log.condition(SERVER, name_of(place))
            alone = self._health_log.condition(CIRCUIT, name_of(place))
            node = self._nodes[place] = self._make(dialer, told, alone, _ignore)
            self._places[node.batcher] = place
        return node

    def has_room_for(self, place: Address) -> bool:
        """Whether a redirection may lead there: a server that names ever new nodes is not believed for ever."""
        return place in self._nodes or len(self._nodes) < MOST_NODES

    def of(self, key: bytes | None) -> Node:
        """The node that has the slot of a key, as far as is known; any, where there is no key."""
        # By chance: none is to be asked more than others.
        slot = random.randrange(SLOTS) if key is None else slot_of(key)  # noqa: S311  no secret
        return self._by_slot[slot]

    def reader_of(self, key: bytes) -> Node:
        """Who is asked for a key that may be a moment old."""
        return self._readers[slot_of(key)]

    def host_of(self, batcher: Batcher) -> str:
        """Where a node is whose calls these are."""
        return self._places.get(batcher, NOWHERE)[0]

    def moved(self, key: bytes, node: Node) -> None:
        """The slot of this key has turned out to be there."""
        self._by_slot[slot_of(key)] = node
        self.moves += 1

    def links(self) -> list[Tracking]:
        """Those on which the masters say what changes."""
        return list(self._links.values())

    def heed(self, view: View) -> None:
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
        if self._options.read_from == "replica":
            readers = self._by_slot.copy()
            self._masters_of.clear()
            for slots in view:
                self._masters_of |= dict.fromkeys(slots.replicas, slots.master)
                if slots.replicas:
                    place = random.choice(slots.replicas)  # noqa: S311  no secret
                    readers[slots.first : slots.last + 1] = [self._replica_at(place)] * slots.size
            self._readers = readers
        for place in self.masters:
            self.track(place)
        needed = {*self._by_slot, *self._readers}
        for nodes, subjects in (
            (self._nodes, (SERVER, CIRCUIT, INVALIDATION_CHANNEL)),
            (self._replicas, (REPLICA,)),
        ):
            for place in [place for place, node in nodes.items() if node not in needed]:
                self._retire(nodes.pop(place), place)
                self._health_log.node_removed(name_of(place), *subjects)

    def stop(self) -> None:
        """End every call, every connection and every link."""
        for node in self.nodes():
            node.stop()
        for link in self._links.values():
            link.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        for node in [*self.nodes()]:
            await node.stopped()
        for link in self.links():
            await link.stopped()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        for node in self.nodes():
            node.abandon()
        for link in self._links.values():
            link.abandon()

    def nodes(self) -> Iterator[Node]:
        """All that are known, replicas included."""
        yield from self._nodes.values()
        yield from self._replicas.values()

    def _replica_at(self, place: Address) -> Node:
        node = self._replicas.get(place)
        if node is None:
            dialer = Dialer(self._endpoint.at(place), self._options, see=see_it_read)
            told = self._health_log.condition(REPLICA, name_of(place))
            node = self._replicas[place] = self._make(
                dialer, told, None, partial(self._answered, place)
            )
            self._places[node.batcher] = place
        return node

    def _answered(self, replica: Address) -> None:
        master = self._nodes.get(self._masters_of.get(replica, NOWHERE))
        if master is not None:
            master.is_of_use()

    def track(self, place: Address) -> None:
        """Be told of changes on a node; until that is so, nothing near is trusted."""
        if self._unison is not None and place not in self._links:
            self._links[place] = link = Tracking(
                Dialer(self._endpoint.at(place), self._options, protocol=3),
                self._unison.joined_by(place),
                prefix=self._options.key_prefix.encode(),
                pace=pace_of(self._options, self._options.near_cache_heartbeat / _SECOND),
                told=self._health_log.condition(INVALIDATION_CHANNEL, name_of(place)),
            )
            link.start()

    def _retire(self, node: Node, place: Address) -> None:
        """Let a node go that has no slots any more; what waits for it is asked elsewhere."""
        del self._places[node.batcher]
        node.retire()
        self._spawn(node.stopped())
        if self._unison is not None and place not in self.masters and place in self._links:
            link = self._links.pop(place)
            link.stop()
            self._unison.left_by(place)
            self._spawn(link.stopped())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
