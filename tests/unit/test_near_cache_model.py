"""For any sequence of requests, replies and invalidations, no local entry is stale."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.near_cache import NearCache, PendingFill
from async_redis_cache._engine.sieve import NearEntry
from harness.run_length import scaled

ALL_KEYS = [b"a", b"b", b"c", b"d", b"e"]
KEYS = st.sampled_from(ALL_KEYS)
SIZES = st.integers(min_value=0, max_value=900)
SECONDS = st.sampled_from([0.001, 0.5, 1.0, 3.0])
LIVES = st.sampled_from([-1, -2, 0, 1, 700, 2_000, 90_000])
LONGEST = 5.0


class Question:
    """A question in the air: its lease, and the answer that the server has given already."""

    def __init__(self, lease: PendingFill | None, data: bytes | None, left: int) -> None:
        self.lease = lease
        self.data = data
        self.left = left


class Model(RuleBasedStateMachine):
    """A near cache, and a server that holds versions of each key.

    The server's news is told at once or later, as it likes, but before it gives the next sign of
    life. So the near cache may give any version that was current since the last sign of life or
    the last news, and none from before.
    """

    @initialize(max_size=st.integers(1, 4), max_bytes=st.integers(300, 3_000))
    def begin(self, max_size: int, max_bytes: int) -> None:
        """An empty near cache, connected for a while."""
        self.now = 0.0
        self.max_size, self.max_bytes = max_size, max_bytes
        self.counters = CacheStats()
        self.near = NearCache(
            self.counters,
            max_size=max_size,
            max_bytes=max_bytes,
            max_ttl=LONGEST,
            clock=lambda: self.now,
        )
        self.versions = 0
        self.server = {key: (b"0", float("inf")) for key in ALL_KEYS}
        self.untold: list[bytes] = []
        self.questions: list[Question] = []
        self.linked = False
        self.trusted_until = 0.0
        self.sign_of_life(100.0)

    @property
    def trusted(self) -> bool:
        """Whether local entries may be returned."""
        return self.linked and self.now < self.trusted_until

    @rule(key=KEYS, size=SIZES, left=LIVES)
    def change(self, key: bytes, size: int, left: int) -> None:
        """Another program stores or removes the value; the invalidation is under way."""
        self.versions += 1
        if left in (0, -2):
            self.server.pop(key, None)
        else:
            end = self.now + left / 1000 if left > 0 else float("inf")
            self.server[key] = (b"%d " % self.versions + b"x" * size, end)
        if self.linked:
            self.untold.append(key)

    @rule(count=st.integers(1, 5))
    def tell(self, count: int) -> None:
        """Some invalidations arrive, in order."""
        told, self.untold = self.untold[:count], self.untold[count:]
        self.near.changed(told)

    @rule(key=KEYS)
    def execute(self, key: bytes) -> None:
        """The server executes a request at once; the reply is under way."""
        misses = self.counters.near_misses
        lease = self.near.begin_fill(key)
        assert self.counters.near_misses == misses + 1
        data, end = self.server.get(key, (None, 0.0))
        left = -2 if data is None else -1
        if data is not None and end < float("inf"):
            left = max(0, int((end - self.now) * 1000))
        if left == 0:
            data, left = None, -2
        self.questions.append(Question(lease, data, left))

    @precondition(lambda self: self.questions)
    @rule(which=st.integers(0, 100), fails=st.booleans())
    def answer(self, which: int, fails: bool) -> None:
        """One of the answers arrives, or is lost."""
        question = self.questions.pop(which % len(self.questions))
        data = None if fails else question.data
        self.near.fill(question.lease, data, 0 if fails else question.left)

    @rule(key=KEYS, size=SIZES)
    def store(self, key: bytes, size: int) -> None:
        """A change by the cache itself: invalidated before and after, and by the server as well."""
        self.near.invalidate([key])
        self.change(key, size, 90_000)
        self.near.invalidate([key])
        assert self.near.get(key) is None

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(patience=SECONDS)
    def sign_of_life(self, patience: float) -> None:
        """All earlier invalidations have arrived; a lost channel has reconnected."""
        if self.linked and not self.trusted:
            self.lose()
        self.tell(len(self.untold))
        self.linked = True
        self.trusted_until = self.now + patience
        self.near.connected_until(self.trusted_until)

    @rule()
    def lose(self) -> None:
        """The channel is lost, with the invalidations that it had not delivered."""
        self.near.disconnected()
        self.linked = False
        self.untold.clear()

    @precondition(lambda self: self.versions % 5 == 4)
    @rule()
    def flush(self) -> None:
        """The server is emptied, and says so after what it had to say before."""
        self.tell(len(self.untold))
        self.server.clear()
        self.near.flush()

    @rule(keys=st.lists(KEYS, min_size=1))
    def retrieve(self, keys: list[bytes]) -> None:
        """A caller: look, request, and get the reply before anything else happens."""
        for key in keys:
            self.get(key)
            self.execute(key)
            self.answer(-1, fails=False)
            self.get(key)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        """An entry is the newest value whose invalidation has arrived, unexpired, and returned while connected."""
        self.near.pushes_processed()
        hits = self.counters.near_hits
        data = self.near.get(key)
        given = data is not None
        assert self.counters.near_hits - hits == given
        if given:
            assert self.trusted
            if key not in self.untold:
                current, end = self.server.get(key, (None, 0.0))
                assert data == current
                assert self.now < end

    @invariant()
    def the_books_are_right(self) -> None:
        """The gauges are what is held, within the bounds; the order holds the same entries."""
        if not hasattr(self, "near"):
            return
        entries = self.near._entries
        assert len(entries) == self.counters.near_entries <= self.max_size
        size = sum(entry.size for entry in entries.values())
        assert size == self.counters.near_bytes <= self.max_bytes
        assert all(entry.key == key for key, entry in entries.items())
        assert all(entry.expires <= self.now + LONGEST for entry in entries.values())
        in_order = self.in_order()
        assert len(in_order) == len(entries)
        assert {id(entry) for entry in in_order} == {id(entry) for entry in entries.values()}
        assert self.counters.near_connected == self.linked
        open_leases = {id(question.lease) for question in self.questions}
        assert open_leases >= {id(lease) for lease in self.near._pending_fills.values()}

    def in_order(self) -> list[NearEntry]:
        """The entries from the oldest to the newest; both directions and the hand agree."""
        order = self.near._order
        found: list[NearEntry] = []
        entry, older = order._oldest, None
        while entry is not None:
            assert entry.older is older
            found.append(entry)
            entry, older = entry.newer, entry
        assert order._newest is older
        assert order._hand is None or any(order._hand is entry for entry in found)
        return found


def test_local_entries_are_never_stale() -> None:
    """No divergence in some thousands of steps; in a hundred thousand in the long form."""
    run_state_machine_as_test(
        Model,
        settings=settings(max_examples=scaled(100, 2_000), stateful_step_count=50, deadline=None),
    )
