"""How values become bytes and bytes become values again."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast, get_type_hints

import msgspec

from .decoders import json_decoder_of, msgpack_decoder_of
from .lossless import (
    NotSerializableError,
    difference,
    exact,
    field_names,
    is_equal,
    parts_of,
    refuse_damage,
)
from .pydantic_models import dumped

__all__ = ["SERIALIZERS", "Json", "MessagePack", "Raw", "Serializer"]

_DECODE_JSON: Final = msgspec.json.Decoder().decode
_MOST_TYPES: Final = 256
_DEEPEST: Final = 100
_PLACE: Final = re.compile(r"at `\$((?:\.\w+|\[\d+\]|\[\.\.\.\])+)`$")
"""Where msgspec could not validate; it does not name keys of dicts either."""


class Serializer(Protocol):
    """Anything with these two functions can serialize values: `json`, `msgspec.yaml`, your own."""

    def dumps(self, value: Any, /) -> bytes | str:
        """The value as bytes. What it raises becomes NOT_SERIALIZABLE."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """The value again. What it raises makes the key a miss."""
        ...


class Objects:
    """Checks objects: dataclasses, attrs classes, Structs and pydantic models.

    An object whose class cannot be validated, or is generic without its parameters, is not checked as a
    whole: only its parts are.

    Args:
        encode: what makes bytes of an object. It checks models itself.
        decoder_of: what makes a decoder for a type; it raises for types that cannot be validated.
        is_json: whether bytes and what is not finite are damage.
    """

    def __init__(
        self,
        encode: Callable[[Any], bytes],
        decoder_of: Callable[[Any], Callable[[bytes], Any]],
        *,
        is_json: bool,
    ) -> None:
        self._encode = encode
        self._decoder_of = decoder_of
        self._is_json = is_json
        self._decoders: dict[Any, Callable[[bytes], Any] | None] = {}

    def refuse(self, value: Any) -> None:
        """Refuse what would be damaged in a value that could be encoded.

        Raises:
            RefusedError: naming the field.
        """
        kind = cast("Any", type(value))
        if kind is list and self._are_faithful(value):
            return
        refuse_damage(value, self._is_faithful, is_json=self._is_json)

    def _are_faithful(self, values: list[Any]) -> bool:
        """Whether a list of objects of one class comes back equal; asked at once, for a third of the time."""
        kinds = {*map(type, values)}
        kind: Any = kinds.pop() if len(kinds) == 1 else None
        if hasattr(kind, "model_dump"):
            return True
        if not field_names(kind) or self._decoder(kind) is None:
            return False
        decode = self._decoder(list[kind])
        try:
            return decode is not None and decode(self._encode(values)) == values
        except Exception:  # noqa: BLE001  they are looked at one by one
            return False

    def explain(self, value: Any, error: Exception) -> NotSerializableError:
        """The error with its place in the value, and the name of the value's class in front."""
        place = ""
        if not isinstance(error, NotSerializableError):
            # An encoder's, of a lone surrogate or a number that is too large. It may quote the value.
            place = "" if isinstance(error, RecursionError) else self._place_of_failure(value)
            error = NotSerializableError(type(error).__name__, place)
        # Where it was raised while the value was encoded, it knows its place in a part alone.
        if not place:
            try:
                refuse_damage(value, self._is_known, is_json=self._is_json)
            except NotSerializableError as placed:
                error = placed
            except Exception:  # noqa: BLE001, S110  the same again
                pass
        kind = cast("Any", type(value))
        if not error.path.startswith("[") and field_names(kind):
            error.path = f"{kind.__name__}{error.path}"
        return error

    def _place_of_failure(self, value: Any) -> str:
        """Where the first part stands that cannot be encoded by itself either."""
        place = ""
        for _ in range(_DEEPEST):
            for step, part in parts_of(value):
                try:
                    self._encode(part)
                except Exception:  # noqa: BLE001  the same again, of this part alone
                    place, value = f"{place}{step}", part
                    break
            else:
                break
        return place

    def _is_faithful(self, value: Any) -> bool:
        kind = cast("Any", type(value))
        try:
            decode = self._decoders[kind]
        except KeyError:
            if hasattr(kind, "model_dump") or not field_names(kind):
                return True
            decode = self._decoder(kind)
        if decode is None:
            return False
        try:
            back = decode(self._encode(value))
        except Exception as error:  # noqa: BLE001  a class may raise anything when it is made
            found = _PLACE.search(str(error))
            place = found[1] if found else self._place_of_unmade(value)
        else:
            place = None if is_equal(value, back) else difference(value, back)
        if place is None:
            return True
        # What is wrong with a part says more.
        refuse_damage(value, _ask_parts, is_json=self._is_json)
        raise NotSerializableError("would not come back equal", place)

    def _place_of_unmade(self, value: Any) -> str:
        """The first field of which a value of its type cannot be made by itself either."""
        kind = cast("Any", type(value))
        name = ""
        try:
            hints = get_type_hints(kind, include_extras=True)
            for name in field_names(kind):
                decode = self._decoder_of(hints.get(name, Any))
                decode(self._encode(getattr(value, name)))
        except Exception:  # noqa: BLE001  the same again, of this field alone
            return f".{name}"
        return ""

    def _is_known(self, value: Any) -> bool:
        if hasattr(value, "model_dump"):
            dumped(value, is_json=self._is_json)
            return True
        kind = cast("Any", type(value))
        if field_names(kind):
            return False
        try:
            self._encode(value)
        except NotSerializableError:
            exact(value)
        return True

    def _decoder(self, kind: Any) -> Callable[[bytes], Any] | None:
        if kind in self._decoders:
            return self._decoders[kind]
        decoder = None
        if not getattr(kind, "__parameters__", ()):
            try:
                decoder = self._decoder_of(kind)
            except Exception:  # noqa: BLE001  an annotation may name what does not exist
                decoder = None
        if len(self._decoders) >= _MOST_TYPES:
            self._decoders.clear()
        self._decoders[kind] = decoder
        return decoder


class Json:
    """JSON that refuses what it would damage in silence.

    Tuples and sets become arrays; dates, UUIDs and Decimals text; Enums their value; dataclasses,
    attrs classes, Structs and pydantic models objects, of which the same can be made again.
    """

    def __init__(self) -> None:
        self._dumps = msgspec.json.Encoder(enc_hook=_json_plain).encode
        self._objects = Objects(self._dumps, json_decoder_of, is_json=True)

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            RefusedError: the value holds bytes, NaN, an infinity or keys that would collide, or an
                object that would not come back equal. It names the field.
        """
        try:
            # Encoded first: that refuses what goes round in circles.
            payload = self._dumps(value)
            # What reads back as it was has come to no harm, and most does. The decoder is written in C:
            # for a large value it needs a third of the time that a look at each part takes.
            plain = _DECODE_JSON(payload)
            try:
                is_same = plain == value
            except Exception:  # noqa: BLE001  a class may know how to compare its own alone
                is_same = False
            if not is_same:
                self._objects.refuse(value)
                _refuse_nothing(is_nothing=plain is None)
        except Exception as error:  # noqa: BLE001  encoders raise many kinds
            raise self._objects.explain(value, error) from None
        return payload

    loads = staticmethod(_DECODE_JSON)
    """Decode to dicts, lists, text and numbers. Without a function around it: each hit is decoded."""


class MessagePack:
    """MessagePack: as JSON, and bytes, NaN, infinities and keys of any kind too."""

    def __init__(self) -> None:
        self._dumps = msgspec.msgpack.Encoder(enc_hook=_plain).encode
        self._objects = Objects(self._dumps, msgpack_decoder_of, is_json=False)

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            RefusedError: the value is, or holds, an object that would not come back equal, or keys
                that would collide. It names the field.
        """
        try:
            payload = self._dumps(value)
            if not _is_plain(value, payload):
                self._objects.refuse(value)
                _refuse_nothing(is_nothing=payload == b"\xc0")
        except Exception as error:  # noqa: BLE001  encoders raise many kinds
            raise self._objects.explain(value, error) from None
        return payload

    def loads(self, data: bytes) -> Any:
        """Decode to dicts, lists, text, bytes and numbers."""
        return msgspec.msgpack.decode(data)


class Raw:
    """Bytes as they are, and text as UTF-8, which comes back as bytes."""

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            RefusedError: the value is neither bytes nor text.
        """
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(cast("bytes", value))
        raise NotSerializableError("raw takes bytes and str")

    def loads(self, data: bytes) -> bytes:
        """The bytes."""
        return data


class Pickle:
    """Pickle. Only ever given data whose signature was verified, see `_envelope`."""

    def dumps(self, value: Any) -> bytes:
        """Encode."""
        return pickle.dumps(value, protocol=5)

    def loads(self, data: bytes) -> Any:
        """Decode."""
        return pickle.loads(data)  # noqa: S301  its signature was checked before


SERIALIZERS: Final[Mapping[str, Callable[[], Serializer]]] = {
    "json": Json,
    "msgpack": MessagePack,
    "raw": Raw,
    "pickle": Pickle,
}

_DECODE_MSGPACK: Final = msgspec.msgpack.Decoder().decode
_TEXT: Final = frozenset({str})
_SCALARS: Final[frozenset[type]] = frozenset({str, int, bool, float, type(None)})
_PLAIN: Final[frozenset[type]] = _SCALARS | {dict, list}


def _is_plain(value: Any, payload: bytes) -> bool:
    """Whether a value comes back from MessagePack as it was."""
    kind = cast("Any", type(value))
    if kind is dict:
        parts = value.values()
        if not _TEXT.issuperset(map(type, value)):
            return False
    elif kind is list:
        parts = value
    else:
        return kind in _SCALARS
    if _SCALARS.issuperset(map(type, parts)):
        return True
    # As for JSON. Where there is an object at the first level, a look at each part is needed anyway.
    if not _PLAIN.issuperset(map(type, parts)):
        return False
    try:
        return bool(_DECODE_MSGPACK(payload) == value)
    except Exception:  # noqa: BLE001  a class may know how to compare its own alone, and a key be none
        return False


def _refuse_nothing(*, is_nothing: bool) -> None:
    if is_nothing:
        raise NotSerializableError("would be stored as null, which is no value")


def _json_plain(value: Any) -> Any:
    """What msgspec does not know, in JSON."""
    return dumped(value, is_json=True) if hasattr(value, "model_dump") else exact(value)


def _plain(value: Any) -> Any:
    """The same in MessagePack."""
    return dumped(value, is_json=False) if hasattr(value, "model_dump") else exact(value)


def _ask_parts(value: Any) -> bool:
    return hasattr(value, "model_dump")
