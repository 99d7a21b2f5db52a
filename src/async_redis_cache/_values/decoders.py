"""Decode stored bytes, and validate the result as a type: dataclasses, TypedDicts, Structs, pydantic models."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec

from .pydantic_models import adapted, adapter_of, is_model, is_of_models, validated, validator_of

__all__ = ["check_type", "decoder_after", "json_decoder_of", "msgpack_decoder_of"]

_NUMBERS_AND_TEXT = (str, int, float)


def json_decoder_of(kind: Any) -> Callable[[bytes], Any]:
    """Return a function that decodes JSON to a validated value of this type.

    Raises:
        TypeError: values cannot be validated as this type.
        Exception: what evaluating an annotation raises, such as NameError.
    """
    if is_model(kind):
        return validator_of(kind)
    validate = getattr(kind, "model_validate_json", None)
    if validate is not None:
        return cast("Callable[[bytes], Any]", validate)
    adapter = adapter_of(kind) if is_of_models(kind) else None
    if adapter is not None:
        return adapter
    try:
        create = partial(_create, refuse_opaque(kind))
        return msgspec.json.Decoder(kind, dec_hook=create).decode
    except TypeError:
        adapter = adapter_of(kind)
        if adapter is None:
            raise
        return adapter


def msgpack_decoder_of(kind: Any) -> Callable[[bytes], Any]:
    """Return a function that decodes MessagePack to a validated value of this type.

    Raises:
        TypeError: as for `json_decoder_of`.
    """
    adapter = adapter_of(kind) if is_of_models(kind) else None
    try:
        if adapter is None and not is_model(kind):
            refuse_opaque(kind)
            # Not `msgspec.convert`: it leaves keys of classes that it does not know as text.
            create = partial(_create, frozenset[type]())
            return msgspec.msgpack.Decoder(kind, dec_hook=create).decode
    except TypeError:
        adapter = adapter_of(kind)
        if adapter is None:
            raise
    convert = partial(validated, kind) if adapter is None else partial(adapted, adapter)

    def decode(data: bytes) -> Any:
        return convert(msgspec.msgpack.decode(data))

    return decode


def converter_of(kind: Any, *, str_keys: bool) -> Callable[[Any], Any]:
    """Return a function that converts plain data to a validated value of this type.

    Args:
        kind: the type.
        str_keys: whether dict keys are text in the data, as in JSON, whatever their type is.

    Raises:
        TypeError: as for `json_decoder_of`.
    """
    if is_model(kind):
        return partial(validated, kind)
    adapter = adapter_of(kind) if is_of_models(kind) else None
    keys: frozenset[type] = frozenset()
    try:
        if adapter is None:
            keys = refuse_opaque(kind)
    except TypeError:
        adapter = adapter_of(kind)
        if adapter is None:
            raise
    if adapter is not None:
        return partial(adapted, adapter)

    create = partial(_create, keys if str_keys else frozenset[type]())

    def convert(value: Any) -> Any:
        return cast("object", msgspec.convert(value, kind, dec_hook=create, str_keys=str_keys))

    return convert


def refuse_opaque(kind: Any) -> frozenset[type]:
    """Refuse a type that contains a class which cannot be created from plain data.

    Returns:
        The subclasses of int that are keys of its dicts: in JSON these keys are text.

    Raises:
        TypeError: it contains such a class.
    """
    keys: set[type] = set()
    pending: list[Any] = [msgspec.inspect.type_info(kind)]
    seen: set[int] = set()
    while pending:
        part: Any = pending.pop()
        made = cast("Any", part.cls) if isinstance(part, msgspec.inspect.CustomType) else object
        if made is not object and not (
            hasattr(made, "model_validate") or issubclass(made, _NUMBERS_AND_TEXT)
        ):
            raise TypeError(f"{made.__name__} cannot be validated")
        key: Any = getattr(part, "key_type", None)
        if isinstance(key, msgspec.inspect.CustomType) and issubclass(key.cls, int):
            keys.add(key.cls)
        if isinstance(part, tuple | list):
            pending.extend(cast("Collection[Any]", part))
        elif isinstance(part, msgspec.Struct) and id(part) not in seen:
            seen.add(id(part))
            pending.extend(getattr(part, name) for name in part.__struct_fields__)
    return frozenset(keys)


def _create(keys: frozenset[type], kind: Any, value: Any) -> Any:
    """Create a value of a type that msgspec does not support: a model, or a subclass of str, int or float."""
    if kind is object:
        return value
    if is_model(kind):
        return validated(kind, value)
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return validate(value)
    if kind in keys and isinstance(value, str) and str(int(value)) == value:
        value = int(value)
    for base in _NUMBERS_AND_TEXT:
        if issubclass(kind, base) and type(value) in {base, int if base is float else base}:
            return kind(value)
    raise TypeError(f"{getattr(kind, '__name__', kind)} cannot be validated")


def decoder_after(
    loads: Callable[[bytes], Any], kind: Any, *, is_raw: bool
) -> Callable[[bytes], Any]:
    """Return a function that decodes with `loads`, and validates the result as this type.

    Args:
        loads: of a serializer.
        kind: the type.
        is_raw: whether `loads` returns bytes. Other serializers return plain data, or an object of the type itself,
            which is accepted as it is.

    Raises:
        TypeError: as for `json_decoder_of`.
    """
    validate = _validator(kind, is_raw=is_raw)

    def decode(data: bytes) -> Any:
        return validate(loads(data))

    return decode


def check_type(kind: Any) -> None:
    """Refuse what cannot be used for validation with any serializer.

    Raises:
        TypeError: it is not a type, or contains one that cannot be validated.
    """
    # A name that is not defined yet may be defined before the first value is validated.
    with suppress(NameError, AttributeError):
        try:
            _validator(kind, is_raw=False)
        except TypeError as error:
            raise TypeError(
                f"type= must be a type that values can be validated as: {error}"
            ) from error


def _validator(kind: Any, *, is_raw: bool) -> Callable[[Any], Any]:
    """Return a function that validates plain data, or, unless `is_raw`, accepts an object of the type itself."""
    is_class = not is_raw and _is_class(kind)
    try:
        convert = converter_of(kind, str_keys=not is_raw)
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
    raise TypeError(f"{type(value).__name__} is not an instance of the requested type")


def _is_class(kind: Any) -> bool:
    try:
        isinstance(None, kind)
    except TypeError:
        return False
    return isinstance(kind, type)
