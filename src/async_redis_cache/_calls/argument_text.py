"""Texts of arguments for keys: equal values of one type have the same text, all other values have different ones."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import json
import pathlib
import re
import uuid
import weakref
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import starmap
from types import GenericAlias, MappingProxyType, MemberDescriptorType, UnionType
from typing import Any, Final, Generic, TypeVar, Union, cast, get_args, get_origin

import msgspec

from .stable_names import UnstableError, class_path, is_importable, name_of_class

__all__ = ["PLAIN", "plain_text", "receiver_text", "text_of"]

Formatter = Callable[[Any], str]

PLAIN: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
"""Types whose text is their JSON."""
plain_text: Final = msgspec.json.Encoder().encode
"""Encode a sequence of plain values as a JSON array of their texts.

Raises UnicodeEncodeError for lone surrogates, and ValueError or OverflowError for large integers; `text_of` supports
both.
"""


def text_of(value: Any) -> str:
    """Return the text of a value, which identifies its type and its whole contents.

    It is JSON for text, integers, booleans, None, finite floats, and lists and dicts of these; other texts begin with
    the name of the type. Dicts and sets are sorted, unless their equality depends on the order.

    Raises:
        UnstableError: the value, or a part of it, has no text that is the same in every process.
    """
    kind = cast("Any", type(value))
    formatter = _FORMATTERS.get(kind)
    if formatter is None:
        formatter = _OTHER_FORMATTERS.get(kind)
        if formatter is None:
            formatter = _formatter_of(kind)
            # Importable classes live as long as the process, and a dict is faster than a weak one.
            formatters: Any = _FORMATTERS if is_importable(kind) else _OTHER_FORMATTERS
            formatters[kind] = formatter
    return formatter(value)


def receiver_text(value: Any) -> str:
    """Return the text of the object whose method is called: the name of its class if it has no state.

    Raises:
        UnstableError: as for `text_of`.
    """
    kind = cast("Any", type(value))
    name = _STATELESS_NAMES.get(kind)
    if name is None:
        name = _name_if_stateless(kind)
        # Classes that cannot be imported are not remembered, which would keep them alive.
        if is_importable(kind):
            _STATELESS_NAMES[kind] = name
    if not name:
        return text_of(value)
    if getattr(value, "__dict__", None):
        return name + _state(value, frozenset())
    return name


def _formatter_of(kind: Any) -> Formatter:
    """Return the formatter of a class that is not in the table."""
    if _defines_cache_key(kind):
        name = class_path(kind)
        if not callable(kind.__cache_key__):
            raise UnstableError(f"__cache_key__ of {name} is not a method")
        return lambda value: f"{name}({text_of(value.__cache_key__())})"
    if issubclass(kind, type):
        return lambda value: f"type({name_of_class(value)})"
    if issubclass(kind, _ALIASES):
        return _alias
    name = name_of_class(kind)
    if issubclass(kind, enum.Enum):
        return functools.partial(_enum_member, name)
    fields = _fields_of(kind)
    if fields is not None:
        _refuse_hidden_state(kind, frozenset(fields))
        return functools.partial(_with_fields, name, frozenset(fields), fields)
    return _subclass_formatter(kind, name)


def _defines_cache_key(kind: type) -> bool:
    """Whether a class, and not only its metaclass, defines `__cache_key__`."""
    return any("__cache_key__" in vars(base) for base in kind.__mro__)


def _fields_of(kind: Any) -> tuple[str, ...] | None:
    """Return the fields of a dataclass, attrs class, Struct or pydantic model; None for other classes."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if issubclass(kind, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(attribute.name for attribute in kind.__attrs_attrs__)
    if hasattr(kind, "__pydantic_validator__"):
        return tuple(kind.model_fields)
    return None


def _refuse_hidden_state(kind: type, fields: frozenset[str]) -> None:
    """Refuse a class with fields whose instances have more state: other slots, or contents of a built-in base."""
    if msgspec.Struct in kind.__mro__:
        return
    size = _size(object)
    for base in kind.__mro__:
        slots = [
            name for name, slot in vars(base).items() if isinstance(slot, MemberDescriptorType)
        ]
        size += _POINTER * len(slots)
        # attrs has slots of its own for the results of cached properties.
        hidden = fields.union(_PYDANTIC_STATE, ["__pydantic_fields_set__"]).issuperset(slots)
        if not hidden and "__attrs_attrs__" not in vars(base):
            raise UnstableError(f"{kind.__qualname__} has slots in addition to its fields")
    if _size(kind) != size:
        raise UnstableError(f"{kind.__qualname__} has contents in addition to its fields")


def _with_fields(name: str, known: frozenset[str], fields: tuple[str, ...], value: Any) -> str:
    parameters = _state(value, known)
    parts = [f"{field}:{text_of(getattr(value, field, _UNSET))}" for field in fields]
    # In addition to fields, pydantic models may have extra fields and private attributes.
    for attribute in _PYDANTIC_STATE:
        state = getattr(value, attribute, None)
        if state:
            parts.append(f"{attribute}:{text_of(dict(state))}")
    return f"{name}{parameters}({','.join(parts)})"


def _subclass_formatter(kind: type, name: str) -> Formatter:
    """Return the formatter of a subclass of a type in the table."""
    base: Any = next((base for base in kind.__mro__ if base in _EXTENSIBLE), None)
    if base is None or _size(kind) > _size(base):
        raise UnstableError(f"{kind.__qualname__} has no text that identifies its state")
    contents = _FORMATTERS[base]

    def text(value: Any) -> str:
        return f"{name}{_state(value, frozenset())}({contents(value)})"

    return text


def _name_if_stateless(kind: type) -> str:
    """Return the name of a class whose instances have no state but attributes; "" for other classes."""
    has_text = _defines_cache_key(kind) or issubclass(kind, type | enum.Enum)
    # Instances of `object` itself are sentinels: each has its own identity.
    if has_text or kind is object or _fields_of(kind) is not None or _size(kind) > _size(object):
        return ""
    return f"{name_of_class(kind)}()"


def _size(kind: type) -> int:
    """Return the size of an instance in bytes, without the pointers to its dict and its weak references."""
    has_dict = kind.__dictoffset__ > 0 or (kind.__itemsize__ and kind.__dictoffset__ == -_POINTER)
    return kind.__basicsize__ - _POINTER * (bool(has_dict) + (kind.__weakrefoffset__ > 0))


def _state(value: Any, known: frozenset[str]) -> str:
    """Return the type parameters of an object that was created as in `Shop[int]()`; "" without.

    Raises:
        UnstableError: it has attributes that are not in `known`.
    """
    parameters = ""
    for attribute, content in getattr(value, "__dict__", _NOTHING).items():
        kind = cast("Any", type(value))
        if attribute == "__orig_class__":
            parameters = f"[{_listed(get_args(content))}]"
        elif attribute not in known and not isinstance(
            getattr(kind, attribute, None), functools.cached_property
        ):
            raise UnstableError(f"{kind.__qualname__} has the attribute {attribute!r}")
    return parameters


def _string(value: str) -> str:
    try:
        return plain_text(str.__str__(value)).decode()
    except UnicodeEncodeError:
        return json.dumps(str.__str__(value))


def _integer(value: int) -> str:
    # Python limits the number of decimal digits that it converts, and not that of hexadecimal ones.
    is_short = -_LARGE < value < _LARGE
    return int.__repr__(value) if is_short else f"int({int.__format__(value, 'x')})"


def _float(value: float) -> str:
    text = float.__repr__(value)
    return f"float({text})" if text in {"nan", "inf", "-inf"} else text


def _listed(values: Iterable[Any]) -> str:
    return ",".join(map(text_of, values))


def _mapped(value: Mapping[Any, Any]) -> Iterable[str]:
    return starmap("{}:{}".format, ((text_of(key), text_of(part)) for key, part in value.items()))


def _dict(value: Mapping[Any, Any]) -> str:
    return f"{{{','.join(sorted(_mapped(value)))}}}"


def _ordered_dict(value: Mapping[Any, Any]) -> str:
    return f"OrderedDict({','.join(_mapped(value))})"


def _set(value: Iterable[Any]) -> str:
    return f"set({','.join(sorted(map(text_of, value)))})"


def _enum_member(name: str, value: enum.Enum) -> str:
    if isinstance(value, enum.Flag):
        return f"{name}({value.value})"
    # Members that `_missing_` creates do not belong to the class, and may have no name.
    is_own = type(value).__members__.get(value.name) is value
    return f"{name}({_string(value.name) if is_own else f'value:{text_of(value.value)}'})"


def _alias(value: Any) -> str:
    """Return the text of a parameterized type; the members of a union are sorted."""
    origin, args = get_origin(value), list(map(text_of, get_args(value)))
    if origin in {Union, UnionType}:
        return f"Union[{','.join(sorted(args))}]"
    name = text_of(origin) if isinstance(origin, type) else str(origin)
    return f"{name}[{','.join(args)}]"


def _time(value: dt.datetime | dt.time) -> str:
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    fold = ",fold" if value.fold else ""
    zone = f",{_zone(value.tzinfo)}" if value.tzinfo else ""
    return f"{type(value).__name__}({naive}{zone}{fold})"


def _zone(zone: dt.tzinfo) -> str:
    """Return the text of a time zone with a name or a fixed offset."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if not isinstance(name, str):
        offset = zone.utcoffset(None)
        if offset is None:
            raise UnstableError(f"{type(zone).__name__} has no name; use a ZoneInfo")
        name = f"{offset.total_seconds()} {zone.tzname(None)}"
    return f"{class_path(type(zone))}({_string(name)})"


def _delta(value: dt.timedelta) -> str:
    return f"timedelta({value.days},{value.seconds},{value.microseconds})"


def _as_str(value: Any) -> str:
    return f"{type(value).__name__}({_string(str(value))})"


def _pattern(value: re.Pattern[Any]) -> str:
    return f"Pattern({text_of(value.pattern)},{value.flags})"


def _range(value: range) -> str:
    return f"range({value.start},{value.stop},{value.step})"


def _named(name: str, formatter: Formatter) -> Formatter:
    return lambda value: f"{name}({formatter(value)})"


_PYDANTIC_STATE: Final = "__pydantic_extra__", "__pydantic_private__"
_NOTHING: Final[dict[str, Any]] = {}
_PARAMETERIZED: Final[Any] = cast("Any", Generic)[TypeVar("_Any")]
_ALIASES: Final[Any] = GenericAlias, UnionType, type(_PARAMETERIZED)
"""The base classes of parameterized types."""
_LARGE: Final = 10**4000
_POINTER: Final = tuple.__itemsize__


class _Unset:
    """Stands for a field that was not set."""


_UNSET: Final = _Unset()

_FORMATTERS: Final[dict[type, Formatter]] = {
    str: _string,
    int: _integer,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    float: _float,
    complex: _named("complex", repr),
    bytes: _named("bytes", bytes.hex),
    bytearray: _named("bytearray", bytearray.hex),
    list: lambda value: f"[{_listed(value)}]",
    tuple: lambda value: f"({_listed(value)})",
    dict: _dict,
    OrderedDict: _ordered_dict,
    Counter: _named("Counter", _dict),
    defaultdict: lambda value: f"defaultdict({text_of(value.default_factory)},{_dict(value)})",
    MappingProxyType: _named("mappingproxy", _dict),
    deque: lambda value: f"deque({_listed([*value, value.maxlen])})",
    set: _set,
    frozenset: lambda value: f"frozen{_set(value)}",
    range: _range,
    slice: lambda value: f"slice({_listed((value.start, value.stop, value.step))})",
    type(...): lambda _: "Ellipsis()",
    TypeVar: lambda value: f"TypeVar({_string(value.__name__)})",
    dt.datetime: _time,
    dt.time: _time,
    dt.date: _as_str,
    dt.timedelta: _delta,
    dt.timezone: _zone,
    zoneinfo.ZoneInfo: _zone,
    re.Pattern: _pattern,
    fractions.Fraction: _as_str,
    decimal.Decimal: _as_str,
    uuid.UUID: _as_str,
    **dict.fromkeys(
        (
            ipaddress.IPv4Address,
            ipaddress.IPv4Interface,
            ipaddress.IPv4Network,
            ipaddress.IPv6Address,
            ipaddress.IPv6Interface,
            ipaddress.IPv6Network,
            pathlib.PurePosixPath,
            pathlib.PureWindowsPath,
            pathlib.PosixPath,
            pathlib.WindowsPath,
        ),
        _as_str,
    ),
    _Unset: lambda _: "unset()",
}
"""The formatters of types without other state, by type."""
_EXTENSIBLE: Final = frozenset(
    {str, int, float, bytes, list, tuple, dict, set, frozenset, dt.date, dt.datetime}
)
"""The types in the table whose subclasses have the same contents."""
_OTHER_FORMATTERS: Final[weakref.WeakKeyDictionary[type, Formatter]] = weakref.WeakKeyDictionary()
_STATELESS_NAMES: Final[dict[type, str]] = {}
