"""How values become bytes and bytes become values again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from .decoders import json_decoder_of, msgpack_decoder_of
from .json_checks import NotSerializableError, exact
from .object_checks import Objects
from .pydantic_models import dumped

__all__ = ["SERIALIZERS", "Json", "MessagePack", "Raw", "Serializer"]

_DECODE_JSON: Final = msgspec.json.Decoder().decode


class Serializer(Protocol):
    """Anything with these two functions can serialize values: `json`, `msgspec.yaml`, your own."""

    def dumps(self, value: Any, /) -> bytes | str:
        """The value as bytes. What it raises becomes NOT_SERIALIZABLE."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """The value again. What it raises makes the key a miss."""
        ...


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
