"""What a load has returned: made of the result of its loader, and given to its callers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from async_redis_cache._common.durations import LONGEST
from async_redis_cache._common.errors import SERVER_FAILURES, CacheInputError
from async_redis_cache._engine.load_source import LoadResult, NotStorable
from async_redis_cache._protocol.record import MISSING, VALUE
from async_redis_cache._values.codec import type_name
from async_redis_cache._values.stored_none import unwrapped

from .cache_entry import CacheEntry
from .loaders import ABSENT, NOT_MODIFIED, Load, name_of

if TYPE_CHECKING:
    from .load_request import LoadRequest, Lookup

__all__ = [
    "bad_shared_type",
    "load_result",
    "lookup_entry",
    "result_entry",
    "result_or_none",
    "result_value",
]


def load_result(request: LoadRequest, found: Lookup, load: Load[Any], loaded: Any) -> LoadResult:
    """Serialize the result of a loader.

    Raises:
        CacheInputError: BAD_TYPE, NOT_SERIALIZABLE, BAD_TAG, BAD_TIMEOUT.
    """
    codec, policy, wire_key = request.codec, request.policy, request.wire_key
    if loaded is ABSENT or (loaded is None and not codec.caches_none):
        tags = codec.wire_tags(load.tags)
        keep = policy.missing_timeout > 0 and _is_kept(request, load, None)
        return LoadResult(MISSING, b"", policy.missing_timeout, 0, is_kept=keep, tags=tags)
    if loaded is NOT_MODIFIED:
        payload = found.payload
    else:
        try:
            payload = codec.dumps(wire_key, loaded)
        except CacheInputError as error:
            _refuse_single_use(request, loaded)
            not_kept = NotStorable(loaded)
            _unstored_value(request, not_kept)
            if _is_kept(request, load, loaded):
                request.counters.uncacheable_results += 1
                request.engine.result_not_stored(name_of(request.loader), error.code)
            tags = codec.wire_tags(load.tags)
            return LoadResult(VALUE, b"", 0, 0, is_kept=False, tags=tags, uncacheable=not_kept)
        if codec.loaded(wire_key, payload, request.decode) is None:
            raise _bad_type(request, loaded)
    if loaded is None and policy.missing_timeout:
        ttl = policy.missing_timeout
    else:
        ttl = policy.ttl_with_jitter(codec.ttl(load.timeout), random.random)
    tags = codec.wire_tags(load.tags)
    value = unwrapped(found.value) if loaded is NOT_MODIFIED else loaded
    keep = _is_kept(request, load, value)
    return LoadResult(VALUE, payload, ttl, policy.stale_timeout, is_kept=keep, tags=tags)


def _is_kept(request: LoadRequest, load: Load[Any], value: Any) -> bool:
    """Return whether to store a result, as far as the loader and the condition of the call decide it.

    Raises:
        CacheInputError: BAD_LOAD_OPTION, the condition returned an awaitable, which is always true.
        BaseException: raised by the condition.
    """
    condition = request.condition or request.policy.condition
    if condition is None or not load.cached:
        return load.cached
    verdict = condition(value)
    if isinstance(verdict, Awaitable):
        if isinstance(verdict, Coroutine):
            verdict.close()
        raise CacheInputError("BAD_LOAD_OPTION", "condition returned an awaitable, expected a bool")
    return bool(verdict)


def _bad_type(request: LoadRequest, loaded: Any) -> CacheInputError:
    returned, name = type(loaded).__name__, name_of(request.loader)
    problem = f"the loader `{name}` returned `{returned}`, expected {_expected(request)}"
    return CacheInputError("BAD_TYPE", problem)


def bad_shared_type(request: LoadRequest) -> CacheInputError:
    """Return the error of a caller that has joined a load whose value does not have the type of its call."""
    problem = (
        f"the load shared with another call has no value of the type expected: {_expected(request)}"
    )
    return CacheInputError("BAD_TYPE", problem)


def _expected(request: LoadRequest) -> str:
    return "a value that is not null" if request.kind is None else f"`{type_name(request.kind)}`"


def _refuse_single_use(request: LoadRequest, loaded: Any) -> None:
    """Refuse a result that can be used only once, since several callers may get it.

    Raises:
        CacheInputError: NOT_SERIALIZABLE.
    """
    kind = type(loaded).__name__
    if isinstance(loaded, (Awaitable, Iterator, AsyncIterator)):
        if isinstance(loaded, Coroutine):
            loaded.close()
        name = name_of(request.loader)
        problem = f"the loader `{name}` returned `{kind}`, which can be used only once"
        raise CacheInputError("NOT_SERIALIZABLE", problem)


def _unstored_value(request: LoadRequest, not_kept: NotStorable) -> Any:
    """Return a result that cannot be stored, after checking its type as far as `isinstance` can.

    Raises:
        CacheInputError: BAD_TYPE.
    """
    if not _may_be(not_kept.value, request.kind):
        raise _bad_type(request, not_kept.value)
    return not_kept.value


def _may_be(value: Any, kind: Any) -> bool:
    """Return whether an object may be of a type. The items of a container are not checked."""
    origin = get_origin(kind)
    if origin is Union or origin is UnionType:
        return any(_may_be(value, member) for member in get_args(kind))
    if origin is Annotated:
        return _may_be(value, get_args(kind)[0])
    kind = origin or kind
    try:
        return not isinstance(kind, type) or isinstance(
            value, (kind, int) if kind is float else kind
        )
    except TypeError:
        # A TypedDict, or a protocol that is not checkable at run time.
        return True


def result_value(request: LoadRequest, result: LoadResult | Lookup | None) -> Any:
    """Return the value for the caller, None if there is none.

    Raises:
        CacheInputError: as for `result_or_none`.
    """
    return unwrapped(result_or_none(request, result))


def result_or_none(request: LoadRequest, result: LoadResult | Lookup | None) -> Any:
    """Return the value, `STORED_NONE` if that is None, and None if there is none.

    Raises:
        CacheInputError: BAD_TYPE, if the load of another call returned a value of another type.
    """
    if not isinstance(result, LoadResult):
        return None if result is None else result.value
    if result.kind != VALUE:
        return None
    if result.uncacheable is not None:
        return _unstored_value(request, result.uncacheable)
    value = request.codec.loaded(request.wire_key, result.payload, request.decode)
    if value is None:
        raise bad_shared_type(request)
    return value


async def result_entry(request: LoadRequest, result: LoadResult | Lookup | None) -> CacheEntry[Any]:
    """Return the entry for the caller of a loading call."""
    if result is not None and not isinstance(result, LoadResult):
        if result.since is not None:
            request = request._replace(since=result.since)
        try:
            return await lookup_entry(request, result)
        except SERVER_FAILURES as error:
            request.engine.continue_without_server(error)
            # The value can be returned, but its age and remaining time are on the server.
            return CacheEntry(unwrapped(result.value), result.status or "missing", None, None)
    value = result_or_none(request, result)
    if result is None or value is None:
        return CacheEntry(None, "missing", 0, _unless_forever((result and result.ttl) or None))
    return CacheEntry(
        unwrapped(value), "loaded", 0, _unless_forever(result.ttl) if result.is_kept else 0
    )


async def lookup_entry(request: LoadRequest, found: Lookup) -> CacheEntry[Any]:
    """Return the entry of a lookup."""
    status = found.status or "missing"
    record = found.record
    if record is None:
        remaining = await request.engine.time_to_live(request.wire_key, request.since)
        return CacheEntry(unwrapped(found.value), status, None, _unless_forever(remaining))
    now = found.now or await request.engine.freshness.now(request.since)
    remaining = _unless_forever(record.fresh_until - now)
    # The clock may have been set back since, or is that of another node of a cluster.
    age = max(0, now - record.stored_at)
    return CacheEntry(unwrapped(found.value), status, age, remaining)


def _unless_forever(ttl: int | None) -> int | None:
    return None if ttl is None or ttl > LONGEST else ttl
