"""A cluster: which node a call is for, and what becomes of it where that was another.

Each node has its own calls, connections and link. A node that is not the right one for a key names the one
that is (MOVED), or the one that is while the slot is moving (ASK): the call goes on to it, by the same
deadline, and its caller knows of nothing. What the nodes know of the slots is asked again whenever it has
proven wrong, and every so often.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

from ._batcher import Batcher
from ._breaker import Breakers
from ._counters import CacheStats
from ._dialer import Dialer
from ._errors import CacheError, CacheServerError, CacheUnavailable, CacheUnsupported
from ._exchange import Call
from ._failures import TIMED_OUT, Failure
from ._journal import Condition, Journal
from ._members import Members, View
from ._node import Node
from ._options import Options
from ._slots import VIEW, Asking, has_hash_tag
from ._tracking import Listener
from ._unison import Unison
from ._uri import Endpoint
from ._verbs import Asker, Verb

__all__ = ["Cluster"]

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
_LOST: Final = Failure(
    CacheUnavailable, "CONNECT_FAILED", "no node of the cluster answers", passing=True
)


class Cluster:
    """The servers that share the slots. It asks as a `Batcher` does, the right one.

    Args:
        endpoint: some of the nodes, and who we are there.
        options: of the cache.
        counters: of the cache.
        breakers: of the cache.
        journal: of the cache.
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
        journal: Journal,
        *,
        listener: Listener | None,
    ) -> None:
        if options.max_size and not has_hash_tag(options.key_prefix.encode()):
            problem = (
                "options.max_size is kept in one slot of a cluster: it needs a key_prefix with a "
                "hash tag, as {shop}:, or to be 0"
            )
            raise CacheUnsupported("UNSUPPORTED", problem)
        self._loop = asyncio.get_running_loop()
        self._next_look: asyncio.TimerHandle | None = None
        self._looked_at = self._loop.time()
        self._look: asyncio.Task[CacheError | None] | None = None
        self._stopped = False

        def make(dialer: Dialer, told: Condition, alone: Condition | None) -> Node:
            return Node(
                dialer,
                options,
                counters,
                told=told,
                breakers=breakers,
                alone=alone,
                lost=self._look_soon,
                router=self,
            )

        self._unison = None if listener is None else Unison(listener, self._look_soon)
        self._members = Members(endpoint, options, make, self._unison, journal)
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
        if self._look is not None:
            # It may have asked them before what its caller has just done.
            await asyncio.wait((self._look,), timeout=deadline - self._loop.time())
        look = self._look or self._begin_look(_LOOK_SECONDS)
        await asyncio.wait((look,), timeout=deadline - self._loop.time())
        if not look.done():
            raise TIMED_OUT.error()
        if not look.cancelled() and (failure := look.result()) is not None:
            raise failure
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
        for link in self._members.links():
            refused = await link.first()
            if refused is not None:
                raise refused.error()

    def has_unread(self) -> bool:
        """Whether there is news of changes that has come, and has not been passed on."""
        return any(link.has_unread() for link in self._members.links())

    def stop(self) -> None:
        """End every call, and every link."""
        self._stopped = True
        if self._next_look is not None:
            self._next_look.cancel()
        if self._look is not None:
            self._look.cancel()
        self._members.stop()

    async def stopped(self) -> None:
        """Drop all connections, and wait until nothing is left."""
        if self._look is not None:
            await asyncio.wait((self._look,))
        await self._members.stopped()

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._stopped = True
        self._members.abandon()

    def redirected(self, sender: Batcher, call: Call, failure: Failure) -> bool:
        """Pass a call on to the node that its refusal names, unless it has seen too many."""
        call.hops += 1
        if failure.place is None or call.hops > _MOST_HOPS or self._stopped:
            return False
        host, port = failure.place
        place = (host or self._members.host_of(sender), port)
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
        self._look = look = self._loop.create_task(self._look_around(budget))

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
        for informants in (self._members.masters, self._members.others):
            asked = [
                self._members.at(place).batcher.ask(VIEW, place[0], 16, budget=budget, retries=0)
                for place in informants
            ]
            views = await _views_of(asked, failures)
            if views:
                # Most of them: one may be cut off from the others, and not know.
                self._members.heed(views.most_common(1)[0][0])
                return None
        if any(isinstance(failure, CacheServerError) for failure in failures):
            return CacheUnsupported("UNSUPPORTED", "the server is no node of a cluster")
        return failures[0] if failures else _LOST.error()


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
