"""Find what serialization would change: before it is stored, and by comparing what comes back."""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, cast

import msgspec

__all__ = [
    "NotSerializableError",
    "difference",
    "exact",
    "field_names",
    "is_equal",
    "parts_of",
    "refuse_damage",
]


class NotSerializableError(TypeError):
    """A value cannot be serialized without loss.

    The message names types and fields, and never quotes a value.

    Attributes:
        problem: the reason.
        path: where in the value, as `.lines[0].price`; empty for the value itself.
    """

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


def refuse_damage(
    value: Any, is_faithful: Callable[[Any], bool] | None = None, *, is_json: bool = True
) -> None:
    """Refuse a value that would come back changed: bytes, NaN, keys that would collide, and objects.

    A tuple or a date, which is documented to come back as a list or as text, is accepted. The value must not
    contain itself.

    Args:
        value: the value.
        is_faithful: returns true for an object that comes back equal, raises for one that does not, and returns
            false if its parts have to be checked instead. None: check the parts of all objects.
        is_json: also refuse bytes, NaN and infinities.

    Raises:
        NotSerializableError: naming the field, and the serializer that accepts it.
    """
    # Any: type checkers cannot follow the checks below.
    kind = cast("Any", type(value))
    if kind in _LEAF_TYPES:
        return
    family = _family_of(kind)
    if family == "object":
        if is_faithful is None or not is_faithful(value):
            _refuse_parts(value, is_faithful, is_json=is_json)
    elif family == "container":
        if issubclass(kind, dict) and not _TEXT.issuperset(map(type, value)):
            _refuse_keys(value, is_faithful, is_json=is_json)
        _refuse_parts(value, is_faithful, is_json=is_json)
    elif family == "enum":
        refuse_damage(value.value, is_faithful, is_json=is_json)
    elif family == "time":
        _refuse_seconds(value, is_json=is_json)
    elif family == "raw":
        _refuse_raw(value, is_json=is_json)
    elif is_json and (family == "bytes" or not math.isfinite(value)):
        what = "bytes" if family == "bytes" else "NaN or infinity"
        raise NotSerializableError(f"JSON cannot represent {what}; use the serializer msgpack")


@lru_cache(maxsize=1024)
def _family_of(kind: type) -> str:
    for family, kinds in _FAMILIES:
        if issubclass(kind, kinds):
            return family
    return "object"


def _refuse_seconds(value: dt.datetime | dt.time, *, is_json: bool) -> None:
    if isinstance(value, dt.datetime) and not is_json:
        return  # MessagePack timestamps have no offset.
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:
        raise NotSerializableError(
            "the UTC offset has seconds, which would be rounded; convert it to UTC"
        )


def _refuse_raw(value: msgspec.Raw, *, is_json: bool) -> None:
    decode: Callable[[bytes], Any] = msgspec.json.decode if is_json else msgspec.msgpack.decode
    try:
        decode(bytes(value))
    except msgspec.DecodeError:
        form = "JSON" if is_json else "MessagePack"
        raise NotSerializableError(f"a msgspec.Raw that does not contain valid {form}") from None


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value, each with its place as error messages name it: `.price`, `[3]`.

    Keys of dicts are the caller's data, so their place is `[...]`.
    """
    kind = cast("Any", type(value))
    if issubclass(kind, dict):
        yield from (("[...]", part) for part in value.values())
    elif issubclass(kind, (list, tuple)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif issubclass(kind, (set, frozenset)):
        yield from (("[...]", part) for part in value)
    else:
        for name in field_names(kind):
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


@lru_cache(maxsize=1024)
def field_names(kind: Any) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass, attrs class, Struct or pydantic model; () for other classes."""
    names: Iterable[Any] = getattr(kind, "__struct_fields__", ())
    fields = [str(name) for name in names]
    fields += getattr(kind, "__dataclass_fields__", ())
    fields += [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    models: Iterable[Any] = getattr(kind, "__pydantic_fields__", getattr(kind, "model_fields", ()))
    fields += models
    return tuple(dict.fromkeys(fields))


def _refuse_parts(value: Any, is_faithful: Callable[[Any], bool] | None, *, is_json: bool) -> None:
    kind = cast("Any", type(value))
    if issubclass(kind, dict):
        parts = value.values()
    elif issubclass(kind, (list, tuple, set, frozenset)):
        parts = value
    else:
        parts = [part for _, part in parts_of(value)]
    # The common case: all parts are text or integers.
    if _LEAF_TYPES.issuperset(map(type, parts)):
        return
    for part in parts:
        if type(part) not in _LEAF_TYPES:
            try:
                refuse_damage(part, is_faithful, is_json=is_json)
            except NotSerializableError as error:
                place = next((place for place, other in parts_of(value) if other is part), "")
                error.path = f"{place}{error.path}"
                raise


def _refuse_keys(
    value: dict[Any, Any], is_faithful: Callable[[Any], bool] | None, *, is_json: bool
) -> None:
    kinds: set[type] = {*map(type, value)}
    for key in () if kinds <= _SAFE_KEY_TYPES else value:
        plain = key.value if isinstance(key, enum.Enum) else key
        if is_json and isinstance(plain, _NOT_JSON_KEYS):
            kind = cast("Any", type(plain))
            problem = f"a dict key has the type {kind.__name__}, but JSON keys are text"
            raise NotSerializableError(f"{problem}; use the serializer msgpack")
        refuse_damage(plain, is_faithful, is_json=is_json)
    # In MessagePack, only keys that become text, such as UUIDs, can collide.
    coder = msgspec.json if is_json else msgspec.msgpack
    encoded = coder.encode(dict.fromkeys(value), enc_hook=exact)
    try:
        names = coder.decode(encoded)
    except (msgspec.DecodeError, TypeError):
        names = None
    if names is None:
        raise NotSerializableError("a dict key would be stored as a type that cannot be a dict key")
    if len(names) != len(value):
        problem = "two dict keys would become the same"
        raise NotSerializableError(
            f"{problem} JSON text; use the serializer msgpack" if is_json else problem
        )


def exact(value: Any) -> Any:
    """Convert an instance of a subclass of str, int or float, such as `markupsafe.Markup`, to that type.

    msgspec 0.19 also calls this for plain text, if it is the value of an Enum member that is a dict key.

    Raises:
        NotSerializableError: the value is not such an instance, or does not equal the converted value.
    """
    for base, convert in _EXACT_CONVERSIONS:
        if isinstance(value, base):
            plain = convert(value)
            if plain == value or plain != plain:  # noqa: PLR0124  NaN
                return plain
            break
    raise NotSerializableError(f"the type {type(value).__name__} is not supported")


def is_equal(value: Any, back: Any) -> bool:
    """Whether `==` is true; False if it raises, as with a signalling NaN."""
    try:
        return bool(value == back)
    except Exception:  # noqa: BLE001  a custom `__eq__` may raise anything
        return False


def difference(value: Any, back: Any) -> str | None:
    """Return the place of the first part that came back changed, as `.lines[0].price`; None if there is none.

    Called when `==` is false. It is also false for equal objects whose class has no `__eq__`, for NaN, and for the
    same moment in two time zones in an hour that a clock change repeats.
    """
    if value is back:
        return None
    kind = cast("Any", type(value))
    is_container = isinstance(value, _CONTAINERS)
    if not (is_container or field_names(kind)) or not _is_alike(value, back):
        return None if _is_equal_part(value, back) else ""
    for place, part, other in _pairs(value, back):
        found = difference(part, other)
        if found is not None:
            return f"{place}{found}"
    if is_container:
        return None if len(value) == len(back) else ""
    return None if is_equal(value, back) else _other_difference(value, back)


def _is_equal_part(value: Any, back: Any) -> bool:
    if isinstance(value, dt.datetime) and isinstance(back, dt.datetime):
        return _is_same_moment(value, back)
    if isinstance(value, float) and isinstance(back, float) and math.isnan(value):
        return math.isnan(back)
    if isinstance(value, Decimal) and value.is_nan():
        return isinstance(back, Decimal) and str(value) == str(back)
    return is_equal(value, back)


def _is_alike(value: Any, back: Any) -> bool:
    if isinstance(value, _DICT):
        return isinstance(back, _DICT) and value.keys() == back.keys()
    if isinstance(value, (list, tuple)):
        return isinstance(back, (list, tuple)) and isinstance(value, list) == isinstance(back, list)
    return type(value) is type(back)


def _pairs(value: Any, back: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, _DICT):
        for key, part in value.items():
            yield "[...]", part, back[key]
        return
    for (place, part), (_, other) in zip(parts_of(value), parts_of(back), strict=False):
        yield place, part, other


def _other_difference(value: Any, back: Any) -> str | None:
    """Return the place of a difference in the private attributes or extra fields of a pydantic model."""
    for place in ("__pydantic_private__", "__pydantic_extra__"):
        before: dict[str, Any] = getattr(value, place, None) or {}
        after: dict[str, Any] = getattr(back, place, None) or {}
        for name, part in before.items():
            inner = difference(part, after[name]) if name in after else ""
            if inner is not None:
                return f".{name}{inner}"
        if before.keys() != after.keys():
            return ""
    # `==` was false only because of a moment or a NaN, which are equal here.
    return None


def _is_same_moment(value: dt.datetime, back: dt.datetime) -> bool:
    if value.utcoffset() is None or back.utcoffset() is None:
        return value == back
    return value.astimezone(dt.UTC) == back.astimezone(dt.UTC)


_LEAF_TYPES: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
_EXACT_CONVERSIONS: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
_FAMILIES: Final[tuple[tuple[str, tuple[type, ...]], ...]] = (
    ("enum", (enum.Enum,)),
    ("container", (dict, list, tuple, set, frozenset)),
    ("float", (float,)),
    ("bytes", (bytes, bytearray, memoryview)),
    ("time", (dt.datetime, dt.time)),
    ("raw", (msgspec.Raw,)),
)
_TEXT: Final = frozenset({str})
_SAFE_KEY_TYPES: Final[frozenset[type]] = frozenset({str, int})
_MINUTE: Final = dt.timedelta(minutes=1)
# Variables of type Any, so that type checkers do not report parts of a value as unknown.
_DICT: Any = dict
_CONTAINERS: Any = (dict, list, tuple)
_NOT_JSON_KEYS: Any = (bytes, bytearray, memoryview, bool, float)
