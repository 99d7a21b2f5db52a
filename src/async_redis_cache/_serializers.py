"""How values become bytes and bytes become values again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from ._json_damage import RefusedError, refuse_damage

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
    attrs classes, Structs and pydantic models objects.
    """

    def __init__(self) -> None:
        self._dumps = msgspec.json.Encoder(enc_hook=_plain).encode

    def dumps(self, value: Any) -> bytes:
        """Encode.

        Raises:
            RefusedError: the value holds bytes, NaN, an infinity or keys that would collide.
        """
        # Encoded first: that refuses what goes round in circles.
        payload = self._dumps(value)
        # What reads back as it was has come to no harm, and most does. The decoder is written in C:
        # for a large value it needs a third of the time that a look at each part takes.
        if _DECODE_JSON(payload) != value:
            refuse_damage(value)
        return payload

    def loads(self, data: bytes) -> Any:
        """Decode to dicts, lists, text and numbers."""
        return _DECODE_JSON(data)


class MessagePack:
    """MessagePack: as JSON, and bytes, NaN, infinities and keys of any kind too."""

    def __init__(self) -> None:
        self._dumps = msgspec.msgpack.Encoder(enc_hook=_plain).encode

    def dumps(self, value: Any) -> bytes:
        """Encode."""
        return self._dumps(value)

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


def _plain(value: Any) -> Any:
    """A pydantic model as plain data; asked by msgspec for types that it does not know."""
    kind = cast("Any", type(value))
    dump = getattr(kind, "model_dump", None)
    if dump is None:
        raise RefusedError(f"{kind.__name__} has no form in it")
    plain = dump(value, mode="json")
    refuse_damage(plain)
    return plain
