"""The cache behaves as a dict whose values expire, for any sequence of operations."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from harness.apis import configured
from harness.figures import report
from harness.run_length import scaled

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache
    from harness import Server

KEYS = st.sampled_from(["a", "b", "c", "*", "a b", "é"])
VALUES = st.sampled_from([0, 1, "", "text", [], [1, [2]], {"a": None}, False, "x" * 2_000])
LIVES = st.sampled_from([300_000, 600_000, 900_000])
WAYS: list[dict[str, Any]] = [
    {"max_size": 0},
    {"max_size": 100},
    {"max_size": 100, "compression": "zlib", "compression_threshold": 0},
    {"max_size": 0, "serializer": "msgpack"},
]


class Model(RuleBasedStateMachine):
    """Two caches on one server, and a dict of what they should hold: the value and its life.

    Lives are far longer than the test; `expire` is what lets a value's time pass on the server.
    """

    server: ClassVar[Server]
    steps: ClassVar[int]

    @initialize(way=st.sampled_from(WAYS))
    def begin(self, way: dict[str, Any]) -> None:
        """Two empty caches."""
        self.runner = asyncio.Runner()
        self.raw = self.server.client()
        self.raw.flushall()
        self.caches = [configured(self.server.url, key_prefix="p:", **way) for _ in range(2)]
        for cache in self.caches:
            self.runner.run(cache.open(None))
        self.turn = 0
        self.expected: dict[str, tuple[Any, int]] = {}

    def teardown(self) -> None:
        """Close what was opened."""
        if hasattr(self, "runner"):
            for cache in self.caches:
                self.runner.run(cache.close(None))
            self.runner.close()
            self.raw.close()

    @property
    def cache(self) -> AsyncRedisCache:
        """One or the other."""
        self.turn += 1
        Model.steps += 1
        return self.caches[self.turn % 2]

    @rule(key=KEYS, value=VALUES, life=LIVES)
    def store(self, key: str, value: Any, life: int) -> None:
        """Store gives the value back."""
        assert self.runner.run(self.cache.store(None, key, value, life)) == value
        self.expected[key] = (value, life)

    @rule(many=st.dictionaries(KEYS, VALUES | st.none()), life=LIVES)
    def store_many(self, many: dict[str, Any], life: int) -> None:
        """None among them removes."""
        self.runner.run(self.cache.store_many(None, many, life))
        for key, value in many.items():
            if value is None:
                self.expected.pop(key, None)
            else:
                self.expected[key] = (value, life)

    @rule(key=KEYS)
    def retrieve(self, key: str) -> None:
        """The value or None."""
        found = self.runner.run(self.cache.retrieve(None, key))
        assert found == self.expected.get(key, (None, 0))[0]

    @rule(keys=st.lists(KEYS))
    def retrieve_many(self, keys: list[str]) -> None:
        """The hits, in the order of the keys."""
        found = self.runner.run(self.cache.retrieve_many(None, keys))
        hits = {key: self.expected[key][0] for key in keys if key in self.expected}
        assert list(found.items()) == list(hits.items())

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        """Returns the removed value."""
        removed = self.runner.run(self.cache.remove(None, key))
        assert removed == self.expected.pop(key, (None, 0))[0]

    @rule(keys=st.lists(KEYS))
    def remove_many(self, keys: list[str]) -> None:
        """How many were there."""
        removed = self.runner.run(self.cache.remove_many(None, keys))
        assert removed == len(self.expected.keys() & set(keys))
        for key in keys:
            self.expected.pop(key, None)

    @rule(key=KEYS, life=LIVES)
    def touch(self, key: str, life: int) -> None:
        """Sets a new TTL of an existing value."""
        touched = self.runner.run(self.cache.touch(None, key, life))
        assert touched == (key in self.expected)
        if touched:
            self.expected[key] = (self.expected[key][0], life)

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        """Whether it is there, and for how long."""
        assert self.runner.run(self.cache.contains(None, key)) == (key in self.expected)
        left = self.runner.run(self.cache.time_to_live(None, key))
        life = self.expected.get(key, (None, None))[1]
        assert (left is None) == (life is None)
        if left is not None and life is not None:
            assert life - 250_000 < left <= life

    @precondition(lambda self: self.turn % 5 == 0)
    @rule()
    def clear(self) -> None:
        """All of them, counted."""
        assert self.runner.run(self.cache.clear(None)) == len(self.expected)
        self.expected.clear()

    @rule(key=KEYS)
    def expire(self, key: str) -> None:
        """The server lets a value expire."""
        self.raw.pexpire(f"p:{key}", 0)
        self.expected.pop(key, None)

    @invariant()
    def nothing_else_is_there(self) -> None:
        """The server holds these values and no more, and their index."""
        if hasattr(self, "raw"):
            keys = {key for key in self.raw.keys("*") if not key.endswith(b"\x00index")}
            assert keys == {f"p:{key}".encode() for key in self.expected}


def test_cache_behaves_as_a_dict_with_expiry(server: Server) -> None:
    """27. Without faults: no divergence from a dict with TTLs."""
    Model.server, Model.steps = server, 0
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=scaled(12, 250),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    report(27, f"without faults: {Model.steps} steps, 0 divergences")
