"""Convert pydantic models to plain data and back, without importing pydantic.

A model defines how it is dumped and how it is validated, and the two may not agree: aliases, computed, excluded and
secret fields, subclasses. So the dump is validated, and the result has to equal the model. If it does not, the model
is dumped with other options.
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

_DUMP_OPTIONS: Final[tuple[Mapping[str, bool], ...]] = (
    {},
    {"round_trip": True},
    {"by_alias": True},
    {"by_alias": True, "round_trip": True},
)
"""Options of `model_dump`, in the order in which they are tried: first the model's own, so that other programs read
what they expect; then without computed fields; then with aliases, which pydantic before 2.11 needs for validation."""
_MAX_CACHED_TYPES: Final = 256
_UNEQUAL: Final = "would not come back equal"
_PLAIN_JSON: Final = msgspec.json.Encoder(enc_hook=exact).encode


def is_model(kind: Any) -> bool:
    """Whether this is a pydantic model class."""
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate_json")


def dumped(value: Any, *, is_json: bool) -> Any:
    """Return plain data from which an equal model can be created.

    Args:
        value: the model.
        is_json: also refuse NaN and infinities.

    Raises:
        NotSerializableError: no options of `model_dump` produce such data. It names the field.
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
    for options in _DUMP_OPTIONS:
        # Without warnings: they quote the value, and the comparison below finds what they report.
        try:
            plain = value.model_dump(mode="json", warnings=False, **options)
        except Exception as error:  # noqa: BLE001  the model's serializers may raise anything
            refusal = refusal or NotSerializableError(type(error).__name__, _place_of_dump(value))
            continue
        # First as strict JSON, in which NaN is null; then, for MessagePack, with NaN and infinities.
        place = _difference(validate, _PLAIN_JSON(plain), value)
        if place is not None and not is_json:
            place = _difference(validate, _to_json(plain), value)
        if place is None:
            return plain
        # The deepest place is the most precise: without aliases, validation may fail at the first one.
        if refusal is None or len(place) > len(refusal.path):
            refusal = NotSerializableError(_problem(plain, is_json=is_json), place)
    raise refusal or NotSerializableError(_UNEQUAL)


def _difference(validate: Callable[[bytes], Any], dump: bytes, value: Any) -> str | None:
    try:
        back = validate(dump)
        return None if back == value else difference(value, back)
    except Exception as error:  # noqa: BLE001  the model's validators may raise anything
        return _place_of(error, value)


def _place_of_dump(value: Any) -> str:
    """Return the first field that cannot be dumped; "" if the model cannot even be dumped without fields."""
    kind = cast("Any", type(value))
    names = field_names(kind) if _can_dump(value, set()) else ()
    return next((f".{name}" for name in names if not _can_dump(value, {name})), "")


def _can_dump(value: Any, names: set[str]) -> bool:
    try:
        value.model_dump(mode="json", warnings=False, include=names)
    except Exception:  # noqa: BLE001  the same error, for these fields alone
        return False
    return True


def _problem(plain: Any, *, is_json: bool) -> str:
    try:
        refuse_damage(plain, is_json=is_json)
    except NotSerializableError as error:
        return error.problem
    return _UNEQUAL


def _dumped_generic(value: Any, *, is_json: bool) -> Any:
    """Dump a generic model without its parameters: only the `type` of a later read says what its fields are."""
    for place, part in parts_of(value):
        try:
            _check_models(part, is_json=is_json)
        except NotSerializableError as error:
            error.path = f"{place}{error.path}"
            raise
    # It cannot be validated. Dumped by field names, unless this pydantic validates by alias only.
    kind = cast("Any", type(value))
    options = {} if _accepts_names(kind.model_validate_json) else {"by_alias": True}
    plain = value.model_dump(mode="json", warnings=False, **options)
    refuse_damage(plain, is_json=is_json)
    return plain


def _check_models(value: Any, *, is_json: bool) -> None:
    def is_faithful(part: Any) -> bool:
        if not is_model(type(part)):
            return False
        dumped(part, is_json=is_json)
        return True

    refuse_damage(value, is_faithful, is_json=is_json)


@lru_cache(maxsize=_MAX_CACHED_TYPES)
def validator_of(kind: Any) -> Callable[[bytes], Any]:
    """Return a function that validates JSON as a model: by alias and, from pydantic 2.11 on, also by field name."""
    validate = kind.model_validate_json
    if getattr(validate, "__module__", "") == "pydantic.main":
        # Skip the method of pydantic, which only calls this; a method of the class itself is kept.
        named = _by_name(validate)
        core = kind.__pydantic_validator__.validate_json
        return core if named is validate else partial(core, by_alias=True, by_name=True)
    return _by_name(validate)


def adapter_of(kind: Any) -> Callable[[bytes], Any] | None:
    """Return pydantic's validator of JSON for a type that contains models; None for other types.

    Raises:
        Exception: any, if pydantic does not support the type either.
    """
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _holds_model(kind, set()):
        return None
    return _by_name(pydantic.TypeAdapter(kind).validate_json)


def is_of_models(kind: Any) -> bool:
    """Whether a type consists only of models, unions, lists and dicts: pydantic validates it as a whole."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list or origin in {typing.Union, types.UnionType}:
        parts = [part for part in args if part is not types.NoneType]
        return bool(parts) and all(is_model(part) or is_of_models(part) for part in parts)
    if origin is dict:
        return args[0] is str and (is_model(args[1]) or is_of_models(args[1]))
    return False


def validated(kind: Any, value: Any) -> Any:
    """Validate plain data as a model by the rules for JSON, in which a strict model accepts text as a date."""
    return validator_of(kind)(_to_json(value))


def adapted(validate: Callable[[bytes], Any], value: Any) -> Any:
    """Validate plain data with the validator that `adapter_of` returned."""
    return validate(_to_json(value))


def _by_name(validate: Callable[..., Any]) -> Callable[[bytes], Any]:
    return partial(validate, by_alias=True, by_name=True) if _accepts_names(validate) else validate


@lru_cache(maxsize=_MAX_CACHED_TYPES)
def _accepts_names(validate: Callable[..., Any]) -> bool:
    return "by_name" in inspect.signature(validate).parameters


def _to_json(plain: Any) -> bytes:
    """Encode JSON that pydantic accepts: with NaN and infinities, which msgspec would replace by null."""
    return cast("bytes", _encoder()(plain, inf_nan_mode="constants"))


@cache
def _encoder() -> Callable[..., Any]:
    # It has been imported if there is a model.
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
    """Return the place where validation failed. The message of the error would quote values and keys of dicts."""
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
                continue  # The tag or class of a union member.
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


# Variables of type Any, so that type checkers do not report parts of a value as unknown.
_DICT: Any = dict
_SEQUENCES: Any = (list, tuple)
_ALIASES: Final = ("alias", "validation_alias", "serialization_alias")
