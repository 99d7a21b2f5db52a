"""Every option: its type, its range, and the message for values outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, get_args, get_type_hints

import pytest
from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, CacheConfigError, CacheOptions, Forever, RedisCache
from async_redis_cache._common.logins import CredentialSource
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._common.options import Options, path_of
from harness.apis import configured

URL = "redis://localhost"
FIELDS = dataclasses.fields(Options)
NUMBERS = [field for field in FIELDS if type(field.default) is int]
SHARES = [field for field in FIELDS if type(field.default) is float]
DURATIONS = [field for field in NUMBERS if field.metadata["unit"] == "ms"]

Field = dataclasses.Field[Any]


def taken(cache: AsyncRedisCache | RedisCache, name: str) -> object:
    """What the cache has made of an option."""
    inner = cache._cache if isinstance(cache, RedisCache) else cache  # pyright: ignore[reportPrivateUsage]
    return getattr(inner._lifecycle.settings.options, name)  # pyright: ignore[reportPrivateUsage]


def given(name: str, value: object) -> object:
    """What a cache makes of this value of an option."""
    options: Any = {name: value}
    return taken(AsyncRedisCache.from_url(URL, **options), name)


def refusal(name: str, value: object) -> str:
    """The message about a value that is not taken."""
    with pytest.raises(CacheConfigError) as caught:
        given(name, value)
    return caught.value.message


@pytest.mark.parametrize("field", NUMBERS, ids=path_of)
def test_number_is_taken_exactly_within_the_range_that_its_message_states(field: Field) -> None:
    """The least and the most are taken, one less and one more are refused, and the message names both."""
    least, most = field.metadata["least"], field.metadata["most"]
    assert (given(field.name, least), given(field.name, str(most))) == (least, most)
    for wrong in (least - 1, most + 1, str(most + 1)):
        message = refusal(field.name, wrong)
        assert message.startswith(path_of(field))
        assert message.endswith(f"from {least} to {most}")


def test_a_terabyte_may_be_held_near() -> None:
    """Bytes are not bounded by the longest duration, which is another unit."""
    assert given("near_cache_max_bytes", 1 << 40) == 1 << 40


@pytest.mark.parametrize("field", SHARES, ids=path_of)
def test_share_is_taken_exactly_within_the_range_that_its_message_states(field: Field) -> None:
    """0, the most and the smallest floats between them are taken; what is outside is refused with both."""
    most = field.metadata["most"]
    for right in (0, most, 1e-9, 5e-324):
        assert given(field.name, right) == right
    for wrong in (-5e-324, most + 0.001, float("nan"), float("inf")):
        assert f"from 0 to {most}" in refusal(field.name, wrong)


@pytest.mark.parametrize("field", DURATIONS, ids=path_of)
def test_duration_may_be_a_timedelta(field: Field) -> None:
    """A timedelta is taken as its milliseconds, rounded up, and refused outside of the same range."""
    assert given(field.name, timedelta(seconds=2)) == 2_000
    assert given(field.name, timedelta(seconds=2, microseconds=1)) == 2_001
    assert "whole number of milliseconds from" in refusal(field.name, timedelta(seconds=-1))


@pytest.mark.parametrize("field", DURATIONS, ids=path_of)
def test_duration_may_be_a_timedelta_in_a_configuration(field: Field) -> None:
    """`ConfigParams` makes text of a timedelta, which is read."""
    for duration in (timedelta(seconds=90, milliseconds=5), timedelta(minutes=59, microseconds=1)):
        cache = AsyncRedisCache()
        cache.configure(ConfigParams.from_tuples(path_of(field), duration))
        assert taken(cache, field.name) == given(field.name, duration)
    assert given(field.name, str(timedelta(seconds=90, milliseconds=5))) == 90_005


def test_text_of_days_is_read() -> None:
    """The text of a timedelta begins with its days; that of a negative one is refused."""
    for duration in (timedelta(days=1), timedelta(days=2, hours=23, seconds=1)):
        assert given("timeout", str(duration)) == duration // timedelta(milliseconds=1)
    for wrong in (str(timedelta(seconds=-1)), "5:00", "0:5:00", "1 day", "0:00:00.1234567"):
        assert "whole number of milliseconds" in refusal("timeout", wrong)


def test_timedelta_is_no_number_of_values() -> None:
    """Where the unit is not time, a timedelta is refused."""
    assert "whole number of values" in refusal("max_size", timedelta(seconds=2))
    assert "whole number of values" in refusal("max_size", "0:00:02")


def test_keywords_for_type_checkers_are_the_table() -> None:
    """`CacheOptions` has each option of the table, with its type, and nothing else."""
    hints = get_type_hints(CacheOptions)
    expected: dict[str, object] = {}
    for field in FIELDS:
        kind: Any = field.default.__class__
        if field.metadata["choices"]:
            kind = Literal[field.metadata["choices"]]
        elif field.metadata["is_map"]:
            kind = str | Mapping[str, str]
        elif field.metadata["may_be_forever"]:
            kind = int | timedelta | Forever
        elif field in DURATIONS:
            kind = int | timedelta
        expected[field.name] = kind
    expected["credential_provider"] = CredentialSource | None
    # The keyword `serializer` is `from_url`'s own, since it may also be an object.
    assert get_args(expected.pop("serializer")) == get_args(SerializerName)
    assert hints == expected


@pytest.mark.parametrize("made_by", [AsyncRedisCache, RedisCache])
def test_cache_from_a_url_has_no_bound_unless_it_is_given(
    made_by: type[AsyncRedisCache | RedisCache],
) -> None:
    """`max_size` defaults to 0 in `from_url`."""
    assert taken(made_by.from_url(URL), "max_size") == 0
    assert taken(made_by.from_url(URL, max_size=7), "max_size") == 7


def test_configured_cache_has_the_bound_of_the_contract() -> None:
    """`max_size` is 1000 where `configure` says nothing else, also for a cache that is from a URL."""
    assert taken(configured(URL), "max_size") == 1000
    cache = AsyncRedisCache.from_url(URL)
    cache.configure(ConfigParams())
    assert taken(cache, "max_size") == 1000
