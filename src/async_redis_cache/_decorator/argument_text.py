"""What a value is called in a key: the same text for equal values of one type, and for no others."""

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

from .identity import UnstableError, class_path, is_imported, name_of_class

__all__ = ["PLAIN", "plain_text", "receiver_text", "text_of"]

Form = Callable[[Any], str]

PLAIN: Final[frozenset[type]] = frozenset({str, int, bool, type(None)})
"""Types whose JSON is their text."""
plain_text: Final = msgspec.json.Encoder().encode
"""The texts of values that are plain, in brackets and with commas between them.

Raises UnicodeEncodeError for text with lone surrogates, and ValueError or OverflowError for large
integers: `text_of` knows these.
"""


def text_of(value: Any) -> str:
    """The text of a value, in which its type and all that it holds can be told apart.

    JSON for text, integers, booleans, None, finite floats, and lists and dicts of these; the others
    have their type's name before it. Dicts and sets have no order, unless equality depends on it.

    Raises:
        UnstableError: the value, or something in it, has no text that another process would agree
            on.
    """
    kind = cast("Any", type(value))
    form = _FORMS.get(kind)
    if form is None:
        form = _MADE.get(kind)
        if form is None:
            form = _form_of(kind)
            # What can be imported stays anyway, and is found faster here.
            forms: Any = _FORMS if is_imported(kind) else _MADE
            forms[kind] = form
    return form(value)


def receiver_text(value: Any) -> str:
    """The text of the object whose method is called: one that keeps nothing is known by its class.

    Raises:
        UnstableError: as for `text_of`.
    """
    kind = cast("Any", type(value))
    name = _BARE.get(kind)
    if name is None:
        name = _name_if_bare(kind)
        # Of the others, which a function has made, each call asks anew: they may come and go.
        if is_imported(kind):
            _BARE[kind] = name
    if not name:
        return text_of(value)
    if getattr(value, "__dict__", None):
        return name + _state(value, frozenset())
    return name


def _form_of(kind: Any) -> Form:
    """How values of a class are written that is none of the well-known ones."""
    if _tells(kind):
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
        return functools.partial(_member, name)
    fields = _fields_of(kind)
    if fields is not None:
        _refuse_hidden(kind, frozenset(fields))
        return functools.partial(_with_fields, name, frozenset(fields), fields)
    return _subclass_form(kind, name)


def _tells(kind: type) -> bool:
    """Whether a class has `__cache_key__`, which its own class may have for itself."""
    return any("__cache_key__" in vars(base) for base in kind.__mro__)


def _fields_of(kind: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass, an attrs class, a Struct or a pydantic model."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if issubclass(kind, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(attribute.name for attribute in kind.__attrs_attrs__)
    if hasattr(kind, "__pydantic_validator__"):
        return tuple(kind.model_fields)
    return None


def _refuse_hidden(kind: type, fields: frozenset[str]) -> None:
    """Refuse a class with fields whose instances keep something else: slots, or the contents of a base."""
    if msgspec.Struct in kind.__mro__:
        return
    size = _size(object)
    for base in kind.__mro__:
        slots = [
            name for name, slot in vars(base).items() if isinstance(slot, MemberDescriptorType)
        ]
        size += _POINTER * len(slots)
        # In those of its own, attrs keeps what cached properties have given.
        hidden = fields.union(_MORE, ["__pydantic_fields_set__"]).issuperset(slots)
        if not hidden and "__attrs_attrs__" not in vars(base):
            raise UnstableError(f"a {kind.__qualname__} has slots beside its fields")
    if _size(kind) != size:
        raise UnstableError(f"a {kind.__qualname__} has fields and contents")


def _with_fields(name: str, known: frozenset[str], fields: tuple[str, ...], value: Any) -> str:
    parameters = _state(value, known)
    parts = [f"{field}:{text_of(getattr(value, field, _UNSET))}" for field in fields]
    # What pydantic keeps beside the fields: undeclared ones, and private attributes.
    for more in _MORE:
        held = getattr(value, more, None)
        if held:
            parts.append(f"{more}:{text_of(dict(held))}")
    return f"{name}{parameters}({','.join(parts)})"


def _subclass_form(kind: type, name: str) -> Form:
    """Of a subclass of something well-known."""
    base: Any = next((base for base in kind.__mro__ if base in _EXTENSIBLE), None)
    if base is None or _size(kind) > _size(base):
        raise UnstableError(f"a {kind.__qualname__} has no text that tells it from others")
    contents = _FORMS[base]

    def form(value: Any) -> str:
        return f"{name}{_state(value, frozenset())}({contents(value)})"

    return form


def _name_if_bare(kind: type) -> str:
    """The name of a class whose instances keep nothing but their attributes; "" of others."""
    is_told = _tells(kind) or issubclass(kind, type | enum.Enum)
    # Two of `object` are made to be told apart.
    if is_told or kind is object or _fields_of(kind) is not None or _size(kind) > _size(object):
        return ""
    return f"{name_of_class(kind)}()"


def _size(kind: type) -> int:
    """Bytes of an instance, without the pointers to its dict and to its weak references."""
    has_dict = kind.__dictoffset__ > 0 or (kind.__itemsize__ and kind.__dictoffset__ == -_POINTER)
    return kind.__basicsize__ - _POINTER * (bool(has_dict) + (kind.__weakrefoffset__ > 0))


def _state(value: Any, known: frozenset[str]) -> str:
    """The type parameters that an object was made with, as in `Shop[int]()`.

    Raises:
        UnstableError: it has attributes beside those that are known.
    """
    parameters = ""
    for attribute, held in getattr(value, "__dict__", _NOTHING).items():
        kind = cast("Any", type(value))
        if attribute == "__orig_class__":
            parameters = f"[{_listed(get_args(held))}]"
        elif attribute not in known and not isinstance(
            getattr(kind, attribute, None), functools.cached_property
        ):
            raise UnstableError(f"a {kind.__qualname__} has the attribute {attribute!r}")
    return parameters


def _string(value: str) -> str:
    try:
        return plain_text(str.__str__(value)).decode()
    except UnicodeEncodeError:
        return json.dumps(str.__str__(value))


def _integer(value: int) -> str:
    # The decimals of an integer are bounded, those to the base of 16 are not.
    is_short = -_LARGE < value < _LARGE
    return int.__repr__(value) if is_short else f"int({int.__format__(value, 'x')})"


def _float(value: float) -> str:
    text = float.__repr__(value)
    return f"float({text})" if text in {"nan", "inf", "-inf"} else text


def _listed(values: Iterable[Any]) -> str:
    return ",".join(map(text_of, values))


def _mapped(value: Mapping[Any, Any]) -> Iterable[str]:
    return starmap("{}:{}".format, ((text_of(key), text_of(held)) for key, held in value.items()))


def _dict(value: Mapping[Any, Any]) -> str:
    return f"{{{','.join(sorted(_mapped(value)))}}}"


def _ordered_dict(value: Mapping[Any, Any]) -> str:
    return f"OrderedDict({','.join(_mapped(value))})"


def _set(value: Iterable[Any]) -> str:
    return f"set({','.join(sorted(map(text_of, value)))})"


def _member(name: str, value: enum.Enum) -> str:
    if isinstance(value, enum.Flag):
        return f"{name}({value.value})"
    # Those that `_missing_` makes are none of the class, and may have no name.
    is_own = type(value).__members__.get(value.name) is value
    return f"{name}({_string(value.name) if is_own else f'value:{text_of(value.value)}'})"


def _alias(value: Any) -> str:
    """Of a type with parameters; those of a union have no order."""
    origin, args = get_origin(value), list(map(text_of, get_args(value)))
    if origin in {Union, UnionType}:
        return f"Union[{','.join(sorted(args))}]"
    name = text_of(origin) if isinstance(origin, type) else str(origin)
    return f"{name}[{','.join(args)}]"


def _moment(value: dt.datetime | dt.time) -> str:
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    fold = ",fold" if value.fold else ""
    zone = f",{_zone(value.tzinfo)}" if value.tzinfo else ""
    return f"{type(value).__name__}({naive}{zone}{fold})"


def _zone(zone: dt.tzinfo) -> str:
    """A time zone: what is known to have the same rules everywhere."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if not isinstance(name, str):
        offset = zone.utcoffset(None)
        if offset is None:
            raise UnstableError(f"a {type(zone).__name__} has no name; take a ZoneInfo")
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


def _named(name: str, form: Form) -> Form:
    return lambda value: f"{name}({form(value)})"


_MORE: Final = "__pydantic_extra__", "__pydantic_private__"
_NOTHING: Final[dict[str, Any]] = {}
_PARAMETRIZED: Final[Any] = cast("Any", Generic)[TypeVar("_Any")]
_ALIASES: Final[Any] = GenericAlias, UnionType, type(_PARAMETRIZED)
"""The classes of types with parameters; others are derived from these."""
_LARGE: Final = 10**4000
_POINTER: Final = tuple.__itemsize__


class _Unset:
    """Stands for a field that was not set."""


_UNSET: Final = _Unset()

_FORMS: Final[dict[type, Form]] = {
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
    dt.datetime: _moment,
    dt.time: _moment,
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
"""Of the types that are known to hold nothing else."""
_EXTENSIBLE: Final = frozenset(
    {str, int, float, bytes, list, tuple, dict, set, frozenset, dt.date, dt.datetime}
)
"""Those of them whose subclasses hold what they hold."""
_MADE: Final[weakref.WeakKeyDictionary[type, Form]] = weakref.WeakKeyDictionary()
_BARE: Final[dict[type, str]] = {}
