"""Damaged headers of loaded values: all readers agree, and no method fails or hangs."""

from __future__ import annotations

import asyncio
import itertools
import random
from struct import Struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from async_redis_cache import CacheError
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadPolicies
from async_redis_cache._protocol.record import (
    MISSING,
    PLACEHOLDER,
    VALUE,
    Record,
    has_tags,
    is_record,
    packed_tags,
    payload_if_lasting,
    record_of,
    stale_ttl_of,
    untagged_value,
    version_of,
    with_tags,
)
from harness.apis import configured
from harness.figures import report
from harness.run_length import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from async_redis_cache import AsyncRedisCache
    from harness import Client, Server

pytestmark = pytest.mark.depends_on()

HEAD = Struct(">2sc16sQ8sQQQHQ")
NOW = 1_800_000_000_000
"""Milliseconds of the server's clock."""
HOUR = 3_600_000
DAY = 24 * HOUR
PAYLOAD = b'{"name": "Ann"}'
TAGS = {b"a": b"0" * 24, b"round": b"1" * 24}
POLICIES = [
    LoadPolicies(Options()).of({}),
    LoadPolicies(Options()).of({"refresh_at": 0.5}),
    LoadPolicies(Options()).of({"early_refresh": 1.0, "stale_timeout": 1_000}),
]


def heads(now: int) -> list[bytes]:
    """Whole ones of each kind: fresh, ageing and stale, held and free, with tags and without."""
    packed = packed_tags(TAGS)
    whole = [b"\xc1\x02l" + bytes(range(16)) + (now + 30).to_bytes(8)]
    for kind, token, age, slack, extent in itertools.product(
        [b"v", b"m"], [bytes(16), bytes(range(16))], [1, DAY // 2, 2 * DAY], [0, DAY], [b"", packed]
    ):
        leased = now + 30 if any(token) else 0
        stored = now - age
        head = HEAD.pack(
            b"\xc1\x02",
            kind,
            token,
            leased,
            b"version.",
            stored,
            stored + DAY,
            slack,
            len(extent),
            9,
        )
        whole.append(head + extent + (PAYLOAD if kind == b"v" else b""))
    return [*whole, with_tags(PAYLOAD, TAGS, now, DAY)]


WHOLE = heads(NOW)
CUTS = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 3), st.binary(max_size=9)), min_size=1, max_size=4
)
"""Where, how many bytes go, and what comes in their place."""
INPUTS = scaled(20_000, 1_000_000)


@pytest.mark.parametrize("payload", [PAYLOAD, b""])
@pytest.mark.parametrize("tags", [{}, TAGS])
@pytest.mark.parametrize("token", [bytes(16), bytes(15) + b"\x01"])
@pytest.mark.parametrize("slack", [0, 2**40 + 3])
@pytest.mark.parametrize("kind", [VALUE, MISSING])
def test_readers_of_a_header_find_its_fields(
    kind: bytes, slack: int, token: bytes, tags: dict[bytes, bytes], payload: bytes
) -> None:
    """All numbers, the tags with their versions, and the payload, also where that is empty."""
    leased, stored, fresh, cost = NOW + 1, NOW + 2, NOW + 3, 2**33 + 4
    packed = packed_tags(tags)
    numbers = (stored, fresh, slack, len(packed), cost)
    head = HEAD.pack(b"\xc1\x02", kind, token, leased, b"version.", *numbers)
    data = head + packed + payload
    record = Record(kind, leased, any(token), stored, fresh, slack, cost, tags, payload)
    assert record_of(data) == record
    assert has_tags(data) is bool(tags)
    assert stale_ttl_of(head) == slack
    assert version_of(data) == b"version."
    is_plain = kind == VALUE and not tags
    assert untagged_value(data) == ((leased, stored, fresh, slack, cost) if is_plain else None)
    assert payload_if_lasting(data) == (payload if is_plain and not slack else None)
    assert record.is_lasting is (kind == VALUE and not slack)
    assert [record.is_fresh(now) for now in (fresh - 1, fresh)] == [True, record.is_lasting]


def test_readers_of_a_header_find_its_tags() -> None:
    """A value stored with tags has no lease and no end of freshness; each tag has a version of its own."""
    one, other = (with_tags(PAYLOAD, TAGS, NOW, DAY) for _ in range(2))
    assert record_of(one) == Record(
        VALUE, 0, is_held=False, stored_at=NOW, fresh_until=NOW + DAY, tags=TAGS, payload=PAYLOAD
    )
    assert version_of(one) != version_of(other)


def test_readers_of_a_header_recognize_a_placeholder() -> None:
    """It holds a lease and its end; it is no value and never fresh. A truncated one is nothing."""
    until = 0x01_02_03_04_05_06_07_08
    data = b"\xc1\x02l" + bytes(range(16)) + until.to_bytes(8)
    for more in (b"", b"\x09"):
        assert record_of(data + more) == Record(PLACEHOLDER, until, is_held=True)
    assert not Record(PLACEHOLDER, until).is_fresh(0)
    assert record_of(data[:-1]) is None
    assert payload_if_lasting(data) is None
    assert untagged_value(data) is None
    # It has no version, and nor has what has no whole head: the data itself tells whether it is the same.
    for bare in (data, data + bytes(100), b"x" * 200, b"\xc1\x02v" + bytes(40)):
        assert version_of(bare) == bare


def test_all_readers_of_a_damaged_header_agree() -> None:
    """28. A header with any damage is parsed without an error, and the fast parser agrees with the full one."""
    inputs = values = 0

    @settings(
        max_examples=INPUTS // len(WHOLE) + 1,
        phases=[phase for phase in settings().phases if phase is not Phase.explain],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(CUTS, st.floats(0, 0.999))
    @example([(2, 2, b"v")], 0.0)  # A head that is too short.
    def look(cuts: list[tuple[int, int, bytes]], chance: float) -> None:
        nonlocal inputs, values
        for data in WHOLE:
            for at, gone, new in cuts:
                data = data[:at] + new + data[at + gone :]  # noqa: PLW2901
            inputs += 1
            values += _looked_at(data, lambda: chance)

    look()
    report(28, f"{values:,} of {inputs:,} damaged headers are still valid; all parsers agree")
    assert inputs > INPUTS * 0.9
    assert 0 < values < inputs


def _looked_at(data: bytes, chance: Any) -> bool:
    """Whether it is a value that may be given at once."""
    record = record_of(data) if is_record(data) else None
    is_valid = not is_record(data) or (record is not None and record.kind == VALUE)
    payload = data if record is None else record.payload
    if is_record(data):
        version_of(data)
    at_once = payload_if_lasting(data)
    if at_once is not None:
        assert is_valid
        assert at_once == payload
        assert record is None or (record.is_lasting and not record.tags)
    for policy in POLICIES:
        given = policy.usable_payload(data, lambda: NOW, chance)
        is_free = is_valid and (
            record is None
            or (
                record.is_fresh(NOW)
                and not record.tags
                and not (policy.may_refresh and policy.is_due_for_refresh(record, NOW, chance))
            )
        )
        if given is not None:
            assert is_free
            assert given == payload
        elif is_free:
            # It may always leave it to the whole way; it does so where the time matters.
            assert record is not None
    return at_once is not None


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache that verifies all data."""
    options = {"key_prefix": "p:", "max_size": 100_000, "command_timeout": 20_000}
    async with configured(server.url, loading_hard_timeout=3_000, **options) as opened:
        yield opened


def damaged(count: int, now: int) -> Iterator[bytes]:
    """By chance, the same at each run."""
    chance = random.Random(28)
    whole = heads(now)
    for _ in range(count):
        wild = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(wild))
            wild[at : at + chance.choice((1, 1, 1, 8))] = chance.choice(
                (chance.randbytes(1), chance.randbytes(8), b"\xff" * 8, bytes(8), b"")
            )
        # A right that somebody may well hold is waited for, as it should be: one for up to an hour from
        # when it is met, which is a while after now.
        if not 1_000 < int.from_bytes(wild[19:27]) - now <= 2 * HOUR:
            yield bytes(wild)


async def _failed(
    operation: Callable[[str], Awaitable[object]], entries: Mapping[str, bytes]
) -> dict[bytes, CacheError]:
    """On which data it did, and how."""
    failed: dict[bytes, CacheError] = {}
    turns = asyncio.Semaphore(500)

    async def one(key: str) -> None:
        async with turns:
            try:
                await operation(key)
            except CacheError as error:
                failed[entries[key]] = error

    await asyncio.gather(*map(one, entries))
    return failed


async def test_every_method_copes(cache: AsyncRedisCache, raw: Client) -> None:
    """28. Damaged headers on the server do not make any method fail, and can be overwritten."""
    seconds, _ = raw.time()
    now = int(seconds) * 1000
    count = scaled(600, 20_000)
    entries = {f"{number}": data for number, data in enumerate(damaged(count, now))}
    operations: dict[str, Callable[[str], Awaitable[object]]] = {
        "retrieve": lambda key: cache.retrieve(None, key),
        "retrieve_entry": lambda key: cache.retrieve_entry(None, key),
        "contains": lambda key: cache.contains(None, key),
        "time_to_live": lambda key: cache.time_to_live(None, key),
        "touch": lambda key: cache.touch(None, key, 60_000),
        "retrieve_or_load": lambda key: cache.retrieve_or_load(
            None, key, lambda: 1, stale_timeout=1_000, refresh_at=0.5, hard_timeout=60_000
        ),
        "refresh": lambda key: cache.refresh(None, key, lambda: 2),
        "remove": lambda key: cache.remove(None, key),
        "store": lambda key: cache.store(None, key, key),
    }
    for name, operation in operations.items():
        raw.mset({f"p:{key}": data for key, data in entries.items()})
        assert await _failed(operation, entries) == {}, name
    assert await cache.retrieve_many(None, entries) == {key: key for key in entries}
    report(28, f"{len(operations)} methods on {count:,} damaged headers, none failed")
