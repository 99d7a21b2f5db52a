"""Values of the type that is asked for: dataclasses, TypedDicts, Structs, pydantic models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .decoders import converter_of, json_decoder_of, msgpack_decoder_of
from .serializers import Json, MessagePack, Raw, Serializer

__all__ = ["check_type", "decoder_of"]


def decoder_of(serializer: Serializer, kind: Any) -> Callable[[bytes], Any]:
    """A function from bytes to a validated object of this type.

    Raises:
        TypeError: the type is not one that can be validated. An annotation that names what does
            not exist raises as it likes.
    """
    if isinstance(serializer, Json):
        return json_decoder_of(kind)
    if isinstance(serializer, MessagePack):
        return msgpack_decoder_of(kind)
    loads = serializer.loads
    validate = _validator(kind, plain=isinstance(serializer, Raw))

    def decode(data: bytes) -> Any:
        return validate(loads(data))

    return decode


def check_type(kind: Any) -> None:
    """Refuse what no value can be validated as, whatever the serializer.

    Raises:
        TypeError: it is no type, or has a part that cannot be validated.
    """
    # What it names may come later: that is found when a value is validated.
    with suppress(NameError, AttributeError):
        try:
            _validator(kind, plain=False)
        except TypeError as error:
            raise TypeError(f"type= takes what values can be validated as: {error}") from error


def _validator(kind: Any, *, plain: bool) -> Callable[[Any], Any]:
    """Validates what is not JSON: plain data, or, from other serializers, the very object."""
    is_class = not plain and _is_class(kind)
    try:
        convert = converter_of(kind, str_keys=not plain)
    except TypeError:
        if not is_class:
            raise
        convert = _refuse

    def validate(value: Any) -> Any:
        if is_class and isinstance(value, kind):
            return value
        return convert(value)

    return validate


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is not of the type that was asked for")


def _is_class(kind: Any) -> bool:
    try:
        isinstance(None, kind)
    except TypeError:
        return False
    return isinstance(kind, type)
