"""FastAPI integration: a cache that the application opens at startup, passes to its handlers, and closes.

Needs the extra `fastapi`: `pip install 'async-redis-cache[fastapi]'`.

    app = FastAPI(lifespan=cache_lifespan(AsyncRedisCache.from_url("redis://127.0.0.1:6379/0")))

    @app.get("/users/{user_id}")
    async def user(user_id: int, cache: CacheDep) -> User: ...

With a lifespan of your own, and for several caches, each with a name:

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with cache_lifespan(pages)(app), cache_lifespan(carts, name="carts")(app):
            yield

    CartCache = Annotated[AsyncRedisCache, Depends(cache_named("carts"))]

An application that is mounted in another with `app.mount` can use the caches of the outer one. Starlette does not run
the lifespan of a mounted application: enter its `cache_lifespan` in the lifespan of the outer one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache as memoize
from typing import Annotated, Any, Final, Unpack

try:
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.requests import HTTPConnection
    from fastapi.security.base import SecurityBase
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.fastapi needs the extra 'fastapi': "
        "pip install 'async-redis-cache[fastapi]'"
    ) from _error

from async_redis_cache import AsyncRedisCache
from async_redis_cache._http.response_options import ResponseOptions, Rule
from async_redis_cache.asgi import is_answered

__all__ = ["CacheDep", "cache_lifespan", "cache_named", "cache_response", "get_cache"]

_DEFAULT: Final = "default"
_IN_SCOPE: Final = "async_redis_caches"


def cache_lifespan(
    cache: AsyncRedisCache, *, name: str = _DEFAULT
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return a lifespan that opens the cache when the application starts, and closes it at shutdown.

    Pass it to `FastAPI(lifespan=...)`, or enter it in a lifespan of your own. If the cache cannot be
    opened, the application does not start. With `require_connection` false it starts, and the cache
    connects as soon as the server is reachable.

    Args:
        cache: not open.
        name: the name by which `cache_named` finds the cache.

    Raises:
        RuntimeError: when the application starts, if it already has a cache with this name.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        caches = _caches_of(app)
        if name in caches:
            raise RuntimeError(
                f"this application already has a cache named {name!r}: pass another name="
            )
        async with cache:
            caches[name] = cache
            try:
                yield
            finally:
                del caches[name]

    return lifespan


@memoize
def cache_named(name: str) -> Callable[[HTTPConnection], Awaitable[AsyncRedisCache]]:
    """Return the dependency for the cache with this name, for applications with several caches.

    It works in HTTP and WebSocket handlers. The same name returns the same function, which can
    therefore be a key of `app.dependency_overrides`. If an application and one that it is mounted in
    both have a cache with this name, the handler gets the cache of the inner one.

    Raises:
        LookupError: during the request, if no `cache_lifespan` with this name is running.
    """

    # A coroutine function although it awaits nothing: FastAPI calls plain functions in a worker thread.
    async def find_cache(connection: HTTPConnection) -> AsyncRedisCache:
        try:
            cache: AsyncRedisCache = connection.scope[_IN_SCOPE][name]
        except KeyError:
            raise LookupError(
                f"no cache named {name!r} is open: enter cache_lifespan in the lifespan of this application, "
                "or of one that it is mounted in"
            ) from None
        return cache

    return find_cache


get_cache: Callable[[HTTPConnection], Awaitable[AsyncRedisCache]] = cache_named(_DEFAULT)
"""The dependency of `CacheDep`. Tests replace the cache with `app.dependency_overrides[get_cache] = lambda: cache`."""

CacheDep = Annotated[AsyncRedisCache, Depends(get_cache)]
"""The type of a handler's parameter that receives the cache: `async def page(cache: CacheDep)`."""


class _Answered(HTTPException):
    """Ends a request whose response is in the cache; what it becomes is replaced by that."""


def cache_response(
    **options: Unpack[ResponseOptions],
) -> Callable[[HTTPConnection], Awaitable[None]]:
    """Return a dependency that opts in the responses of a route: for `Depends`, with `asgi.ResponseCache` in place.

    Dependencies that FastAPI calls after this one do not run for stored responses: put it last, behind those that check
    the rights of a client. The decorator `asgi.cache_response` needs no such care.

    Args:
        **options: see `asgi.ResponseOptions`.

    Raises:
        TypeError: an option is unknown or has another type.
        ValueError: a duration is negative or more than ten years, or a tag is invalid.
        RuntimeError: during a request, if FastAPI calls a security scheme after this dependency, such as the
            `OAuth2PasswordBearer` of a parameter of the handler.
    """
    rule = Rule(options)
    checked: dict[int, Any] = {}

    async def look_up(connection: HTTPConnection) -> None:
        route = connection.scope.get("route")
        if checked.get(id(route)) is not route:
            _check_order(route, look_up)
            checked[id(route)] = route
        if await is_answered(rule):
            raise _Answered(200)

    return look_up


def _check_order(route: Any, look_up: Callable[..., Any]) -> None:
    """Check that FastAPI has called all security schemes of a route before the lookup.

    Other dependencies may follow it: whether they check rights is not known, and most do not.
    """
    called: list[Any] = []
    is_after = False
    for dependency in getattr(getattr(route, "dependant", None), "dependencies", ()):
        is_after = is_after or dependency.call is look_up
        if dependency.call in called:
            # It is not called again.
            continue
        for call in _calls(dependency):
            if is_after and isinstance(call, SecurityBase):
                raise RuntimeError(
                    f"FastAPI calls {type(call).__name__} after cache_response, and so not for stored responses: "
                    "pass Depends(cache_response(...)) behind it, or use the decorator asgi.cache_response"
                )
            called.append(call)


def _calls(dependency: Any) -> Iterator[Any]:
    """Yield what FastAPI calls for a dependency, in this order."""
    for inner in dependency.dependencies:
        yield from _calls(inner)
    yield dependency.call


def _caches_of(app: FastAPI) -> dict[str, AsyncRedisCache]:
    caches: dict[str, AsyncRedisCache] | None = getattr(app.state, "async_redis_caches", None)
    if caches is None:
        caches = app.state.async_redis_caches = {}
        # A mounted application has no reference to this one, but receives the scope of the request.
        app.middleware_stack = _Provider(
            app.middleware_stack or app.build_middleware_stack(), caches
        )
    return caches


class _Provider:
    """Middleware that adds the open caches of an application to the scope of each request.

    They replace caches of outer applications with the same name.
    """

    def __init__(self, app: ASGIApp, caches: dict[str, AsyncRedisCache]) -> None:
        self._app = app
        self._caches = caches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_IN_SCOPE] = {**scope.get(_IN_SCOPE, {}), **self._caches}
        await self._app(scope, receive, send)
