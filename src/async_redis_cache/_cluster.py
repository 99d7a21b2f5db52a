"""The nodes of a cluster: which one a call is for, and what becomes of it where that was another.

Each node has its own calls, connections and link. A node that is not the right one for a key names the one
that is (MOVED), or the one that is while the slot is moving (ASK): the call goes on to it, by the same
deadline, and its caller knows of nothing. What the nodes know of the slots is asked again whenever it has
proven wrong, and every so often.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

from ._batcher import Batcher
from ._counters import CacheStats
from ._dialer import Dialer
from ._errors import CacheError, CacheServerError, CacheUnavailable, CacheUnsupported
from ._exchange import Call
from ._failures import LOST, Failure
from ._node import Node, pace_of
from ._options import Options
from ._slots import SLOTS, VIEW, Asking, SlotRange, has_hash_tag, slot_of
from ._tracking import Listener, Tracking
from ._unison import Unison
from ._uri import Address, Endpoint
from ._verbs import Asker, Verb

__all__ = ["Cluster"]

_SECOND: Final = 1000
_MOST_HOPS: Final = 8
_LOOK_SECONDS: Final = 0.5
"""How long a node has to tell what it knows of the slots."""
_OTHERS_SECONDS: Final = 0.1
"""How long they are waited for when one has told."""
_PAUSE_SECONDS: Final = 0.1
"""Between two looks that were asked for."""
_INTERVAL_SECONDS: Final = 10.0
"""Between two looks that nobody has asked for: a node that is cut off from the others does not know."""
_LOST_INTERVAL_SECONDS: Final = 0.5
"""The same, while the link to a master is lost."""

NOWHERE: Final[Address] = ("", 0)
CLUSTER_LOST: Final = Failure(
    CacheUnavailable, "CONNECT_FAILED", "no node of the cluster answers", passing=True
)

T = TypeVar("T")
View = tuple[SlotRange, ...]


class Cluster:
    """The servers that share the slots. It asks as a `Batcher` does, the right one.

    Args:
        endpoint: some of the nodes, and who we are there.
        options: of the cache.
        counters: of the cache.
        heard: told when a node has answered.
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
        *,
        heard: Callable[[], None],
        listener: Listener | None,
    ) -> None:
        if options.max_size and not has_hash_tag(options.key_prefix.encode()):
            problem = (
                "options.max_size is kept in one slot of a cluster: it needs a key_prefix with a "
                "hash tag, as {shop}:, or to be 0"
            )
            raise CacheUnsupported("UNSUPPORTED", problem)
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._options = options
        self._counters = counters
        self._heard = heard
        self._unison = None if listener is None else Unison(listener, self._look_soon)
        self._nodes: dict[Address, Node] = {}
        self._places: dict[Batcher, Address] = {}
        self._links: dict[Address, Tracking] = {}
        self._masters: tuple[Address, ...] = ()
        self._replicas: frozenset[Address] = frozenset()
        self._by_slot: list[Node] = [self._node_at(endpoint.seeds[0])] * SLOTS
        self._next_look: asyncio.TimerHandle | None = None
        self._looked_at = self._loop.time()
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self._look: asyncio.Task[CacheError | None] | None = None
        self._look_soon()

    def __repr__(self) -> str:
        return f"<Cluster {list(self._nodes.values())!r}>"

    @property
    def asker(self) -> Asker:
        """Who asks the right node."""
        return self

    @property
    def askers(self) -> Sequence[Asker]:
        """Who asks each node that has keys."""
        return [self._nodes[place].batcher for place in self._masters]

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
        batcher = self._batcher_of(verb.key(argument))
        return batcher.ask(verb, argument, size, keys=keys, budget=budget, retries=retries)

    async def connect(self, budget: float) -> None:
        """Find the nodes, and connect to them: one attempt, within so many seconds.

        Raises:
            CacheUnsupported: the server is no node of a cluster, or cannot do what an option needs.
            CacheError: whatever else came of the attempt.
        """
        look = self._look or self._begin_look(budget)
        failure = await asyncio.shield(look)
        if failure is not None:
            raise failure
        for link in tuple(self._links.values()):
            refused = await link.first()
            if refused is not None:
                raise refused.error()

    def has_unread(self) -> bool:
        """Whether there is news of changes that has come, and has not been passed on."""
        return any(link.has_unread() for link in self._links.values())

    def stop(self) -> None:
        """End every call, and every link."""
        self._stopped = True
        if self._next_look is not None:
            self._next_look.cancel()
        for task in self._tasks:
            task.cancel()
        for node in self._nodes.values():
            node.batcher.close()
        for link in self._links.values():
            link.stop()

    async def stopped(self) -> None:
        """Drop all connections, and wait until nothing is left."""
        for node in self._nodes.values():
            await node.transport.close()
        for link in self._links.values():
            await link.stopped()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._stopped = True
        for node in self._nodes.values():
            node.transport.abandon()
        for link in self._links.values():
            link.abandon()

    def redirected(self, sender: Batcher, call: Call, failure: Failure) -> bool:
        """Pass a call on to the node that its refusal names, unless it has seen too many."""
        call.hops += 1
        if failure.place is None or call.hops > _MOST_HOPS or self._stopped:
            return False
        host, port = failure.place
        node = self._node_at((host or self._places.get(sender, NOWHERE)[0], port))
        key = call.verb.key(call.argument)
        if failure.code == "ASK":
            call.verb = Asking(call.verb)
        elif key is not None:
            self._by_slot[slot_of(key)] = node
            self._look_soon()
        node.batcher.take_over(call)
        return True

    def home(self, call: Call) -> Batcher:
        """The node that has the slot of a call's key, as far as is known; any, where it has none."""
        if isinstance(call.verb, Asking):
            call.verb = call.verb.plain
        return self._batcher_of(call.verb.key(call.argument))

    def _batcher_of(self, key: bytes | None) -> Batcher:
        # Without a key, by chance: none is to be asked more than others.
        slot = random.randrange(SLOTS) if key is None else slot_of(key)  # noqa: S311  no secret
        return self._by_slot[slot].batcher

    def _node_at(self, place: Address) -> Node:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = Node(
                Dialer(self._endpoint.at(place), self._options),
                self._options,
                self._counters,
                heard=self._heard,
                lost=self._look_soon,
                router=self,
            )
            self._places[node.batcher] = place
        return node

    def _look_soon(self) -> None:
        """Ask whose the slots are, as soon as that is not too often."""
        if self._look is None and not self._stopped:
            self._look_at(max(self._loop.time(), self._looked_at + _PAUSE_SECONDS))

    def _look_at(self, moment: float) -> None:
        if self._next_look is not None:
            if self._next_look.when() <= moment:
                return
            self._next_look.cancel()
        self._next_look = self._loop.call_at(moment, self._begin_look, _LOOK_SECONDS)

    def _begin_look(self, budget: float) -> asyncio.Task[CacheError | None]:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        self._look = look = self._spawn(self._look_around(budget))

        def end(_: object) -> None:
            self._look = None
            self._looked_at = self._loop.time()
            if not self._stopped:
                # A master whose link is lost may have been replaced by now.
                is_whole = self._unison is None or self._unison.is_whole
                interval = _INTERVAL_SECONDS if is_whole else _LOST_INTERVAL_SECONDS
                self._look_at(self._looked_at + interval)

        look.add_done_callback(end)
        return look

    async def _look_around(self, budget: float) -> CacheError | None:
        """Ask whose the slots are; why that is not known, where nobody says."""
        failures: list[CacheError] = []
        for informants in (self._masters, {*self._replicas, *self._endpoint.seeds}):
            asked = [
                self._node_at(place).batcher.ask(VIEW, place[0], 16, budget=budget, retries=0)
                for place in informants
            ]
            views = await _views_of(asked, failures)
            if views:
                # Most of them: one may be cut off from the others, and not know.
                self._heed(views.most_common(1)[0][0])
                return None
        if any(isinstance(failure, CacheServerError) for failure in failures):
            return CacheUnsupported("UNSUPPORTED", "the server is no node of a cluster")
        return failures[0] if failures else CLUSTER_LOST.error()

    def _heed(self, view: View) -> None:
        """Go by what the nodes say from now on."""
        for slots in view:
            count = slots.last + 1 - slots.first
            self._by_slot[slots.first : slots.last + 1] = [self._node_at(slots.master)] * count
        self._masters = tuple(dict.fromkeys(slots.master for slots in view))
        self._replicas = frozenset(replica for slots in view for replica in slots.replicas)
        for place in self._masters:
            self._track(place)
        needed = set(self._by_slot)
        for place in [place for place, node in self._nodes.items() if node not in needed]:
            self._retire(place)

    def _track(self, place: Address) -> None:
        """Be told of changes on a node; until that is so, nothing near is trusted."""
        if self._unison is not None and place not in self._links:
            self._links[place] = link = Tracking(
                Dialer(self._endpoint.at(place), self._options, protocol=3),
                self._unison.joined_by(place),
                prefix=self._options.key_prefix.encode(),
                pace=pace_of(self._options, self._options.near_cache_heartbeat / _SECOND),
            )
            link.start()

    def _retire(self, place: Address) -> None:
        """Let a node go that has no slots any more; what waits for it is asked elsewhere."""
        node = self._nodes.pop(place)
        del self._places[node.batcher]
        node.transport.leave_all_but(NOWHERE)
        node.batcher.unreachable(LOST)
        self._spawn(node.transport.close())
        if self._unison is not None and (link := self._links.pop(place, None)) is not None:
            link.stop()
            self._unison.left_by(place)
            self._spawn(link.stopped())

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _views_of(
    asked: Collection[asyncio.Future[View]], failures: list[CacheError]
) -> Counter[View]:
    """What they say, and how many of them; who is slow is not waited for when others have answered."""
    views = Counter[View]()
    pending = set(asked)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=_OTHERS_SECONDS if views else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                break
            for one in done:
                error = one.exception()
                if error is None and one.result():
                    views[one.result()] += 1
                elif isinstance(error, CacheError):
                    failures.append(error)
    finally:
        for one in pending:
            one.cancel()
    return views
