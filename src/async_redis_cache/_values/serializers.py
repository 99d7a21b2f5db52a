"""Serializers, and the check that objects come back equal from JSON and MessagePack."""

from __future__ import annotations

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
_MAX_DECODERS: Final = 256
_MAX_DEPTH: Final = 100
_PLACE: Final = re.compile(r"at `\$((?:\.\w+|\[\d+\]|\[\.\.\.\])+)`$")
"""The place in an error message of msgspec, which does not name keys of dicts either."""


class Serializer(Protocol):
    """Any object with these two functions is a serializer: the modules `json` and `msgspec.yaml`, or your own."""

    def dumps(self, value: Any, /) -> bytes | str:
        """Return the value as bytes. An exception becomes NOT_SERIALIZABLE."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """Return the value. An exception makes the key a miss."""
        ...


class _ObjectChecks:
    """Check that objects come back equal: dataclasses, attrs classes, Structs and pydantic models.

    If the class of an object cannot be used for validation, or is generic without its parameters, only its parts
    are checked.

    Args:
        encode: encodes an object. It checks pydantic models itself.
        decoder_of: returns a decoder for a type; raises for types that cannot be validated.
        is_json: also refuse bytes, NaN and infinities.
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
        """Refuse a value that was encoded, but would come back changed.

        Raises:
            NotSerializableError: naming the field.
        """
        kind = cast("Any", type(value))
        if kind is list and self._are_faithful(value):
            return
        refuse_damage(value, self._is_faithful, is_json=self._is_json)

    def _are_faithful(self, values: list[Any]) -> bool:
        """Whether a list of objects of one class comes back equal: three times as fast as one by one."""
        kinds = {*map(type, values)}
        kind: Any = kinds.pop() if len(kinds) == 1 else None
        if hasattr(kind, "model_dump"):
            return True
        if not field_names(kind) or self._decoder(kind) is None:
            return False
        decode = self._decoder(list[kind])
        try:
            return decode is not None and decode(self._encode(values)) == values
        except Exception:  # noqa: BLE001  the objects are then checked one by one
            return False

    def explain(self, value: Any, error: Exception) -> NotSerializableError:
        """Return an error that names the value's class and the place in it, for an error of encoding or checking."""
        place = ""
        if not isinstance(error, NotSerializableError):
            # Raised by an encoder, for example for a lone surrogate. Its message may quote the value.
            place = "" if isinstance(error, RecursionError) else self._place_of_failure(value)
            error = NotSerializableError(type(error).__name__, place)
        # An error raised during encoding has only a place relative to a part.
        if not place:
            try:
                refuse_damage(value, self._is_faithful_or_raises, is_json=self._is_json)
            except NotSerializableError as error_with_place:
                error = error_with_place
            except Exception:  # noqa: BLE001, S110  the same error again
                pass
        kind = cast("Any", type(value))
        if not error.path.startswith("[") and field_names(kind):
            error.path = f"{kind.__name__}{error.path}"
        return error

    def _place_of_failure(self, value: Any) -> str:
        """Return the place of the first part that cannot be encoded by itself either."""
        place = ""
        for _ in range(_MAX_DEPTH):
            for step, part in parts_of(value):
                try:
                    self._encode(part)
                except Exception:  # noqa: BLE001  the same error, for this part alone
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
        except Exception as error:  # noqa: BLE001  a constructor may raise anything
            found = _PLACE.search(str(error))
            place = found[1] if found else self._place_of_invalid_field(value)
        else:
            place = None if is_equal(value, back) else difference(value, back)
        if place is None:
            return True
        # An error of a part is more precise.
        refuse_damage(value, _is_checked_model, is_json=self._is_json)
        raise NotSerializableError("would not come back equal", place)

    def _place_of_invalid_field(self, value: Any) -> str:
        """Return the first field whose value is not valid for its type by itself either."""
        kind = cast("Any", type(value))
        name = ""
        try:
            hints = get_type_hints(kind, include_extras=True)
            for name in field_names(kind):
                decode = self._decoder_of(hints.get(name, Any))
                decode(self._encode(getattr(value, name)))
        except Exception:  # noqa: BLE001  the same error, for this field alone
            return f".{name}"
        return ""

    def _is_faithful_or_raises(self, value: Any) -> bool:
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
            except Exception:  # noqa: BLE001  evaluating annotations may raise anything
                decoder = None
        if len(self._decoders) >= _MAX_DECODERS:
            self._decoders.clear()
        self._decoders[kind] = decoder
        return decoder


class Json:
    """JSON that refuses values that would come back changed.

    Tuples and sets become arrays; dates, UUIDs and Decimals become text; Enum members become their value;
    dataclasses, attrs classes, Structs and pydantic models become objects from which an equal one can be created.
    """

    def __init__(self) -> None:
        self._dumps = msgspec.json.Encoder(enc_hook=_json_plain).encode
        self._objects = _ObjectChecks(self._dumps, json_decoder_of, is_json=True)

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            NotSerializableError: the value contains bytes, NaN, an infinity, dict keys that would collide, or an
                object that would not come back equal. It names the field.
        """
        try:
            # Encoding first refuses values that contain themselves.
            payload = self._dumps(value)
            # A value that decodes to an equal one needs no further check, and most do. Decoding, in C, takes a
            # third of the time that checking each part of a large value does.
            plain = _DECODE_JSON(payload)
            try:
                is_same = plain == value
            except Exception:  # noqa: BLE001  a custom `__eq__` may raise anything
                is_same = False
            if not is_same:
                self._objects.refuse(value)
                _refuse_null(is_null=plain is None)
        except Exception as error:  # noqa: BLE001  encoders raise many types
            raise self._objects.explain(value, error) from None
        return payload

    loads = staticmethod(_DECODE_JSON)
    """Decode to dicts, lists, text and numbers. The decoder itself, without a function around it, for speed."""


class MessagePack:
    """MessagePack: accepts what JSON does, and bytes, NaN, infinities and dict keys that are not text."""

    def __init__(self) -> None:
        self._dumps = msgspec.msgpack.Encoder(enc_hook=_msgpack_plain).encode
        self._objects = _ObjectChecks(self._dumps, msgpack_decoder_of, is_json=False)

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            NotSerializableError: the value is or contains an object that would not come back equal, or dict keys
                that would collide. It names the field.
        """
        try:
            payload = self._dumps(value)
            if not _is_plain(value, payload):
                self._objects.refuse(value)
                _refuse_null(is_null=payload == b"\xc0")
        except Exception as error:  # noqa: BLE001  encoders raise many types
            raise self._objects.explain(value, error) from None
        return payload

    def loads(self, data: bytes) -> Any:
        """Decode to dicts, lists, text, bytes and numbers."""
        return msgspec.msgpack.decode(data)


class Raw:
    """Store bytes unchanged, and text as UTF-8, which comes back as bytes."""

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            NotSerializableError: the value is neither bytes nor text.
        """
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(cast("bytes", value))
        raise NotSerializableError(
            f"the serializer raw accepts bytes and str, not {type(value).__name__}"
        )

    def loads(self, data: bytes) -> bytes:
        """Return the bytes unchanged."""
        return data


class Pickle:
    """Pickle. Receives only data whose signature was verified, see `envelope`."""

    def dumps(self, value: Any) -> bytes:
        """Encode."""
        import pickle  # noqa: PLC0415  few caches use it

        return pickle.dumps(value, protocol=5)

    def loads(self, data: bytes) -> Any:
        """Decode."""
        import pickle  # noqa: PLC0415  few caches use it

        return pickle.loads(data)  # noqa: S301  its signature was verified


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
    """Whether a value comes back from MessagePack unchanged; false if its parts have to be checked."""
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
    # As for JSON. With an object at the first level, each part has to be checked anyway.
    if not _PLAIN.issuperset(map(type, parts)):
        return False
    try:
        return bool(_DECODE_MSGPACK(payload) == value)
    except Exception:  # noqa: BLE001  decoding and a custom `__eq__` may raise anything
        return False


def _refuse_null(*, is_null: bool) -> None:
    if is_null:
        raise NotSerializableError("would be stored as null, which is not a value")


def _json_plain(value: Any) -> Any:
    """Convert a type that msgspec does not support, for JSON."""
    return dumped(value, is_json=True) if hasattr(value, "model_dump") else exact(value)


def _msgpack_plain(value: Any) -> Any:
    """Convert a type that msgspec does not support, for MessagePack."""
    return dumped(value, is_json=False) if hasattr(value, "model_dump") else exact(value)


def _is_checked_model(value: Any) -> bool:
    return hasattr(value, "model_dump")
