"""What JSON would damage in silence, found before it does."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from typing import Any, Final, cast

import msgspec

__all__ = ["RefusedError", "refuse_damage"]


class RefusedError(TypeError):
    """Why a value is not serialized, in words that name types and never quote the value."""


def refuse_damage(value: Any) -> None:
    """Refuse bytes, NaN, infinities, and keys that would collide or become something else.

    The value must not go round in circles.

    Raises:
        RefusedError: naming the serializer that takes it.
    """
    # Any, since no type checker can follow what is asked of it.
    kind = cast("Any", type(value))
    if kind in _WHOLE:
        return
    if kind is dict or issubclass(kind, dict):
        if not _TEXT.issuperset(map(type, value)):
            _refuse_keys(value)
        _refuse_parts(value.values())
    elif issubclass(kind, (list, tuple, set, frozenset)):
        _refuse_parts(value)
    elif issubclass(kind, float):
        if not math.isfinite(value):
            raise RefusedError("JSON has no NaN and no infinity; serializer msgpack takes them")
    elif issubclass(kind, (bytes, bytearray, memoryview)):
        raise RefusedError("JSON has no bytes; serializer msgpack takes them")
    elif issubclass(kind, enum.Enum):
        refuse_damage(value.value)
    elif issubclass(kind, msgspec.Struct):
        _refuse_parts([getattr(value, name) for name in kind.__struct_fields__])
    else:
        names: list[str] = [*getattr(kind, "__dataclass_fields__", ())]
        names += [field.name for field in getattr(kind, "__attrs_attrs__", ())]
        _refuse_parts([getattr(value, name) for name in names if hasattr(value, name)])


def _refuse_parts(parts: Collection[Any]) -> None:
    # Most hold nothing but text and numbers, which their types show at once.
    if not _WHOLE.issuperset(map(type, parts)):
        for part in parts:
            if type(part) not in _WHOLE:
                refuse_damage(part)


def _refuse_keys(value: dict[Any, Any]) -> None:
    for key in value:
        plain = key.value if isinstance(key, enum.Enum) else key
        if isinstance(plain, bytes | bytearray | memoryview | float):
            raise RefusedError(
                "JSON keys are text, not bytes or float; serializer msgpack takes them"
            )
    names = msgspec.json.decode(msgspec.json.encode(dict.fromkeys(value)))
    if len(names) != len(value):
        raise RefusedError("JSON keys are text, and two of these become the same; use msgpack")


_WHOLE: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
_TEXT: Final = frozenset({str})
