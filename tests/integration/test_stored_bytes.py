"""The stored bytes: every value round-trips, and plain values stay plain JSON."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._values.codec import Codec
from harness.apis import configured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from async_redis_cache._protocol.command import Command
    from harness import Client, Server

pytestmark = pytest.mark.depends_on()

MARK = b"\xc1"
WRAPPED = MARK + b"\x01"

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON_VALUES = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=5) | st.dictionaries(st.text(), part, max_size=5)
)
KEYS = st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.binary(), st.booleans())
MSGPACK_VALUES = st.recursive(
    SCALARS | st.binary() | st.floats(allow_nan=False) | st.integers(-(2**63), 2**64 - 1),
    lambda part: st.lists(part, max_size=5) | st.dictionaries(KEYS, part, max_size=5),
)
# Each way to wrap a payload.
ENVELOPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "compressed": {"compression": "zlib", "compression_threshold": 0},
    "signed": {"signing_key": "sixteen letters."},
    "both": {
        "compression": "zlib",
        "compression_threshold": 20,
        "signing_key": "another sixteen!",
    },
}
WAYS = st.sampled_from(sorted(ENVELOPES))


def codec(**options: Any) -> Codec:
    """What the APIs translate with."""
    return Codec(Options(**options), None, CacheStats())


def _there_and_back(codec: Codec, value: Any) -> Any:
    stored = codec.dumps(b"key", value)
    return codec.loads(b"key", stored, codec.decoder(None))


@given(way=WAYS, value=JSON_VALUES)
def test_json_values_round_trip(way: str, value: Any) -> None:
    """Whatever JSON has a form for comes back equal, of the same types, however it is wrapped."""
    found = _there_and_back(codec(**ENVELOPES[way]), value)
    assert found == value
    assert repr(found) == repr(value)


@given(way=WAYS, value=MSGPACK_VALUES)
def test_msgpack_values_round_trip(way: str, value: Any) -> None:
    """Likewise MessagePack, with bytes, infinities and keys of any type."""
    found = _there_and_back(codec(serializer="msgpack", **ENVELOPES[way]), value)
    assert found == value
    assert repr(found) == repr(value)


@given(
    way=WAYS,
    value=st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: MARK + data),
)
@example(way="plain", value=b"")
@example(way="plain", value=MARK)
@example(way="plain", value=WRAPPED)
@example(way="plain", value=WRAPPED + b"\x00\x00")
@example(way="compressed", value=MARK * 1000)
def test_any_bytes_round_trip(way: str, value: bytes) -> None:
    """Raw payloads may be any bytes, those that look like an envelope too, or like two."""
    raw = codec(serializer="raw", **ENVELOPES[way])
    assert _there_and_back(raw, value) == value
    again = raw.dumps(b"key", raw.dumps(b"key", value))
    once = raw.loads(b"key", again, raw.decoder(None))
    assert raw.loads(b"key", once, raw.decoder(None)) == value


@given(value=st.binary(max_size=100))
def test_plain_values_have_no_header(value: bytes) -> None:
    """Without metadata a payload is stored byte for byte, unless it begins with the mark."""
    stored = codec(serializer="raw").dumps(b"key", value)
    if value.startswith(MARK):
        assert stored.startswith(WRAPPED)
        assert stored.endswith(value)
    else:
        assert stored == value


@given(value=JSON_VALUES)
def test_no_json_begins_with_the_mark(value: Any) -> None:
    """So plain JSON is always stored as it is, and never taken for an envelope."""
    stored = codec().dumps(b"key", value)
    assert msgspec.json.decode(stored) == value
    assert not stored.startswith(MARK)


@given(value=MSGPACK_VALUES)
def test_no_msgpack_begins_with_the_mark(value: Any) -> None:
    """0xC1 is the one byte that MessagePack never uses."""
    assert not codec(serializer="msgpack").dumps(b"key", value).startswith(MARK)


@given(value=st.text(max_size=50), key=st.binary(min_size=1), other=st.binary(min_size=1))
def test_a_signature_holds_for_one_key(value: str, key: bytes, other: bytes) -> None:
    """A signed value that was copied to another key is not read there."""
    signed = codec(**ENVELOPES["signed"])
    stored = signed.dumps(key, value)
    assert signed.loads(key, stored, signed.decoder(None)) == value
    if other != key:
        assert signed.loads(other, stored, signed.decoder(None)) is None


def test_a_signature_holds_for_one_serializer() -> None:
    """What was signed as raw bytes is never taken for another serializer's."""
    options = ENVELOPES["signed"]
    stored = codec(serializer="raw", **options).dumps(b"key", b"5")
    for serializer in ("json", "msgpack", "pickle"):
        reader = codec(serializer=serializer, **options)
        assert reader.loads(b"key", stored, reader.decoder(None)) is None


def test_values_are_read_across_options() -> None:
    """Compression may be switched on and off: what is stored says how it is to be read."""
    value = ["text"] * 500
    for writer in ("plain", "compressed"):
        for reader in ("plain", "compressed"):
            stored = codec(**ENVELOPES[writer]).dumps(b"key", value)
            reading = codec(**ENVELOPES[reader])
            assert reading.loads(b"key", stored, reading.decoder(None)) == value
    signed = codec(**ENVELOPES["signed"])
    unsigned = codec().dumps(b"key", value)
    assert signed.loads(b"key", unsigned, signed.decoder(None)) is None
    other = codec(signing_key="some other secret")
    assert signed.loads(b"key", other.dumps(b"key", value), signed.decoder(None)) is None


async def test_compression_on_the_server(server: Server, raw: Client) -> None:
    """From the threshold on, what gets smaller is compressed; anything else is stored plain."""
    options = {"compression": "zlib", "compression_threshold": 1_000, "key_prefix": "p:"}
    async with configured(server.url, **options) as cache:
        large, small = "a" * 998, "a" * 997  # And two quotes.
        unruly = [math.sin(number) for number in range(2_000)]
        await cache.store_many(None, {"large": large, "small": small, "unruly": unruly})
        stored = raw.get("p:large")
        assert stored is not None
        assert stored.startswith(WRAPPED)
        assert len(stored) < 100
        assert zlib.decompress(stored[stored.index(b"\x78", 4) :]) == msgspec.json.encode(large)
        assert raw.get("p:small") == msgspec.json.encode(small)
        assert raw.strlen("p:unruly") < len(msgspec.json.encode(unruly))
        found = await cache.retrieve_many(None, ["large", "small", "unruly"])
        assert found == {"large": large, "small": small, "unruly": unruly}


async def test_incompressible_value_is_stored_plain(server: Server, raw: Client) -> None:
    """A payload that would grow is left as it is."""
    options = {"compression": "zlib", "compression_threshold": 0, "serializer": "raw"}
    noise = bytes((number * number * 31 + number) % 251 for number in range(200))
    async with configured(server.url, **options) as cache:
        await cache.store_many(None, {"noise": noise, "empty": b"", "one": b"1"})
        assert (raw.get("noise"), raw.get("empty"), raw.get("one")) == (noise, b"", b"1")
        assert await cache.retrieve(None, "empty") == b""


async def test_queued_bytes_are_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a bound of the bytes that wait holds, however a value comes to be stored."""

    def weight(argument: Any) -> int:
        if isinstance(argument, (list, tuple)):
            return sum(map(weight, cast("Sequence[Any]", argument)))
        return len(argument) if isinstance(argument, bytes) else 0

    async with configured(server.url, serializer="raw") as cache:
        batcher = cache._lifecycle.ready().engine._batcher
        ask = batcher.execute
        spare: list[int] = []

        def counted(operation: Command, argument: Any, size: int, **options: Any) -> Any:
            spare.append(size - weight(argument))
            return ask(operation, argument, size, **options)

        monkeypatch.setattr(batcher, "execute", counted)
        key, value = "k" * 500, bytes(100_000)
        await cache.store(None, key, value)
        await cache.store(None, key, value, tags=["t" * 500])
        await cache.remove(None, key)
        await cache.retrieve_or_load(None, key, lambda: value)
        await cache.refresh(None, key, lambda: value, tags=["t" * 500])
        await cache.invalidate_tags(None, "t" * 500)
    assert min(spare) >= 0
    assert max(spare) < 2_000
