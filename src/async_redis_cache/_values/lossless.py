"""What a serializer would damage in silence, found before it does."""

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
    """Why a value is not serialized, in words that name types and fields and never quote the value."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


def refuse_damage(
    value: Any, is_faithful: Callable[[Any], bool] | None = None, *, is_json: bool = True
) -> None:
    """Refuse what would come back as something else: bytes, NaN, keys that would collide, and objects.

    What has no form of its own and is documented to come back in the nearest one (a tuple, a date) is
    not damage. The value must not go round in circles.

    Args:
        value: the value.
        is_faithful: whether an object comes back equal; it raises where it does not. False where only
            its parts can tell. None where they are all to tell.
        is_json: whether bytes and what is not finite are damage.

    Raises:
        RefusedError: naming the field, and the serializer that takes it.
    """
    # Any, since no type checker can follow what is asked of it.
    kind = cast("Any", type(value))
    if kind in _WHOLE:
        return
    family = _family_of(kind)
    if family == "object":
        if is_faithful is None or not is_faithful(value):
            _refuse_parts(value, is_faithful, is_json=is_json)
    elif family == "parts":
        if issubclass(kind, dict) and not _TEXT.issuperset(map(type, value)):
            _refuse_keys(value, is_faithful, is_json=is_json)
        _refuse_parts(value, is_faithful, is_json=is_json)
    elif family == "enum":
        refuse_damage(value.value, is_faithful, is_json=is_json)
    elif family == "moment":
        _refuse_seconds(value, is_json=is_json)
    elif family == "raw":
        _refuse_raw(value, is_json=is_json)
    elif is_json and (family == "bytes" or not math.isfinite(value)):
        what = "bytes" if family == "bytes" else "NaN and no infinity"
        raise NotSerializableError(f"JSON has no {what}; serializer msgpack takes them")


@lru_cache(maxsize=1024)
def _family_of(kind: type) -> str:
    for family, kinds in _FAMILIES:
        if issubclass(kind, kinds):
            return family
    return "object"


def _refuse_seconds(value: dt.datetime | dt.time, *, is_json: bool) -> None:
    if isinstance(value, dt.datetime) and not is_json:
        return  # MessagePack has moments, and they need no offset.
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:
        raise NotSerializableError(
            "its UTC offset has seconds, which would be rounded; convert it to UTC"
        )


def _refuse_raw(value: msgspec.Raw, *, is_json: bool) -> None:
    decode: Callable[[bytes], Any] = msgspec.json.decode if is_json else msgspec.msgpack.decode
    try:
        decode(bytes(value))
    except msgspec.DecodeError:
        form = "JSON" if is_json else "MessagePack"
        raise NotSerializableError(f"a msgspec.Raw that holds no {form}") from None


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each part with its place as messages name it: `.price`, `[3]`.

    Keys of dicts are values of the caller's, so messages do not name them: `[...]`.
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
    """The names of the fields of a class: a dataclass, an attrs class, a Struct or a pydantic model."""
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
    # Most hold nothing but text and numbers, which their types show at once.
    if _WHOLE.issuperset(map(type, parts)):
        return
    for part in parts:
        if type(part) not in _WHOLE:
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
    for key in () if kinds <= _SURE_KEYS else value:
        plain = key.value if isinstance(key, enum.Enum) else key
        if is_json and isinstance(plain, _NO_JSON_KEYS):
            raise NotSerializableError(
                "JSON keys are text, not bytes, bool or float; serializer msgpack takes them"
            )
        refuse_damage(plain, is_faithful, is_json=is_json)
    # Only those can collide in MessagePack that become text, such as a UUID.
    coder = msgspec.json if is_json else msgspec.msgpack
    encoded = coder.encode(dict.fromkeys(value), enc_hook=exact)
    try:
        names = coder.decode(encoded)
    except (msgspec.DecodeError, TypeError):
        names = None
    if names is None:
        raise NotSerializableError("one of its keys would become what cannot be a key")
    if len(names) != len(value):
        what = "JSON keys are text, and two of these become the same; use msgpack"
        raise NotSerializableError(what if is_json else "two of its keys would become the same")


def exact(value: Any) -> Any:
    """Text or a number of a subclass, such as `markupsafe.Markup`, as plain text or number.

    msgspec 0.19 asks for it of plain text too, where that is the value of an Enum that is a key.

    Raises:
        RefusedError: the value is none, or says itself that it does not equal that.
    """
    for base, convert in _EXACT:
        if isinstance(value, base):
            plain = convert(value)
            if plain == value or plain != plain:  # noqa: PLR0124  NaN
                return plain
            break
    raise NotSerializableError(f"{type(value).__name__} has no form in it")


def is_equal(value: Any, back: Any) -> bool:
    """What `==` says; False where it raises, as of a signalling NaN."""
    try:
        return bool(value == back)
    except Exception:  # noqa: BLE001  an `__eq__` of the user's
        return False


def difference(value: Any, back: Any) -> str | None:
    """The place of the first part that did not come back equal, as `.lines[0].price`; None if all did.

    Asked where `==` says no, which it also says of objects without an `__eq__`, of NaN, and of the
    same moment in two time zones where a clock was put back.
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
    """What an object holds beside its fields: private attributes and extra fields of a model."""
    for place in ("__pydantic_private__", "__pydantic_extra__"):
        ours: dict[str, Any] = getattr(value, place, None) or {}
        theirs: dict[str, Any] = getattr(back, place, None) or {}
        for name, part in ours.items():
            inner = difference(part, theirs[name]) if name in theirs else ""
            if inner is not None:
                return f".{name}{inner}"
        if ours.keys() != theirs.keys():
            return ""
    # Equal in all that can be seen, once moments and NaN are compared as they are meant to be.
    return None


def _is_same_moment(value: dt.datetime, back: dt.datetime) -> bool:
    if value.utcoffset() is None or back.utcoffset() is None:
        return value == back
    return value.astimezone(dt.UTC) == back.astimezone(dt.UTC)


_WHOLE: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
_EXACT: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
_FAMILIES: Final[tuple[tuple[str, tuple[type, ...]], ...]] = (
    ("enum", (enum.Enum,)),
    ("parts", (dict, list, tuple, set, frozenset)),
    ("float", (float,)),
    ("bytes", (bytes, bytearray, memoryview)),
    ("moment", (dt.datetime, dt.time)),
    ("raw", (msgspec.Raw,)),
)
_TEXT: Final = frozenset({str})
_SURE_KEYS: Final[frozenset[type]] = frozenset({str, int})
_NO_JSON_KEYS: Final = (bytes, bytearray, memoryview, bool, float)
_MINUTE: Final = dt.timedelta(minutes=1)
# As variables, so that no type checker takes what is in a value for unknown.
_DICT: Any = dict
_CONTAINERS: Any = (dict, list, tuple)
