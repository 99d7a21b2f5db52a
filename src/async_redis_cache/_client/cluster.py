"""A cluster: which node a call is for, and what becomes of it where that was another.

Each node has its own calls, connections and link. A node that is not the right one for a key names the one
that is (MOVED), or the one that is while the slot is moving (ASK): the call goes on to it, by the same
deadline, and its caller knows of nothing. What the nodes know of the slots is asked again whenever it has
proven wrong, and every so often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.health_log import Condition, HealthLog
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connector import Dialer
from async_redis_cache._protocol.cluster_slots import Asking, has_hash_tag
from async_redis_cache._protocol.command import Asker, Verb
from async_redis_cache._protocol.commands import PING

from .batcher import Batcher
from .circuit_breaker import Breakers
from .cluster_nodes import Members
from .node import Node
from .pipeline import Call
from .topology_refresh import Lookout
from .tracking import Listener
from .tracking_group import Unison

__all__ = ["Cluster"]

_MOST_HOPS: Final = 8


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

    keys_a_call = 1
    """Those of a call may be on different nodes, and may be moved while it is under way."""

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
        if options.max_size and not has_hash_tag(options.key_prefix.encode()):
            problem = (
                "options.max_size is kept in one slot of a cluster: it needs a key_prefix with a "
                "hash tag, as {shop}:, or to be 0"
            )
            raise CacheUnsupported("UNSUPPORTED", problem)
        self._stopped = False

        def make(
            dialer: Dialer, told: Condition, alone: Condition | None, heard: Callable[[], None]
        ) -> Node:
            return Node(
                dialer,
                options,
                counters,
                told=told,
                breakers=breakers,
                alone=alone,
                heard=heard,
                lost=self._look_soon,
                unanswered=self._check_idle,
                router=self,
            )

        self._unison = None if listener is None else Unison(listener, self._look_soon)
        self._members = Members(endpoint, options, make, self._unison, health_log)
        self._lookout = Lookout(self._members, self._is_whole)
        self.asker: Asker = self
        """Who asks the right node."""
        self.reader: Asker = _Reader(self._members) if options.read_from == "replica" else self
        """Who asks for what may be a moment old, if that is allowed."""
        self._look_soon()

    def __repr__(self) -> str:
        return f"<Cluster {self._members!r}>"

    @property
    def master(self) -> None:
        """There are several."""

    @property
    def askers(self) -> Sequence[Asker]:
        """Who asks each node that has keys."""
        return [self._members.at(place).batcher for place in self._members.masters]

    async def moves(self, deadline: float) -> int:
        """How often keys were seen to have moved from node to node, now that the nodes were asked."""
        await self._lookout.look_anew(deadline)
        return self._members.moves

    def ask(
        self,
        verb: Verb,
        argument: Any,
        size: int,
        *,
        keys: int = 1,
        budget: float | None = None,
        retries: int | None = None,
    ) -> asyncio.Future[Any]:
        """See `Batcher.ask`."""
        verb = verb.apart
        batcher = self._members.of(verb.key(argument)).batcher
        return batcher.ask(verb, argument, size, keys=keys, budget=budget, retries=retries)

    def is_left_alone(self, key: bytes) -> bool:
        """See `Node.is_left_alone`: the node that has the slot of this key."""
        return self._members.of(key).is_left_alone()

    async def connect(self, budget: float, opening: Verb = PING) -> None:
        """Find the nodes, and connect to them: one attempt, within so many seconds.

        What has a key is then asked of the node that has it.

        Raises:
            CacheUnsupported: the server is no node of a cluster, or cannot do what an option needs.
            CacheError: whatever else came of the attempt.
        """
        deadline = asyncio.get_running_loop().time() + budget
        failure = await asyncio.shield(self._lookout.look(budget))
        if failure is not None:
            raise failure
        for link in self._members.links():
            refused = await link.first()
            if refused is not None:
                raise refused.error()
        if opening.key(()) is not None:
            await self.ask(
                opening, (), 0, budget=deadline - asyncio.get_running_loop().time(), retries=0
            )

    def has_unread(self) -> bool:
        """Whether there is news of changes that has come, and has not been passed on."""
        return any(link.has_unread() for link in self._members.links())

    def stop(self) -> None:
        """End every call, every connection and every link."""
        self._stopped = True
        self._lookout.stop()
        self._members.stop()

    async def stopped(self) -> None:
        """Wait until nothing is left of them."""
        await self._lookout.stopped()
        await self._members.stopped()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._stopped = True
        self._lookout.abandon()
        self._members.abandon()

    def redirected(self, sender: Batcher, call: Call, failure: Failure) -> bool:
        """Pass a call on to the node that its refusal names, unless it has seen too many."""
        call.hops += 1
        if failure.place is None or call.hops > _MOST_HOPS or self._stopped:
            return False
        host, port = failure.place
        place = (host or self._members.host_of(sender), port)
        if not self._members.has_room_for(place):
            return False
        node = self._members.at(place)
        # It may have joined just now, with no slots but one that moves: nobody has told of it yet.
        self._members.track(place)
        key = call.verb.key(call.argument)
        if failure.code == "ASK":
            self._members.moves += 1
            call.verb = Asking(call.verb)
        elif key is not None:
            self._members.moved(key, node)
            self._look_soon()
        node.batcher.take_over(call)
        return True

    def home(self, call: Call) -> Batcher:
        """The node that has the slot of a call's key, as far as is known; any, where it has none."""
        if isinstance(call.verb, Asking):
            call.verb = call.verb.plain
        return self._members.of(call.verb.key(call.argument)).batcher

    def _look_soon(self) -> None:
        self._lookout.look_soon()

    def _check_idle(self) -> None:
        """A call got no answer: what has cut its connection may have cut others, on other nodes too."""
        for node in self._members.nodes():
            node.transport.check_idle()

    def _is_whole(self) -> bool:
        return self._unison is None or self._unison.is_whole


class _Reader:
    """Asks replicas, where there are some; what they do not answer, their masters are asked.

    Args:
        members: of the cluster.
    """

    keys_a_call = 1

    def __init__(self, members: Members) -> None:
        self._members = members

    def ask(
        self,
        verb: Verb,
        argument: Any,
        size: int,
        *,
        keys: int = 1,
        budget: float | None = None,
        retries: int | None = None,
    ) -> asyncio.Future[Any]:
        """See `Batcher.ask`."""
        verb = verb.apart
        batcher = self._members.reader_of(verb.key(argument) or b"").batcher
        return batcher.ask(verb, argument, size, keys=keys, budget=budget, retries=retries)
