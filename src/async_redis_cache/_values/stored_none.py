"""None as a value of a namespace: how a stored None is distinguished from a missing value.

Everything that reads takes None for no value. So the decoders of a codec that stores None return `STORED_NONE` for it,
and the API replaces that by None where it returns values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from async_redis_cache._common.errors import CacheConfigError

from .serializers import Serializer

__all__ = ["STORED_NONE", "recognizing_none", "serialized_none", "unwrapped"]

STORED_NONE: Final[Any] = object()


def unwrapped(value: Any) -> Any:
    """Return a value as the caller gets it."""
    return None if value is STORED_NONE else value


def serialized_none(serializer: Serializer) -> bytes:
    """Return what a serializer makes of None.

    Raises:
        CacheConfigError: BAD_OPTION, it cannot serialize None, as `raw`.
    """
    try:
        dumped = serializer.dumps(None)
        data = dumped.encode() if isinstance(dumped, str) else bytes(dumped)
        is_none = serializer.loads(data) is None
    except Exception:  # noqa: BLE001  any serializer may be given
        is_none, data = False, b""
    if not is_none:
        problem = "cache_none of a namespace requires a serializer that accepts None"
        raise CacheConfigError("BAD_OPTION", problem)
    return data


def recognizing_none(decode: Callable[[bytes], Any], none: bytes) -> Callable[[bytes], Any]:
    """Return a decoder that returns `STORED_NONE` for a serialized None, whatever type the other values have."""

    def decoded(data: bytes) -> Any:
        return STORED_NONE if data == none else decode(data)

    return decoded
