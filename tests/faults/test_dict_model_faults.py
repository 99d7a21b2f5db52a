"""The cache behaves as a dict whose values expire, under faults too: unknown outcomes are raised as such."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from async_redis_cache import AsyncRedisCache, CacheError
from harness import Proxy, Server, StartProxy
from harness.apis import configured
from harness.figures import counts, report
from harness.possible_values import GONE, Possibilities, stored
from harness.run_length import scaled

EXAMPLES, STEPS = scaled(12, 400), 40
KEYS = st.sampled_from(["a", "b", "c", "*", "é"])
VALUES = st.sampled_from([0, 1, "", "text", [], [1, [2]], {"a": None}, "x" * 2_000])
LIVES = st.sampled_from([300_000, 600_000, 900_000])
LATE = 250_000
"""Milliseconds that an example may take, so that lives can be told apart."""
LIMIT = 1_000
WAYS: list[dict[str, Any]] = [
    {"max_size": 0, "retries": 0},
    {"max_size": 0, "retries": 2},
    {"max_size": 100, "retries": 2},
    {"max_size": 100, "retries": 0, "compression": "zlib", "compression_threshold": 0},
]


def _away(network: Proxy) -> None:
    network.refuse()
    network.cut("rst")


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "none": lambda _: None,
    "closed": lambda network: network.cut("fin"),
    "reset": lambda network: network.cut("rst"),
    "cut at once": lambda network: network.cut_replies_after(0, "rst"),
    "cut in mid-reply": lambda network: network.cut_replies_after(3),
    "reply lost": lambda network: network.swallow_replies(1),
    "all replies lost": lambda network: network.swallow_replies(10, ending="rst"),
    "nonsense": lambda network: network.replace_replies(b"nonsense\r\n", 10),
    "silent": lambda network: network.black_hole("to_client"),
    "away": _away,
}
FAULT = st.sampled_from(["none"] * 2 * len(FAULTS) + list(FAULTS))
SAID = {"CONNECTION_LOST", "CONNECT_FAILED", "TIMEOUT", "OUTCOME_UNKNOWN", "PROTOCOL_ERROR"}


class Model(RuleBasedStateMachine):
    """Two caches on one server behind a faulty network, and a dict of what they may hold.

    A fault meets one call; then the network is well again.
    """

    server: ClassVar[Server]
    network: ClassVar[Proxy]
    steps: ClassVar[int]
    codes: ClassVar[Counter[str]]

    @initialize(way=st.sampled_from(WAYS))
    def begin(self, way: dict[str, Any]) -> None:
        """Two empty caches."""
        self.runner = asyncio.Runner()
        self.raw = self.server.client()
        self.raw.flushall()
        options = {"key_prefix": "p:", "command_timeout": LIMIT, "connect_timeout": 30_000} | way
        self.caches = [configured(self.network.url, **options) for _ in range(2)]
        for cache in self.caches:
            self.runner.run(cache.open(None))
        self.now = 0
        self.dict = Possibilities(len(self.caches))

    def teardown(self) -> None:
        """Close what was opened."""
        if hasattr(self, "runner"):
            for cache in self.caches:
                self.runner.run(cache.close(None))
            self.runner.close()
            self.raw.close()

    def execute(
        self, fault: str, call: Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]]
    ) -> tuple[Any, CacheError | None]:
        """Call one of the caches under faults; its result or error."""
        Model.steps += 1
        self.now = 1 - self.now
        # Not afterwards: what is paid beside the call may meet its change.
        for number, cache in enumerate(self.caches):
            if not cache.stats().pending_invalidations:
                self.dict.paid(number)
        FAULTS[fault](self.network)
        try:
            answer, error = self.runner.run(call(self.caches[self.now])), None
        except CacheError as raised:
            answer, error = None, raised
            self.codes[raised.code] += 1
        finally:
            self.network.heal()
        assert self.codes.keys() <= SAID
        return answer, error

    def change(self, changes: dict[str, Any], error: CacheError | None) -> None:
        """A change was made, or failed."""
        if error is None:
            self.dict.changed(self.now, changes)
        else:
            self.dict.failed(self.now, changes, unknown=error.code == "OUTCOME_UNKNOWN")

    @rule(key=KEYS, value=VALUES, life=LIVES, fault=FAULT)
    def store(self, key: str, value: Any, life: int, fault: str) -> None:
        """Store gives the value back."""
        given, error = self.execute(fault, lambda cache: cache.store(None, key, value, life))
        assert error or given == value
        self.change({key: stored(value, life)}, error)

    @rule(many=st.dictionaries(KEYS, VALUES | st.none()), life=LIVES, fault=FAULT)
    def store_many(self, many: dict[str, Any], life: int, fault: str) -> None:
        """None among them removes."""
        _, error = self.execute(fault, lambda cache: cache.store_many(None, many, life))
        self.change({key: stored(value, life) for key, value in many.items()}, error)

    @rule(key=KEYS, fault=FAULT)
    def retrieve(self, key: str, fault: str) -> None:
        """The value or None."""
        found, error = self.execute(fault, lambda cache: cache.retrieve(None, key))
        if error is None:
            self.dict.found(key, found)

    @rule(keys=st.lists(KEYS, unique=True), fault=FAULT)
    def retrieve_many(self, keys: list[str], fault: str) -> None:
        """The hits."""
        found, error = self.execute(fault, lambda cache: cache.retrieve_many(None, keys))
        if error is None:
            for key in keys:
                self.dict.found(key, found.get(key))

    @rule(key=KEYS, fault=FAULT)
    def remove(self, key: str, fault: str) -> None:
        """Returns the removed value."""
        removed, error = self.execute(fault, lambda cache: cache.remove(None, key))
        if error is None:
            self.dict.found(key, removed)
        self.change({key: None}, error)

    @rule(keys=st.lists(KEYS, unique=True), fault=FAULT)
    def remove_many(self, keys: list[str], fault: str) -> None:
        """How many were there."""
        removed, error = self.execute(fault, lambda cache: cache.remove_many(None, keys))
        if error is None:
            self.dict.counted(keys, removed)
        self.change(dict.fromkeys(keys), error)

    @rule(key=KEYS, life=LIVES, fault=FAULT)
    def touch(self, key: str, life: int, fault: str) -> None:
        """Sets a new TTL of an existing value."""
        touched, error = self.execute(fault, lambda cache: cache.touch(None, key, life))
        if error is None:
            self.dict.is_there(key, touched)
        self.dict.touched(key, life, unknown=error is not None)

    @rule(key=KEYS, fault=FAULT)
    def look(self, key: str, fault: str) -> None:
        """Whether it is there, and for how long."""
        there, error = self.execute(fault, lambda cache: cache.contains(None, key))
        if error is None:
            self.dict.is_there(key, there)
        left, error = self.execute("none", lambda cache: cache.time_to_live(None, key))
        if error is None:
            self.dict.lives(key, left, LATE)

    @rule(fault=FAULT)
    def clear(self, fault: str) -> None:
        """All of them, counted."""
        removed, error = self.execute(fault, lambda cache: cache.clear(None))
        for key in tuple(self.dict.of):
            if error is not None:
                self.dict.of[key] |= GONE
            elif fault == "none":
                self.dict.counted(self.dict.of, removed)
        if error is None:
            self.dict.cleared()

    @rule(key=KEYS)
    def expire(self, key: str) -> None:
        """The server lets a value expire."""
        self.raw.pexpire(f"p:{key}", 0)
        self.dict.of[key] = GONE.copy()

    @invariant()
    def nothing_else_is_there(self) -> None:
        """The server holds what the model allows and requires, and the index."""
        if hasattr(self, "raw"):
            found = {key for key in self.raw.keys("*") if not key.endswith(b"\x00index")}
            there = {key for key in self.dict.of if f"p:{key}".encode() in found}
            assert len(there) == len(found)
            for key, possible in self.dict.of.items():
                fits = possible != GONE if key in there else None in possible
                assert fits, f"{key!r} is {'' if key in there else 'not '}there: {possible}"


def test_cache_behaves_as_a_dict_under_faults(server: Server, proxy: StartProxy) -> None:
    """27. With faults: no divergence from a dict with TTLs, except after a typed unknown outcome."""
    Model.server, Model.network = server, proxy(server)
    Model.steps, Model.codes = 0, Counter()
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # Not made smaller: when a fault meets a call is in part left to chance.
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    report(27, f"{Model.steps:,} steps, 0 divergences, {counts(Model.codes)}")
    assert Model.codes["OUTCOME_UNKNOWN"] > 0
