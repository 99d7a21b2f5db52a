"""`options.address_map`: announced addresses, and those that lead to the same servers from here."""

from __future__ import annotations

from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheConfigError
from async_redis_cache._common.address_map import AddressMap

TEXT = (
    "10.0.0.1:7000=localhost:17000,10.0.0.1=gateway 10.0.0.2=203.0.113.7,"
    "\nNode.Example.:6379=[2001:db8::1]:6380, [fd00::1]:7000=a, fd00::2=b"
)


@pytest.mark.parametrize(
    ("announced", "reachable"),
    [
        (("10.0.0.1", 7000), ("localhost", 17000)),
        (("10.0.0.1", 7001), ("gateway", 7001)),
        (("10.0.0.2", 7000), ("203.0.113.7", 7000)),
        (("node.example", 6379), ("2001:db8::1", 6380)),
        (("node.example", 6380), None),
        (("fd00:0::1", 7000), ("a", 7000)),
        (("fd00::1", 7001), None),
        (("fd00::2", 1), ("b", 1)),
        (("localhost", 17000), None),
    ],
)
def test_announced_address_is_mapped_by_the_most_specific_item(
    announced: tuple[str, int], reachable: tuple[str, int] | None
) -> None:
    """An item with a port precedes one of the host alone, which keeps the port; hosts are compared in one spelling."""
    assert AddressMap(TEXT).find(announced) == reachable


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "10.0.0.1=",
        "=localhost",
        "10.0.0.1:=localhost",
        "10.0.0.1:0=localhost",
        "10.0.0.1:70000=localhost",
        "10.0.0.1:x=localhost",
        "10.0.0.1=localhost:17000",
        "10.0.0.1=a 10.0.0.1=b",
        "fd00::1=a fd00:0::1=b",
        "fd00::1::2=a",
        "[fd00::1=a",
        "[fd00::1]7000=a",
        "redis://10.0.0.1=a",
        "10.0.0.1 = localhost",
        "secret@host=a",
    ],
)
def test_option_is_refused_when_it_is_no_address_map(text: str) -> None:
    """BAD_OPTION, without the text, when the cache is configured."""
    with pytest.raises(CacheConfigError, match=r"options\.address_map must list pairs") as caught:
        AsyncRedisCache.from_url("redis+cluster://localhost", address_map=text)
    assert caught.value.code == "BAD_OPTION"
    assert "secret" not in str(caught.value)


def test_option_may_be_a_mapping() -> None:
    """`from_url` takes a mapping for the same text, and refuses the same ones."""
    options: dict[str, Any] = {"address_map": {"10.0.0.1:7000": "localhost:17000", "a": "b"}}
    cache = AsyncRedisCache.from_url("redis+cluster://localhost", **options)
    taken = cache._lifecycle.settings.options.address_map  # pyright: ignore[reportPrivateUsage]
    assert taken == "10.0.0.1:7000=localhost:17000, a=b"
    with pytest.raises(CacheConfigError):
        AsyncRedisCache.from_url("redis+cluster://localhost", address_map={"a": "b:c"})
