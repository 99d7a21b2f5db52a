"""Views: caches that share the engine of another one, and have keys, defaults and counters of their own.

A view of an open cache runs the methods of the cache with another codec and other load policies. So what a namespace
does is what the cache does, and a cache pays nothing for having namespaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from async_redis_cache._common.durations import Forever
from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import CacheConfigError, CacheError
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._common.pip_services import Context
from async_redis_cache._common.stats import Counters, Part
from async_redis_cache._engine.key_scan import KeyScan
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._runtime.lifecycle import Lifecycle, Opened
from async_redis_cache._values.serializers import Serializer

from .openable import Openable

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

__all__ = ["ViewOptions", "function_view_of", "next_keys", "view_of"]

C = TypeVar("C")

_NO_OPTIONS: Final[LoadOptions] = {}


class ViewOptions(NamedTuple):
    """In what a view differs from its cache.

    Attributes:
        prefix: of its keys, after the `key_prefix` of the cache.
        timeout: the default TTL in milliseconds, or FOREVER; None for that of the cache.
        serializer: None for that of the cache.
        near: whether values are read from the near cache; None for "if there is one".
        long_keys: what becomes of keys that the cache refuses.
        cache_none: whether None is a value.
        loading: the default load options, except tags.
    """

    prefix: str = ""
    timeout: int | Forever | None = None
    serializer: Serializer | SerializerName | None = None
    near: bool | None = None
    long_keys: LongKeys = "raise"
    cache_none: bool = False
    loading: LoadOptions = _NO_OPTIONS


class _ViewLifecycle:
    """The lifecycle of a view: open while its cache is.

    It has all members of `Lifecycle` that are used after `open`.
    """

    def __init__(self, parent: Lifecycle, options: ViewOptions, counters: Counters) -> None:
        self._parent = parent
        self._options = options
        self._counters = counters
        self._derived: tuple[Opened | None, Opened | None] = (None, None)
        """The parts of the open cache, and those of the view. One attribute, since several threads replace it."""

    def __repr__(self) -> str:
        return f"{self._options.prefix!r} of {self._parent!r}"

    @property
    def name(self) -> str:
        """The name of the cache."""
        return self._parent.name

    def is_open(self) -> bool:
        """Return whether the cache is open."""
        return self._parent.is_open()

    def engine(self) -> Engine | None:
        """Return the engine if the cache is open."""
        return self._parent.engine()

    def endpoint(self) -> Endpoint | None:
        """Return the endpoint if the cache is open."""
        return self._parent.endpoint()

    def ready(self) -> Opened:
        """Return the parts of the view; the cache has to be open.

        Raises:
            CacheStateError: NOT_OPENED, WRONG_LOOP.
            CacheConfigError: BAD_OPTION, the cache has been configured so that it cannot have this view.
        """
        opened = self._parent.ready()
        parent, derived = self._derived
        if derived is None or parent is not opened:
            derived = self._derive(opened)
            self._derived = opened, derived
        return derived

    def _derive(self, opened: Opened) -> Opened:
        options = self._options
        engine = opened.engine
        if options.near and not engine.has_near:
            problem = "near=True of a namespace requires options.near_cache_enabled"
            raise CacheConfigError("BAD_OPTION", problem)
        codec = opened.codec.of_namespace(
            options.prefix,
            self._counters,
            timeout=options.timeout,
            serializer=options.serializer,
            long_keys=options.long_keys,
            cache_none=options.cache_none,
        )
        return opened._replace(
            engine=engine.without_near() if options.near is False else engine,
            codec=codec,
            policies=opened.policies.with_defaults(options.loading),
        )


def view_of(cache: C, name: str, options: ViewOptions) -> C:
    """Return a view of a cache for the namespace with this name.

    The view is no instance that anything may open or close: its cache does that.
    """

    def derive(attributes: dict[str, Any]) -> None:
        attributes["_lifecycle"] = _ViewLifecycle(
            attributes["_lifecycle"], options, attributes["_counters"]
        )

    view = _view(cache, Part(name), derive)
    if not isinstance(view, Openable):
        # Loading methods of a RedisCache say where loaders run, so the default of its asynchronous cache never applies.
        vars(view)["_in_thread"] = options.loading.get("in_thread", True)
    return view


def function_view_of(cache: C, function: str) -> C:
    """Return a view of a cache, or of a namespace, for the calls of a function: it has counters of its own, and no more."""
    return _view(cache, Part(function=function))


def _view(cache: C, part: Part, derive: Callable[[dict[str, Any]], None] = lambda _: None) -> C:
    view = object.__new__(type(cache))
    # With the attributes of a subclass.
    attributes = vars(view)
    attributes.update(vars(cache))
    if isinstance(cache, Openable):
        attributes["_counters"] = attributes["_counters"].counters_of(part)
        derive(attributes)
    else:
        # A RedisCache, which calls an asynchronous cache.
        attributes["_cache"] = _view(attributes["_cache"], part, derive)
    attributes["_views"].add(view)
    return view


async def next_keys(view: Any, scan: KeyScan, context: Context) -> list[str] | None:
    """Return the next keys of a scan of a view, without its prefix; None after the last.

    Raises:
        CacheError: the server did not reply.
    """
    try:
        opened: Opened = view._lifecycle.ready()  # noqa: SLF001
        prefix = opened.codec.prefix
        keys = await opened.engine.next_keys(scan, prefix)
    except CacheError as error:
        view._record_error(error, context)  # noqa: SLF001
        raise
    return None if keys is None else [key[len(prefix) :].decode(errors="replace") for key in keys]
