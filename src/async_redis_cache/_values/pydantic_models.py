"""Pydantic models as plain data and back; pydantic itself is never imported here.

A model is dumped by its own rules and validated by its own rules, and these need not agree: aliases,
computed, excluded and secret fields, subclasses. So what was dumped is validated again, and has to
equal the model. Where it does not, the next way to dump is tried.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any, Final, cast

import msgspec

from .lossless import NotSerializableError, difference, exact, field_names, parts_of, refuse_damage

__all__ = [
    "adapted",
    "adapter_of",
    "dumped",
    "is_model",
    "is_of_models",
    "validated",
    "validator_of",
]

_WAYS: Final[tuple[Mapping[str, bool], ...]] = (
    {},
    {"round_trip": True},
    {"by_alias": True},
    {"by_alias": True, "round_trip": True},
)
"""To dump a model. First as it says itself, so that others read what they expect; then without what is
computed, and by its aliases, which pydantic before 2.11 needs to validate them."""
_MOST_TYPES: Final = 256
_UNEQUAL: Final = "would not come back equal"
_PLAIN_JSON: Final = msgspec.json.Encoder(enc_hook=exact).encode


def is_model(kind: Any) -> bool:
    """Whether this is a class of pydantic models."""
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate_json")


def dumped(value: Any, *, is_json: bool) -> Any:
    """A model as plain data, of which the same model can be made again.

    Args:
        value: the model.
        is_json: whether bytes and what is not finite are damage.

    Raises:
        RefusedError: there is none; it names the field.
    """
    kind = cast("Any", type(value))
    if not is_model(kind):
        plain = value.model_dump(mode="json")
        refuse_damage(plain, is_json=is_json)
        return plain
    if kind.__pydantic_generic_metadata__["parameters"]:
        return _dumped_generic(value, is_json=is_json)
    validate = validator_of(kind)
    refusal: NotSerializableError | None = None
    for way in _WAYS:
        # Its warnings quote the value, and what they warn of is found here.
        try:
            plain = value.model_dump(mode="json", warnings=False, **way)
        except Exception as error:  # noqa: BLE001  serializers of the user's
            refusal = refusal or NotSerializableError(type(error).__name__, _place_of_dump(value))
            continue
        # JSON first, where NaN becomes null; then, for MessagePack, with what JSON does not have.
        place = _difference(validate, _PLAIN_JSON(plain), value)
        if place is not None and not is_json:
            place = _difference(validate, _to_json(plain), value)
        if place is None:
            return plain
        # The deepest place says most: a way that pydantic cannot validate at all fails at the first alias.
        if refusal is None or len(place) > len(refusal.path):
            refusal = NotSerializableError(_problem(plain, is_json=is_json), place)
    raise refusal or NotSerializableError(_UNEQUAL)


def _difference(validate: Callable[[bytes], Any], dump: bytes, value: Any) -> str | None:
    try:
        back = validate(dump)
        return None if back == value else difference(value, back)
    except Exception as error:  # noqa: BLE001  validators of the user's
        return _place_of(error, value)


def _place_of_dump(value: Any) -> str:
    """The first field that cannot be dumped; none where the model cannot be without any of them."""
    kind = cast("Any", type(value))
    names = field_names(kind) if _can_dump(value, set()) else ()
    return next((f".{name}" for name in names if not _can_dump(value, {name})), "")


def _can_dump(value: Any, names: set[str]) -> bool:
    try:
        value.model_dump(mode="json", warnings=False, include=names)
    except Exception:  # noqa: BLE001  the same again, of these fields alone
        return False
    return True


def _problem(plain: Any, *, is_json: bool) -> str:
    try:
        refuse_damage(plain, is_json=is_json)
    except NotSerializableError as error:
        return error.problem
    return _UNEQUAL


def _dumped_generic(value: Any, *, is_json: bool) -> Any:
    """A generic model without its parameters: only who asks for it says what its fields are."""
    for place, part in parts_of(value):
        try:
            _check_models(part, is_json=is_json)
        except NotSerializableError as error:
            error.path = f"{place}{error.path}"
            raise
    # Nothing tells which way would come back: by its names, unless pydantic knows fields by aliases alone.
    kind = cast("Any", type(value))
    way = {} if _knows_names(kind.model_validate_json) else {"by_alias": True}
    plain = value.model_dump(mode="json", warnings=False, **way)
    refuse_damage(plain, is_json=is_json)
    return plain


def _check_models(value: Any, *, is_json: bool) -> None:
    def is_faithful(part: Any) -> bool:
        if not is_model(type(part)):
            return False
        dumped(part, is_json=is_json)
        return True

    refuse_damage(value, is_faithful, is_json=is_json)


@lru_cache(maxsize=_MOST_TYPES)
def validator_of(kind: Any) -> Callable[[bytes], Any]:
    """What makes a model of JSON. Fields are known by their aliases and, from pydantic 2.11 on, by their names."""
    validate = kind.model_validate_json
    if getattr(validate, "__module__", "") == "pydantic.main":
        # What it calls, unless a class has one of its own.
        named = _by_name(validate)
        core = kind.__pydantic_validator__.validate_json
        return core if named is validate else partial(core, by_alias=True, by_name=True)
    return _by_name(validate)


def adapter_of(kind: Any) -> Callable[[bytes], Any] | None:
    """What makes a value of JSON where only pydantic knows how: of a union of models, or what holds one.

    Raises:
        Exception: as pydantic likes, where it does not know either.
    """
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _holds_model(kind, set()):
        return None
    return _by_name(pydantic.TypeAdapter(kind).validate_json)


def is_of_models(kind: Any) -> bool:
    """Whether a type is models and what holds them, and nothing else: pydantic makes it in one go."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list or origin in {typing.Union, types.UnionType}:
        parts = [part for part in args if part is not types.NoneType]
        return bool(parts) and all(is_model(part) or is_of_models(part) for part in parts)
    if origin is dict:
        return args[0] is str and (is_model(args[1]) or is_of_models(args[1]))
    return False


def validated(kind: Any, value: Any) -> Any:
    """A model of plain data, by the rules for JSON: a date in a strict model is text there."""
    return validator_of(kind)(_to_json(value))


def adapted(validate: Callable[[bytes], Any], value: Any) -> Any:
    """The same of a value that an adapter validates."""
    return validate(_to_json(value))


def _by_name(validate: Callable[..., Any]) -> Callable[[bytes], Any]:
    return partial(validate, by_alias=True, by_name=True) if _knows_names(validate) else validate


@lru_cache(maxsize=_MOST_TYPES)
def _knows_names(validate: Callable[..., Any]) -> bool:
    return "by_name" in inspect.signature(validate).parameters


def _to_json(plain: Any) -> bytes:
    """JSON as pydantic reads it: with NaN and infinities, which msgspec would make null."""
    return cast("bytes", _encoder()(plain, inf_nan_mode="constants"))


@cache
def _encoder() -> Callable[..., Any]:
    # Where there is a model, it is loaded.
    return cast("Callable[..., Any]", sys.modules["pydantic_core"].to_json)


def _holds_model(kind: Any, seen: set[int]) -> bool:
    if is_model(kind):
        return True
    if id(kind) in seen:
        return False
    seen.add(id(kind))
    parts: list[Any] = list(typing.get_args(kind))
    if isinstance(kind, type) and (field_names(kind) or hasattr(kind, "__annotations__")):
        parts += typing.get_type_hints(kind, include_extras=True).values()
    return any(_holds_model(part, seen) for part in parts)


def _place_of(error: Exception, value: Any) -> str:
    """Where validation failed. Its own words name keys of dicts, and quote values."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return ""
    found = errors(include_url=False, include_context=False, include_input=False)
    place = ""
    part: Any = value
    for step in found[0]["loc"] if found else ():
        kind = cast("Any", type(part))
        if is_model(kind):
            name = next((name for name in field_names(kind) if step in _names_of(kind, name)), None)
            if name is None:
                continue  # A member of a union, by its tag or its class.
            place, part = f"{place}.{name}", getattr(part, name, None)
        elif isinstance(part, _DICT):
            place, part = f"{place}[...]", part.get(step)
        elif isinstance(part, _SEQUENCES) and isinstance(step, int):
            place, part = f"{place}[{step}]", part[step] if step < len(part) else None
    return place


def _names_of(kind: Any, name: str) -> set[Any]:
    fields = getattr(kind, "__pydantic_fields__", None) or kind.model_fields
    aliases = (getattr(fields[name], alias, None) for alias in _ALIASES)
    return {name, *(alias for alias in aliases if isinstance(alias, str))}


# As variables, so that no type checker takes what is in a value for unknown.
_DICT: Any = dict
_SEQUENCES: Any = (list, tuple)
_ALIASES: Final = ("alias", "validation_alias", "serialization_alias")
