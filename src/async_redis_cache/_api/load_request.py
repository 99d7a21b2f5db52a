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

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheInputError
from async_redis_cache._common.options import LONGEST
from async_redis_cache._common.outcomes import first_raised
from async_redis_cache._engine.engine import Engine
from async_redis_cache._engine.in_flight_load import Wanted
from async_redis_cache._engine.load_lease import NotKept, Product, Stored
from async_redis_cache._engine.load_options import Caller, LoadOptions, LoadPolicy
from async_redis_cache._engine.single_flight import AWAY
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
from .function_names import name_of
from .loaders import NOT_MODIFIED, Load, Loader, run, takes_load

__all__ = [
    "NOTHING",
    "Asked",
    "Found",
    "call_of",
    "each",
    "entry_of",
    "found_entry",
    "judged",
    "load",
    "look",
    "many",
    "no_loader",
    "valid",
    "value_of",
    "wanted",
]


R = TypeVar("R")
T = TypeVar("T")


def _nothing() -> None:
    """Nobody wants to know."""


class Asked(NamedTuple):
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
    """See `Wanted`."""
    idle: Callable[[], float] = float
    """See `Wanted`."""
    kind: Any = None
    """The type of the value, where the caller says one."""


class Found(NamedTuple):
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


NOTHING: Final = Found()
_SECOND: Final = 1000


def no_loader() -> None:
    """Where nothing is loaded, or by another way."""


def many(keys: Iterable[str]) -> Iterable[str]:
    """Several keys, and not one that could be taken for them.

    Raises:
        CacheInputError: BAD_KEY.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CacheInputError("BAD_KEY", "several keys are taken, as a list")
    return keys


def terms(
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
        codec.life(timeout)
    return (opened.policies.of(loading) if loading else opened.policies.default), decode


async def each(
    engine: Engine,
    judge: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    data: Sequence[bytes | None],
) -> list[R]:
    """What is said of each item, of which this data was read: at once, where the server is asked."""
    if any(one is not None and has_tags(one) for one in data):
        return first_raised(await engine.outcomes(map(judge, items)))
    return [await judge(item) for item in items]


def look(asked: Asked, data: bytes) -> Found:
    """What this data is, its time aside."""
    record = record_of(data) if is_record(data) else None
    if record is None:
        value = asked.codec.loads(asked.wire_key, data, asked.decode)
        return NOTHING if value is None else Found(value, data, None, "hit")
    if record.kind == PLACEHOLDER:
        return NOTHING
    if record.kind == MISSING:
        return Found(None, b"", record, "missing")
    value = asked.codec.loads(asked.wire_key, record.payload, asked.decode)
    return NOTHING if value is None else Found(value, record.payload, record, "hit")


async def valid(asked: Asked, found: Found) -> Found:
    """What was found, its time aside, unless one of its tags was invalidated."""
    record = found.record
    if record is None or not record.tags:
        return found
    return found if await asked.engine.freshness.tags_hold(record, asked.since) else NOTHING


async def judged(asked: Asked, found: Found) -> Found:
    """What was found, now: where its time is over, its status is None, and it may have a value."""
    found = await valid(asked, found)
    record = found.record
    if record is None:
        return found
    now = 0
    if asked.policy.looks_ahead or not record.is_lasting:
        now = await asked.engine.freshness.now(asked.since)
    if record.is_fresh(now):
        return found._replace(now=now)
    if (
        record.kind == VALUE
        and not record.is_from_the_future(now)
        and now < record.fresh_until + asked.policy.stale
    ):
        return found._replace(now=now, status=None)
    return NOTHING


async def load(
    asked: Asked,
    data: bytes | None,
    found: Found | None,
    *,
    patience: float | None = None,
    force: bool = False,
) -> Product | Found | None:
    """What was loaded, or what another has stored meanwhile; None where patience ended first."""
    found = found or NOTHING
    result = await asked.engine.load(
        asked.wire_key, wanted(asked, data, found, force=force), patience
    )
    if not isinstance(result, Stored):
        return result
    stored = look(asked, result)
    if stored.status is None:
        # A load that another caller began, for another type, was answered by what had been stored.
        raise _bad_type()
    return stored._replace(since=result.since)


def wanted(asked: Asked, data: bytes | None, found: Found, *, force: bool = False) -> Wanted:
    tags = asked.codec.tags(asked.tags)
    # A load runs on the loop, wherever its caller is.
    there = asked._replace(engine=asked.engine.load_side())

    async def produce() -> Product:
        return await produced(there, found, tags)

    async def suits(stored: bytes, since: float) -> bool:
        found = await there.engine.aside(partial(look, there, stored))
        return (await judged(there._replace(since=since), found)).status is not None

    longest = asked.policy.hard / _SECOND
    return Wanted(
        produce,
        suits,
        data,
        longest,
        force=force,
        tags=asked.codec.wire_tags(tags),
        steered=partial(takes_load, asked.loader),
        strict=asked.engine.strict,
        decided=asked.decided,
        since=asked.since,
        idle=asked.idle,
        function=partial(name_of, asked.loader),
    )


async def produced(asked: Asked, found: Found, tags: Iterable[str]) -> Product:
    """Call the loader, and make a product of what it gives."""
    steering = Load(asked.key, found.value, asked.timeout, tags)
    steering._threads = asked.engine.threads  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    given: Callable[..., Any] = asked.loader
    call = partial(given, steering) if takes_load(given) else given
    loaded = await call_of(asked.engine, call, in_thread=asked.policy.in_thread)
    return await asked.engine.aside(partial(_product, asked, found, steering, loaded))


async def call_of(engine: Engine, call: Callable[[], Any], *, in_thread: bool | Caller) -> Any:
    """What a loader gives, called in the thread that the policy says."""
    if in_thread != "caller":
        return await run(call, engine.threads if in_thread else None)
    if inspect.iscoroutinefunction(call):
        return await call()
    loaded = await engine.aside(call)
    return await loaded if inspect.isawaitable(loaded) else loaded


def _product(asked: Asked, found: Found, steering: Load[Any], loaded: Any) -> Product:
    codec, policy, wire_key = asked.codec, asked.policy, asked.wire_key
    if loaded is None:
        bears = codec.wire_tags(steering.tags)
        keep = steering.cached and policy.missing > 0
        return Product(MISSING, b"", policy.missing, 0, keep=keep, tags=bears)
    if loaded is NOT_MODIFIED:
        payload = found.payload
    else:
        try:
            payload = codec.dumps(wire_key, loaded)
        except CacheInputError as error:
            _refuse_single_use(loaded)
            not_kept = NotKept(loaded)
            _not_kept_as(asked, not_kept)
            asked.engine.result_not_kept(name_of(asked.loader), error.code)
            bears = codec.wire_tags(steering.tags)
            return Product(VALUE, b"", 0, 0, keep=False, tags=bears, not_kept=not_kept)
        if codec.loaded(wire_key, payload, asked.decode) is None:
            raise _bad_type()
    life = policy.life_of(codec.life(steering.timeout), random.random)
    bears = codec.wire_tags(steering.tags)
    return Product(VALUE, payload, life, policy.stale, keep=steering.cached, tags=bears)


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


def _not_kept_as(asked: Asked, not_kept: NotKept) -> Any:
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


def value_of(asked: Asked, result: Product | Found | None) -> Any:
    """The value that a call returns.

    Raises:
        CacheInputError: BAD_TYPE: a load that another caller began gave what does not fit the type.
    """
    if not isinstance(result, Product):
        return None if result is None else result.value
    if result.kind != VALUE:
        return None
    if result.not_kept is not None:
        return _not_kept_as(asked, result.not_kept)
    value = asked.codec.loaded(asked.wire_key, result.payload, asked.decode)
    if value is None:
        raise _bad_type()
    return value


async def entry_of(asked: Asked, result: Product | Found | None) -> CacheEntry[Any]:
    """What a call that loads gives, with all that is known about it."""
    if isinstance(result, Found):
        if result.since is not None:
            asked = asked._replace(since=result.since)
        try:
            return await found_entry(asked, result)
        except AWAY as error:
            asked.engine.go_on_after(error)
            # There is a value to give, and only the server could tell the rest.
            return CacheEntry(result.value, result.status or "missing", None, None)
    value = value_of(asked, result)
    if result is None or value is None:
        return CacheEntry(None, "missing", 0, (result and result.life) or None)
    return CacheEntry(value, "loaded", 0, result.life if result.keep else 0)


async def found_entry(asked: Asked, found: Found) -> CacheEntry[Any]:
    """What was found, with all that is known about it."""
    status = found.status or "missing"
    record = found.record
    if record is None:
        left = await asked.engine.time_to_live(asked.wire_key, asked.since)
        return CacheEntry(found.value, status, None, left)
    now = found.now or await asked.engine.freshness.now(asked.since)
    return CacheEntry(found.value, status, now - record.stored_at, record.fresh_until - now)
