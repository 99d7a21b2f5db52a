"""Values of the type that is asked for: dataclasses, TypedDicts, Structs, pydantic models."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

import msgspec

from ._serializers import Json, MessagePack, Raw, Serializer

__all__ = ["decoder_of"]


def decoder_of(serializer: Serializer, kind: Any) -> Callable[[bytes], Any]:
    """A function from bytes to a validated object of this type.

    Raises:
        TypeError: the type is not one that can be validated. An annotation that names what does
            not exist raises as it likes.
    """
    if isinstance(serializer, Json):
        return _json_decoder(kind)
    loads = serializer.loads
    validate = _validator(kind, plain=isinstance(serializer, MessagePack | Raw))

    def decode(data: bytes) -> Any:
        return validate(loads(data))

    return decode


def _json_decoder(kind: Any) -> Callable[[bytes], Any]:
    validate = getattr(kind, "model_validate_json", None)
    if validate is not None:
        return cast("Callable[[bytes], Any]", validate)
    _refuse_opaque(kind)
    return msgspec.json.Decoder(kind, dec_hook=_model).decode


def _validator(kind: Any, *, plain: bool) -> Callable[[Any], Any]:
    """Validates what is not JSON: plain data, or, from other serializers, the very object."""
    is_class = not plain and _is_class(kind)
    try:
        _refuse_opaque(kind)
    except TypeError:
        if not is_class:
            raise

    def validate(value: Any) -> Any:
        if is_class and isinstance(value, kind):
            return value
        return cast("object", msgspec.convert(value, kind, dec_hook=_model, str_keys=not plain))

    return validate


def _is_class(kind: Any) -> bool:
    try:
        isinstance(None, kind)
    except TypeError:
        return False
    return isinstance(kind, type)


def _refuse_opaque(kind: Any) -> None:
    """Refuse a type that holds a class of which nobody knows how to make it from plain data."""
    pending: list[Any] = [msgspec.inspect.type_info(kind)]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if isinstance(part, msgspec.inspect.CustomType) and not (
            part.cls is object or hasattr(part.cls, "model_validate")
        ):
            raise TypeError(f"{part.cls.__name__} cannot be validated")
        if isinstance(part, tuple | list):
            pending.extend(cast("Collection[Any]", part))
        elif isinstance(part, msgspec.Struct) and id(part) not in seen:
            seen.add(id(part))
            pending.extend(getattr(part, name) for name in part.__struct_fields__)


def _model(kind: Any, value: Any) -> Any:
    """A pydantic model from plain data; asked by msgspec for types that it does not know."""
    if kind is object:
        return value
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"{getattr(kind, '__name__', kind)} cannot be validated")
    return validate(value)
