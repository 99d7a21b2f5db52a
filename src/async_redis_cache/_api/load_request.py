"""A loading call: its request, its lookup of the stored data, its load and its result."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from async_redis_cache._common.durations import LONGEST, SECOND, Timeout
from async_redis_cache._common.outcomes import raise_first
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.load_options import (
    Caller,
    Condition,
    LoadOptions,
    LoadPolicies,
    LoadPolicy,
)
from async_redis_cache._engine.load_source import LoadResult, LoadSpec, StoredValue
from async_redis_cache._protocol.record import (
    MISSING,
    PLACEHOLDER,
    VALUE,
    Record,
    has_tags,
    is_record,
    record_of,
)
from async_redis_cache._values.codec import Codec, Decoder
from async_redis_cache._values.stored_none import unwrapped

from .cache_entry import Status
from .load_results import bad_shared_type, load_result
from .loaders import Load, Loader, name_of, run, takes_load

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = [
    "NO_LOOKUP",
    "LoadRequest",
    "Lookup",
    "call_of",
    "for_each_key",
    "load_spec",
    "lookup",
    "no_loader",
    "policy_and_decoder",
    "run_load",
    "valid_lookup",
    "with_valid_tags",
]


R = TypeVar("R")
T = TypeVar("T")


def _nothing() -> None:
    """The default callback."""


class LoadRequest(NamedTuple):
    """The arguments of a loading call for one key, and what they resolve to."""

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
    """When the call began, by the clock of the event loop."""
    counters: CacheStats
    """Count the load."""
    on_decided: Callable[[], None] = _nothing
    """See `LoadSource.on_decided`."""
    idle_time: Callable[[], float] = float
    """See `LoadSource.idle_time`."""
    kind: Any = None
    """The type of the value (`type=`), or None."""
    condition: Condition | None = None
    """Of the call; None for that of the policy, if it has one."""


class Lookup(NamedTuple):
    """The stored data of a key, as one call decodes it.

    Attributes:
        value: the decoded value; None if there is none, or if it does not have the type of the call.
        payload: the serialized value.
        record: the record that contained it, if it was in one.
        status: `hit`, or `missing` for a negatively cached key; None if a load is needed.
        now: the server's time, if it was needed.
        since: when the load that found the data began; None if no load did.
    """

    value: Any = None
    payload: bytes = b""
    record: Record | None = None
    status: Status | None = None
    now: int = 0
    since: float | None = None


NO_LOOKUP: Final = Lookup()


def no_loader() -> None:
    """The loader of a call that loads nothing, or of which each key gets another."""


def policy_and_decoder(
    codec: Codec, policies: LoadPolicies, kind: Any, timeout: Timeout, loading: LoadOptions
) -> tuple[LoadPolicy, Decoder]:
    """Check the options of a loading call except tags; return its policy and its decoder.

    Raises:
        CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION, BAD_TYPE.
        CacheUnsupported: `options.foreign_readers` is set.
    """
    if codec.foreign_readers:
        codec.refuse_loads()
    decode = codec.decode_untyped if kind is None else codec.decoder(kind)
    # What `Codec.ttl` checks, without the call for valid milliseconds: this runs on every hit.
    if timeout is not None and not (type(timeout) is int and 0 < timeout <= LONGEST):
        codec.ttl(timeout)
    return (policies.of(loading) if loading else policies.default), decode


async def for_each_key(
    engine: Engine,
    check: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    data: Sequence[bytes | None],
) -> list[R]:
    """Call `check` for each item; concurrently if some of the data has tags, which takes a round trip."""
    if any(read is not None and has_tags(read) for read in data):
        return raise_first(await engine.gather_outcomes(map(check, items)))
    return [await check(item) for item in items]


def lookup(request: LoadRequest, data: bytes) -> Lookup:
    """Decode stored data, without checking its tags and whether it has expired."""
    record = record_of(data) if is_record(data) else None
    if record is None:
        value = request.codec.loads(request.wire_key, data, request.decode)
        return NO_LOOKUP if value is None else Lookup(value, data, None, "hit")
    if record.kind == PLACEHOLDER:
        return NO_LOOKUP
    if record.kind == MISSING:
        return Lookup(None, b"", record, "missing")
    value = request.codec.loads(request.wire_key, record.payload, request.decode)
    return NO_LOOKUP if value is None else Lookup(value, record.payload, record, "hit")


async def valid_lookup(request: LoadRequest, found: Lookup) -> Lookup:
    """Return the lookup, or `NO_LOOKUP` if one of its tags has been invalidated. Does not check whether it has expired."""
    record = found.record
    if record is None or not record.tags:
        return found
    return (
        found
        if await request.engine.freshness.tags_are_current(record, request.since)
        else NO_LOOKUP
    )


async def with_valid_tags(request: LoadRequest, found: Lookup) -> Lookup:
    """Check the tags and the age of a lookup. The status of a stale value is None."""
    found = await valid_lookup(request, found)
    record = found.record
    if record is None:
        return found
    now = 0
    if request.policy.may_refresh or not record.is_lasting:
        now = await request.engine.freshness.now(request.since)
    if record.is_fresh(now):
        return found._replace(now=now)
    if (
        record.kind == VALUE
        and not record.is_from_the_future(now)
        and now < record.fresh_until + request.policy.stale_timeout
    ):
        return found._replace(now=now, status=None)
    return NO_LOOKUP


async def run_load(
    request: LoadRequest,
    data: bytes | None,
    found: Lookup | None,
    *,
    patience: float | None = None,
    force: bool = False,
) -> LoadResult | Lookup | None:
    """Load a value, or use what another process has stored meanwhile; None if `patience` seconds passed first."""
    found = found or NO_LOOKUP
    result = await request.engine.single_flight.load(
        request.wire_key, load_spec(request, data, found, force=force), patience
    )
    if not isinstance(result, StoredValue):
        return result
    stored = lookup(request, result)
    if stored.status is None:
        # The load of another call, for another type, has accepted what was stored.
        raise bad_shared_type(request)
    return stored._replace(since=result.since)


def load_spec(
    request: LoadRequest, data: bytes | None, found: Lookup, *, force: bool = False
) -> LoadSpec:
    """Describe the load of a call to the engine; `data` is what was read."""
    tags = request.codec.tags(request.tags)
    return LoadSpec(
        RequestSource(request, found, tags),
        data,
        request.policy.hard_timeout / SECOND,
        force=force,
        tags=request.codec.wire_tags(tags),
        strict=request.engine.strict,
        since=request.since,
    )


class RequestSource:
    """The `LoadSource` of a loading call.

    Args:
        request: the call.
        found: the stored data, which is kept if the loader returns `Load.not_modified()`.
        tags: the checked tags of the call.
    """

    __slots__ = ("_found", "_request", "_tags")

    def __init__(self, request: LoadRequest, found: Lookup, tags: Iterable[str]) -> None:
        # A load runs on the event loop, whichever thread its caller runs in.
        self._request = request._replace(engine=request.engine.load_engine())
        self._found = found
        self._tags = tags

    @property
    def counters(self) -> CacheStats:
        """See `LoadSource`."""
        return self._request.counters

    async def call_loader(self) -> LoadResult:
        """See `LoadSource`."""
        request = self._request
        loader: Callable[..., Any] = request.loader
        stale = self._found.value
        load = Load(request.key, unwrapped(stale), request.timeout, self._tags)
        load._has_stale = stale is not None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        load._threads = request.engine.threads  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        call = partial(loader, load) if takes_load(loader) else loader
        loaded = await call_of(request.engine, call, in_thread=request.policy.in_thread)
        make_result = partial(load_result, request, self._found, load, loaded)
        return await request.engine.run_in_caller(make_result)

    async def accepts(self, data: bytes, since: float) -> bool:
        """See `LoadSource`."""
        request = self._request
        found = await request.engine.run_in_caller(partial(lookup, request, data))
        return (await with_valid_tags(request._replace(since=since), found)).status is not None

    def may_change_tags(self) -> bool:
        """See `LoadSource`."""
        return takes_load(self._request.loader)

    def on_decided(self) -> None:
        """See `LoadSource`."""
        self._request.on_decided()

    def waits_for_others(self) -> bool:
        """See `LoadSource`."""
        return self._request.on_decided is not _nothing

    def idle_time(self) -> float:
        """See `LoadSource`."""
        return self._request.idle_time()

    def loader_name(self) -> str:
        """See `LoadSource`."""
        return name_of(self._request.loader)


async def call_of(engine: Engine, call: Callable[[], Any], *, in_thread: bool | Caller) -> Any:
    """Call a loader in the thread that the policy says, and await its result if that is awaitable."""
    if in_thread != "caller":
        return await run(call, engine.threads if in_thread else None)
    if inspect.iscoroutinefunction(call):
        return await call()
    loaded = await engine.run_in_caller(call)
    return await loaded if inspect.isawaitable(loaded) else loaded
