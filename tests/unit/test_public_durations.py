"""Every public parameter that is a duration takes a timedelta."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

import async_redis_cache
from async_redis_cache import (
    AsyncRedisCache,
    CacheEntry,
    CacheInputError,
    CacheOptions,
    IAsyncCache,
    LoadOptions,
    Namespace,
    RedisCache,
    SyncNamespace,
    cached,
)
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadPolicies

DURATION = re.compile(r"(^|_)(timeout|ttl|wait|age|heartbeat|interval|delay|duration|expires?)$")
"""The names that parameters for durations have."""
CACHES = (AsyncRedisCache, RedisCache)
NAMESPACES = (Namespace, SyncNamespace)
OTHERS = (IAsyncCache, CacheEntry)
"""The protocol of the contract, whose timeouts are milliseconds, and a result."""
SECONDS = timedelta(seconds=90)


def members(kind: Any) -> frozenset[Any]:
    """The types that an annotation accepts."""
    if get_origin(kind) not in {Union, UnionType}:
        return frozenset({kind})
    found: set[Any] = set()
    for member in get_args(kind):
        found |= members(member)
    return frozenset(found)


def public_functions() -> Iterator[tuple[str, Any]]:
    """The public functions, and the methods of the public classes."""
    for name in async_redis_cache.__all__:
        exported = getattr(async_redis_cache, name)
        if inspect.isfunction(exported):
            yield name, exported

        if inspect.isclass(exported) and exported not in OTHERS:
            for method_name, method in inspect.getmembers(exported, inspect.isfunction):
                module = getattr(method, "__module__", None) or ""
                is_public = not method_name.startswith("_") or method_name == "__init__"
                if is_public and module.startswith("async_redis_cache"):
                    yield f"{name}.{method_name}", method


PARAMETERS = [
    pytest.param(
        eval(parameter.annotation, function.__globals__),
        id=f"{name}-{parameter.name}",
    )
    for name, function in public_functions()
    for parameter in inspect.signature(function).parameters.values()
    if DURATION.search(parameter.name)
]
OPTIONS = [
    pytest.param(kind, id=f"{options.__name__}-{name}")
    for options in (CacheOptions, LoadOptions)
    for name, kind in get_type_hints(options).items()
    if DURATION.search(name)
]


@pytest.mark.parametrize("annotation", [*PARAMETERS, *OPTIONS])
def test_annotation_has_timedelta(annotation: Any) -> None:
    """A parameter with the name of a duration accepts a timedelta and a number."""
    accepted = members(annotation)
    assert timedelta in accepted
    assert accepted & {int, float}


def test_all_durations_are_found() -> None:
    """The names above find each method that takes a TTL, and each option in milliseconds."""
    found = {str(parameter.id) for parameter in (*PARAMETERS, *OPTIONS)}
    ttls = (
        *("set", "add", "incr", "decr", "set_many", "get_or_load", "get_or_load_many"),
        *("get_or_load_entry", "refresh", "touch", "cached"),
    )
    timeouts = (
        *("store", "add", "incr", "decr", "store_many", "retrieve_or_load", "refresh"),
        *("retrieve_or_load_many", "retrieve_or_load_entry", "touch"),
    )
    expected = {f"{kind.__name__}.{name}-ttl" for kind in NAMESPACES for name in ttls}
    expected |= {f"{kind.__name__}.{name}-timeout" for kind in CACHES for name in timeouts}
    expected |= {f"{kind.__name__}.namespace-ttl" for kind in CACHES} | {"cached-timeout"}
    expected |= {
        f"CacheOptions-{field.name}"
        for field in Options.__dataclass_fields__.values()
        if field.metadata["unit"] == "ms"
    }
    assert expected <= found


@pytest.mark.parametrize(
    "name", [name for name in get_type_hints(LoadOptions) if DURATION.search(name)]
)
def test_load_option_may_be_a_timedelta(name: Any) -> None:
    """A timedelta means its milliseconds in a load option; a negative one is refused."""
    policies = LoadPolicies(Options())
    loading: Any = {name: SECONDS}
    assert getattr(policies.of(loading), name) == 90_000
    with pytest.raises(CacheInputError):
        policies.of({name: -SECONDS})  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


def test_decorators_and_namespaces_check_durations_at_once() -> None:
    """A negative timedelta is refused where a decorator is applied or a namespace is created."""
    cache = AsyncRedisCache()
    for call in (
        lambda: cached(cache, timeout=-SECONDS),
        lambda: cached(cache, stale_timeout=-SECONDS),
        lambda: cache.namespace("n", ttl=-SECONDS),
        lambda: cache.namespace("n", missing_timeout=-SECONDS),
        lambda: cache.namespace("n").cached(ttl=-SECONDS),
        lambda: cache.namespace("n").cached(stale_timeout=-SECONDS),
    ):
        with pytest.raises(CacheInputError) as caught:
            call()
        assert caught.value.code == "BAD_TIMEOUT"
