"""The part of the asynchronous door that loads what is not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from ._codec import Codec, Decoder, Timeout
from ._errors import CacheInputError
from ._loaders import Loader, called
from ._loading import AWAY, Wanted
from ._openable import Openable, verb
from ._pip_services import Context

__all__ = ["ReadThrough"]

T = TypeVar("T")


class ReadThrough(Openable):
    """A cache that may be asked for what it does not hold yet."""

    @overload
    async def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Callable[[], Awaitable[T]],
        timeout: Timeout = None,
        *,
        in_thread: bool = False,
    ) -> T: ...
    @overload
    async def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Callable[[], T],
        timeout: Timeout = None,
        *,
        in_thread: bool = False,
    ) -> T: ...
    @overload
    async def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: type[T],
        in_thread: bool = False,
    ) -> T | None: ...
    @overload
    async def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        in_thread: bool = False,
    ) -> Any: ...
    @verb
    async def retrieve_or_load(
        self,
        context: Context,
        key: str,
        loader: Loader,
        timeout: Timeout = None,
        *,
        type: Any = None,
        in_thread: bool = False,
    ) -> Any:
        """The value stored under the key; where there is none, what the loader gives, stored.

        One load serves all who ask meanwhile, in this process and in others. Who is cancelled takes
        nobody along; a load is cancelled when its last caller has left. A value that is overtaken,
        by a store or a removal of the key while it was loaded, goes to those who asked for it and
        not into the cache. Each caller gets an object of its own, decoded from what is stored, so a
        first call gives what a later one does. While the server is away, values are loaded and not
        stored.

        Args:
            context: for the errors.
            key: as for `store`.
            loader: a function without parameters, or a coroutine function: anything whose result
                is the value or can be awaited for it. None is given to who asked, and not stored.
            timeout: as for `store`, of the value that is loaded.
            type: as for `retrieve`.
            in_thread: call a plain function, which may block, in a worker thread. Cancelled, it
                goes on to its end there.

        Raises:
            CacheInputError: as for `store` and `retrieve`; BAD_TYPE, too, for a loaded value that
                does not fit the type.
            CacheTimeout: LOAD_TIMEOUT, when the load took longer than `loading.hard_timeout`.
            CacheAuthError, CacheUnsupported: the server does not take what this needs.
            Exception: what the loader raised; it reaches all who wait, and is not remembered.
        """
        _, engine, codec, _ = self._lifecycle.ready()
        decode = codec.decoder(type)
        wire_key = codec.key(key)
        life = codec.life(timeout)
        is_away = False
        data: bytes | None = None
        try:
            data = await engine.read(wire_key)
        except AWAY:
            is_away = True
        value = self._given(codec, wire_key, data, decode)
        if value is not None:
            return value

        async def produce() -> tuple[bytes, int] | None:
            loaded = await called(loader, in_thread=in_thread)
            if loaded is None:
                return None
            loaded_data = codec.dumps(wire_key, loaded)
            if codec.loads(wire_key, loaded_data, decode) is None:
                raise CacheInputError("BAD_TYPE", "what was loaded does not fit the type")
            return loaded_data, life

        def suits(found: bytes) -> bool:
            return codec.loads(wire_key, found, decode) is not None

        data = await engine.load(wire_key, Wanted(produce, suits, None if is_away else data or b""))
        return None if data is None else codec.loads(wire_key, data, decode)

    def _given(self, codec: Codec, wire_key: bytes, data: bytes | None, decode: Decoder) -> Any:
        value = None if data is None else codec.loads(wire_key, data, decode)
        if value is None:
            self._counters.misses += 1
        else:
            self._counters.hits += 1
        return value
