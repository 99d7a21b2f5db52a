"""Cluster slots: the slot of a key, and the migration of a slot from node to node."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.clusters import Cluster
    from harness.servers import Server

SLOTS: Final = REDIS_CLUSTER_HASH_SLOTS
_KEYS_AT_ONCE: Final = 100


def slot_of(key: str | bytes) -> int:
    """The slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


@cache
def tag_of(slot: int) -> str:
    """What, between braces, puts a key into this slot."""
    return next(tag for tag in map(str, itertools.count()) if slot_of(tag) == slot)


def key_in(slot: int, name: str = "") -> str:
    """A key in this slot."""
    return f"{{{tag_of(slot)}}}{name}"


class Move:
    """Slots on their way from one node to another.

    From `begin` to `end`, the source answers ASK for the keys it has no more, or never had.
    """

    def __init__(
        self, cluster: Cluster, slots: Sequence[int], source: Server, target: Server
    ) -> None:
        self.slots = slots
        self.source = source
        self.target = target
        self._cluster = cluster

    def begin(self) -> None:
        """Let both know that the slots are moving: first the one that has to take what comes."""
        self._cluster.wait_for_news()
        self._set(self.target, "IMPORTING", self.source)
        self._set(self.source, "MIGRATING", self.target)

    def take_keys(self, *keys: str | bytes) -> None:
        """Bring these keys to the target; all that are left where none is named."""
        if keys:
            self._take(keys)
            return
        while found := self._left():
            self._take(found)

    def end(self) -> None:
        """Let all masters know that the slots have moved: first the two that answer for them."""
        others = [node for node in self._cluster.masters() if node.is_up]
        for node in dict.fromkeys((self.target, self.source, *others)):
            self._set(node, "NODE", self.target)

    def _set(self, node: Server, state: str, other: Server) -> None:
        identity = self._cluster.id_of(other)
        orders = [("CLUSTER", "SETSLOT", slot, state, identity) for slot in self.slots]
        self._cluster.tell(node, *orders)

    def _left(self) -> list[bytes]:
        looks = [("CLUSTER", "GETKEYSINSLOT", slot, _KEYS_AT_ONCE) for slot in self.slots]
        return [key for found in self._cluster.tell(self.source, *looks) for key in found]

    def _take(self, keys: Iterable[str | bytes]) -> None:
        login = ("AUTH", self._cluster.password) if self._cluster.password else ()
        order = ("MIGRATE", self.target.host, self.target.port, "", 0, 5000, *login, "KEYS")
        by_slot: dict[int, list[str | bytes]] = {}
        for key in keys:
            by_slot.setdefault(slot_of(key), []).append(key)
        self._cluster.tell(self.source, *((*order, *some) for some in by_slot.values()))
