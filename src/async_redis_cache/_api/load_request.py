"""What one caller of a loading call asks for, what he finds, and what a load makes of it."""

from __future__ import annotations

import inspect
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin

from async_redis_cache._common.durations import LONGEST, SECOND, Timeout
from async_redis_cache._common.errors import SERVER_FAILURES, CacheInputError
from async_redis_cache._common.outcomes import raise_first
from async_redis_cache._engine.engine import Engine
from async_redis_cache._engine.load_options import Caller, LoadOptions, LoadPolicy
from async_redis_cache._engine.load_source import LoadResult, LoadSpec, NotStorable, StoredValue
from async_redis_cache._protocol.record import (
    MISSING,
    PLACEHOLDER,
    VALUE,
    Record,
    has_tags,
    is_record,
    record_of,
)
from async_redis_cache._runtime.lifecycle import Opened
from async_redis_cache._values.codec import Codec, Decoder

from .cache_entry import CacheEntry, Status
from .loaders import NOT_MODIFIED, Load, Loader, name_of, run, takes_load

__all__ = [
    "NO_LOOKUP",
    "LoadRequest",
    "Lookup",
    "call_of",
    "check_keys",
    "for_each_key",
    "load_spec",
    "lookup",
    "lookup_entry",
    "no_loader",
    "result_entry",
    "result_value",
    "run_load",
    "valid_lookup",
    "with_valid_tags",
]


R = TypeVar("R")
T = TypeVar("T")


def _nothing() -> None:
    """Nobody wants to know."""


class LoadRequest(NamedTuple):
    """What one caller of a loading call asks for."""

    engine: Engine
    codec: Codec
    policy: LoadPolicy
    decode: Decoder
    key: str
    wire_key: bytes
    loader: Loader
    timeout: Timeout
    tags: Iterable[str]
    since: float
    """When it was asked, by the loop's clock."""
    decided: Callable[[], None] = _nothing
    """See `LoadSource.on_decided`."""
    idle: Callable[[], float] = float
    """See `LoadSource.idle_time`."""
    kind: Any = None
    """The type of the value, where the caller says one."""


class Lookup(NamedTuple):
    """What stands on the server, as one caller sees it.

    Attributes:
        value: None where there is none, or it does not suit.
        payload: of the value.
        record: what it stood in, if in one.
        status: `missing` where there is none, and that is known.
        now: the server's time, where it was needed.
        since: since when the load has asked that found it, where one did.
    """

    value: Any = None
    payload: bytes = b""
    record: Record | None = None
    status: Status | None = None
    now: int = 0
    since: float | None = None


NO_LOOKUP: Final = Lookup()


def no_loader() -> None:
    """Where nothing is loaded, or by another way."""


def check_keys(keys: Iterable[str]) -> Iterable[str]:
    """Several keys, and not one that could be taken for them.

    Raises:
        CacheInputError: BAD_KEY.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CacheInputError("BAD_KEY", "several keys are taken, as a list")
    return keys


def policy_and_decoder(
    opened: Opened, kind: Any, timeout: Timeout, loading: LoadOptions
) -> tuple[LoadPolicy, Decoder]:
    """The policy and the decoder of a call that loads, its tags aside.

    Raises:
        CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION, BAD_TYPE.
        CacheUnsupported: `options.foreign_readers` is true.
    """
    codec = opened.codec
    if codec.foreign_readers:
        codec.refuse_loads()
    decode = codec.decode_untyped if kind is None else codec.decoder(kind)
    # As `Codec.life` does, without a call for most: caches do this all day.
    if timeout is not None and not (type(timeout) is int and 0 < timeout <= LONGEST):
        codec.ttl(timeout)
    return (opened.policies.of(loading) if loading else opened.policies.default), decode


async def for_each_key(
    engine: Engine,
    judge: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    data: Sequence[bytes | None],
) -> list[R]:
    """What is said of each item, of which this data was read: at once, where the server is asked."""
    if any(one is not None and has_tags(one) for one in data):
        return raise_first(await engine.gather_outcomes(map(judge, items)))
    return [await judge(item) for item in items]


def lookup(asked: LoadRequest, data: bytes) -> Lookup:
    """What this data is, its time aside."""
    record = record_of(data) if is_record(data) else None
    if record is None:
        value = asked.codec.loads(asked.wire_key, data, asked.decode)
        return NO_LOOKUP if value is None else Lookup(value, data, None, "hit")
    if record.kind == PLACEHOLDER:
        return NO_LOOKUP
    if record.kind == MISSING:
        return Lookup(None, b"", record, "missing")
    value = asked.codec.loads(asked.wire_key, record.payload, asked.decode)
    return NO_LOOKUP if value is None else Lookup(value, record.payload, record, "hit")


async def valid_lookup(asked: LoadRequest, found: Lookup) -> Lookup:
    """What was found, its time aside, unless one of its tags was invalidated."""
    record = found.record
    if record is None or not record.tags:
        return found
    return (
        found if await asked.engine.freshness.tags_are_current(record, asked.since) else NO_LOOKUP
    )


async def with_valid_tags(asked: LoadRequest, found: Lookup) -> Lookup:
    """What was found, now: where its time is over, its status is None, and it may have a value."""
    found = await valid_lookup(asked, found)
    record = found.record
    if record is None:
        return found
    now = 0
    if asked.policy.may_refresh or not record.is_lasting:
        now = await asked.engine.freshness.now(asked.since)
    if record.is_fresh(now):
        return found._replace(now=now)
    if (
        record.kind == VALUE
        and not record.is_from_the_future(now)
        and now < record.fresh_until + asked.policy.stale_timeout
    ):
        return found._replace(now=now, status=None)
    return NO_LOOKUP


async def run_load(
    asked: LoadRequest,
    data: bytes | None,
    found: Lookup | None,
    *,
    patience: float | None = None,
    force: bool = False,
) -> LoadResult | Lookup | None:
    """What was loaded, or what another has stored meanwhile; None where patience ended first."""
    found = found or NO_LOOKUP
    result = await asked.engine.single_flight.load(
        asked.wire_key, load_spec(asked, data, found, force=force), patience
    )
    if not isinstance(result, StoredValue):
        return result
    stored = lookup(asked, result)
    if stored.status is None:
        # A load that another caller began, for another type, was answered by what had been stored.
        raise _bad_type()
    return stored._replace(since=result.since)


def load_spec(
    asked: LoadRequest, data: bytes | None, found: Lookup, *, force: bool = False
) -> LoadSpec:
    """How to load what this call requests, of which the server has this data."""
    tags = asked.codec.tags(asked.tags)
    return LoadSpec(
        RequestSource(asked, found, tags),
        data,
        asked.policy.hard_timeout / SECOND,
        force=force,
        tags=asked.codec.wire_tags(tags),
        strict=asked.engine.strict,
        since=asked.since,
    )


class RequestSource:
    """The `LoadSource` of a loading call.

    Args:
        asked: the call.
        found: what is stored, for a loader that returns `Load.not_modified()`.
        tags: those of the call, checked.
    """

    __slots__ = ("_asked", "_found", "_tags")

    def __init__(self, asked: LoadRequest, found: Lookup, tags: Iterable[str]) -> None:
        # A load runs on the loop, whichever thread its caller runs in.
        self._asked = asked._replace(engine=asked.engine.load_engine())
        self._found = found
        self._tags = tags

    async def call_loader(self) -> LoadResult:
        """See `LoadSource`."""
        asked = self._asked
        loader: Callable[..., Any] = asked.loader
        steering = Load(asked.key, self._found.value, asked.timeout, self._tags)
        steering._threads = asked.engine.threads  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        call = partial(loader, steering) if takes_load(loader) else loader
        loaded = await call_of(asked.engine, call, in_thread=asked.policy.in_thread)
        make_result = partial(_load_result, asked, self._found, steering, loaded)
        return await asked.engine.aside(make_result)

    async def accepts(self, data: bytes, since: float) -> bool:
        """See `LoadSource`."""
        asked = self._asked
        found = await asked.engine.aside(partial(lookup, asked, data))
        return (await with_valid_tags(asked._replace(since=since), found)).status is not None

    def may_change_tags(self) -> bool:
        """See `LoadSource`."""
        return takes_load(self._asked.loader)

    def on_decided(self) -> None:
        """See `LoadSource`."""
        self._asked.decided()

    def idle_time(self) -> float:
        """See `LoadSource`."""
        return self._asked.idle()

    def loader_name(self) -> str:
        """See `LoadSource`."""
        return name_of(self._asked.loader)


async def call_of(engine: Engine, call: Callable[[], Any], *, in_thread: bool | Caller) -> Any:
    """What a loader gives, called in the thread that the policy says."""
    if in_thread != "caller":
        return await run(call, engine.threads if in_thread else None)
    if inspect.iscoroutinefunction(call):
        return await call()
    loaded = await engine.aside(call)
    return await loaded if inspect.isawaitable(loaded) else loaded


def _load_result(asked: LoadRequest, found: Lookup, steering: Load[Any], loaded: Any) -> LoadResult:
    codec, policy, wire_key = asked.codec, asked.policy, asked.wire_key
    if loaded is None:
        bears = codec.wire_tags(steering.tags)
        keep = steering.cached and policy.missing_timeout > 0
        return LoadResult(MISSING, b"", policy.missing_timeout, 0, is_kept=keep, tags=bears)
    if loaded is NOT_MODIFIED:
        payload = found.payload
    else:
        try:
            payload = codec.dumps(wire_key, loaded)
        except CacheInputError as error:
            _refuse_single_use(loaded)
            not_kept = NotStorable(loaded)
            _not_stored_as(asked, not_kept)
            asked.engine.result_not_stored(name_of(asked.loader), error.code)
            bears = codec.wire_tags(steering.tags)
            return LoadResult(VALUE, b"", 0, 0, is_kept=False, tags=bears, not_kept=not_kept)
        if codec.loaded(wire_key, payload, asked.decode) is None:
            raise _bad_type()
    life = policy.ttl_with_jitter(codec.ttl(steering.timeout), random.random)
    bears = codec.wire_tags(steering.tags)
    return LoadResult(
        VALUE, payload, life, policy.stale_timeout, is_kept=steering.cached, tags=bears
    )


def _bad_type() -> CacheInputError:
    return CacheInputError("BAD_TYPE", "what was loaded does not fit the type")


def _refuse_single_use(loaded: Any) -> None:
    """Refuse what only one caller could use, and only once: several may get it.

    Raises:
        CacheInputError: NOT_SERIALIZABLE.
    """
    kind = type(loaded).__name__
    if isinstance(loaded, (Awaitable, Iterator, AsyncIterator)):
        if isinstance(loaded, Coroutine):
            loaded.close()
        problem = f"a loader's result is a {kind}, which can be used only once"
        raise CacheInputError("NOT_SERIALIZABLE", problem)


def _not_stored_as(asked: LoadRequest, not_kept: NotStorable) -> Any:
    """A result that cannot be stored, if it fits the type as far as an object can show that.

    Raises:
        CacheInputError: BAD_TYPE.
    """
    if not _may_be(not_kept.value, asked.kind):
        raise _bad_type()
    return not_kept.value


def _may_be(value: Any, kind: Any) -> bool:
    """Whether an object may be of this type: the parts of a container are not looked at."""
    origin = get_origin(kind)
    if origin is Union or origin is UnionType:
        return any(_may_be(value, one) for one in get_args(kind))
    if origin is Annotated:
        return _may_be(value, get_args(kind)[0])
    kind = origin or kind
    try:
        return not isinstance(kind, type) or isinstance(
            value, (kind, int) if kind is float else kind
        )
    except TypeError:
        # A TypedDict, or a protocol that says of no object whether it is one.
        return True


def result_value(asked: LoadRequest, result: LoadResult | Lookup | None) -> Any:
    """The value that a call returns.

    Raises:
        CacheInputError: BAD_TYPE: a load that another caller began gave what does not fit the type.
    """
    if not isinstance(result, LoadResult):
        return None if result is None else result.value
    if result.kind != VALUE:
        return None
    if result.not_kept is not None:
        return _not_stored_as(asked, result.not_kept)
    value = asked.codec.loaded(asked.wire_key, result.payload, asked.decode)
    if value is None:
        raise _bad_type()
    return value


async def result_entry(asked: LoadRequest, result: LoadResult | Lookup | None) -> CacheEntry[Any]:
    """What a call that loads gives, with all that is known about it."""
    if isinstance(result, Lookup):
        if result.since is not None:
            asked = asked._replace(since=result.since)
        try:
            return await lookup_entry(asked, result)
        except SERVER_FAILURES as error:
            asked.engine.continue_without_server(error)
            # There is a value to give, and only the server could tell the rest.
            return CacheEntry(result.value, result.status or "missing", None, None)
    value = result_value(asked, result)
    if result is None or value is None:
        return CacheEntry(None, "missing", 0, (result and result.ttl) or None)
    return CacheEntry(value, "loaded", 0, result.ttl if result.is_kept else 0)


async def lookup_entry(asked: LoadRequest, found: Lookup) -> CacheEntry[Any]:
    """What was found, with all that is known about it."""
    status = found.status or "missing"
    record = found.record
    if record is None:
        left = await asked.engine.time_to_live(asked.wire_key, asked.since)
        return CacheEntry(found.value, status, None, left)
    now = found.now or await asked.engine.freshness.now(asked.since)
    return CacheEntry(found.value, status, now - record.stored_at, record.fresh_until - now)
