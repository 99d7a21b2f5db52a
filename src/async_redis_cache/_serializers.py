"""How values become bytes and bytes become values again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from ._decoding import converter_of, json_decoder_of
from ._json_damage import PLAIN, RefusedError, exact
from ._models import dumped
from ._objects import Objects

__all__ = ["SERIALIZERS", "Json", "MessagePack", "Raw", "Serializer"]


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
            if _DECODE_JSON(payload) != value:
                self._objects.refuse(value)
                _refuse_nothing(is_nothing=payload == b"null")
        except RefusedError as error:
            raise self._objects.explain(value, error) from None
        return payload

    def loads(self, data: bytes) -> Any:
        """Decode to dicts, lists, text and numbers."""
        return _DECODE_JSON(data)


class MessagePack:
    """MessagePack: as JSON, and bytes, NaN, infinities and keys of any kind too."""

    def __init__(self) -> None:
        self._dumps = msgspec.msgpack.Encoder(enc_hook=_plain).encode
        self._objects = Objects(self._dumps, _msgpack_decoder_of, is_json=False)

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            RefusedError: the value is, or holds at its first level, an object that would not come
                back equal, or has keys that would collide.
        """
        try:
            payload = self._dumps(value)
            # What is plain comes to no harm, and a look at each part takes longer than all the rest.
            # Models are looked at wherever they are, since msgspec asks for them.
            if not _seems_plain(value):
                self._objects.refuse(value)
                _refuse_nothing(is_nothing=payload == b"\xc0")
        except RefusedError as error:
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
        raise RefusedError("raw takes bytes and str")

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

_DECODE_JSON: Final = msgspec.json.Decoder().decode
_TEXT: Final = frozenset({str})


def _seems_plain(value: Any) -> bool:
    """Whether a value and what it holds at its first level come back as they were."""
    kind = cast("Any", type(value))
    if kind is dict:
        return PLAIN.issuperset(map(type, value.values())) and _TEXT.issuperset(map(type, value))
    if kind is list:
        return PLAIN.issuperset(map(type, value))
    return kind in PLAIN


def _refuse_nothing(*, is_nothing: bool) -> None:
    if is_nothing:
        raise RefusedError("would be stored as null, which is no value")


def _msgpack_decoder_of(kind: Any) -> Callable[[bytes], Any]:
    convert = converter_of(kind, str_keys=False)

    def decode(data: bytes) -> Any:
        return convert(msgspec.msgpack.decode(data))

    return decode


def _json_plain(value: Any) -> Any:
    """What msgspec does not know, in JSON."""
    return dumped(value, is_json=True) if hasattr(value, "model_dump") else exact(value)


def _plain(value: Any) -> Any:
    """The same in MessagePack."""
    return dumped(value, is_json=False) if hasattr(value, "model_dump") else exact(value)
