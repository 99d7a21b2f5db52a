"""The hall between the doors and the corridor: keys and wire keys, values and stored bytes, time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from async_redis_cache._common.durations import Timeout, milliseconds
from async_redis_cache._common.errors import CacheInputError, CacheUnsupported
from async_redis_cache._common.options import CONTROL, LONGEST, MOST_TAGS, Options
from async_redis_cache._common.stats import CacheStats

from .decoders import decoder_after, json_decoder_of, msgpack_decoder_of
from .envelope import MARK, Envelope
from .lossless import NotSerializableError
from .serializers import SERIALIZERS, Json, MessagePack, Raw, Serializer

__all__ = ["Codec", "Decoder"]

Decoder = Callable[[bytes], Any]
_KEY_BYTES: Final = 512
_SHORT_KEY: Final = _KEY_BYTES // 4
"""So many characters never have too many bytes."""
_MOST_TYPES: Final = 256


class Codec:
    """Translates what callers say. Whatever it refuses, it refuses before anything is sent.

    Args:
        options: prefix, limits, serializer and compression.
        serializer: instead of the one that the options name.
        counters: where unreadable values are counted.
        unreadable: called with the type of what made a stored value unreadable.
    """

    def __init__(
        self,
        options: Options,
        serializer: Serializer | None,
        counters: CacheStats,
        unreadable: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._counters = counters
        self._unreadable = unreadable
        self._prefix = options.key_prefix.encode()
        self._timeout = options.timeout
        self._largest = options.max_value_size
        self._serializer = serializer or SERIALIZERS[options.serializer]()
        self._decoders: dict[Any, tuple[Any, Decoder]] = {}
        """By type: there are few, and a decoder takes long to make. Each with the type itself."""
        self._signed = bool(options.signing_key)
        self.foreign_readers: Final = options.foreign_readers
        """Whether only values without metadata may be stored."""
        self.decode_untyped: Final[Decoder] = self._serializer.loads
        self._envelope = Envelope(
            compress=options.compression != "none",
            threshold=options.compression_threshold,
            largest=options.max_value_size,
            signing_key=options.signing_key.encode(),
            purpose="custom" if serializer else options.serializer,
        )

    def wire_key(self, key: str) -> bytes:
        """The key as it stands on the server.

        Raises:
            CacheInputError: BAD_KEY.
        """
        # Most keys are short and need no closer look: caches do this all day. What is printable has no control
        # characters, and no surrogates, which UTF-8 cannot hold.
        if type(key) is str and key.isprintable() and 0 < len(key) <= _SHORT_KEY:
            return self._prefix + key.encode()
        return self._prefix + _encoded(key, "key")

    def wire_tags(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """Tags as they stand on the server, each once.

        Raises:
            CacheInputError: BAD_TAG.
        """
        return tuple(tag.encode() for tag in self.tags(tags)) if tags else ()

    def tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Tags that an entry may have, each once.

        Raises:
            CacheInputError: BAD_TAG.
        """
        if isinstance(tags, str) or not isinstance(tags, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CacheInputError("BAD_TAG", "several tags are taken, as a tuple")
        taken = {tag: _encoded(tag, "tag") for tag in tags}
        if taken and self.foreign_readers:
            raise _foreign("a value with tags")
        if len(taken) > MOST_TAGS:
            problem = f"{MOST_TAGS} tags are taken at once, and these are {len(taken)}"
            raise CacheInputError("BAD_TAG", problem)
        return tuple(taken)

    def ttl(self, timeout: Timeout) -> int:
        """Milliseconds that a value is to live.

        Raises:
            CacheInputError: BAD_TIMEOUT.
        """
        if timeout is None:
            return self._timeout
        if type(timeout) is int and 0 < timeout <= LONGEST:
            return timeout
        return milliseconds(timeout) or self._timeout

    def refuse_loads(self) -> None:
        """Raise if values with metadata, which loads store, cannot be read by all readers.

        Raises:
            CacheUnsupported: `options.foreign_readers` is true.
        """
        if self.foreign_readers:
            raise _foreign("a load")

    def dumps(self, key: bytes, value: Any) -> bytes:
        """What is stored for a value.

        Raises:
            CacheInputError: NOT_SERIALIZABLE, VALUE_TOO_LARGE.
        """
        payload = b""
        problem: str | None = None
        try:
            payload = _as_bytes(self._serializer.dumps(value))
        except Exception as error:  # noqa: BLE001  any serializer may be given
            problem = _reason(error)
        # Raised outside of the handler: a serializer's error may quote the value.
        if problem is not None:
            raise CacheInputError("NOT_SERIALIZABLE", problem)
        if len(payload) > self._largest:
            problem = f"a value may have {self._largest} bytes, this one has {len(payload)}"
            raise CacheInputError("VALUE_TOO_LARGE", problem)
        return self._envelope.wrap(key, payload)

    def decoder(self, kind: Any) -> Decoder:
        """What makes a value of this type from a payload; of any type where `kind` is None.

        Raises:
            CacheInputError: BAD_TYPE.
        """
        if kind is None:
            return self._serializer.loads
        # A class is known by itself. Other types are equal where the order of a union differs, which
        # may decide what a value becomes; and some cannot be hashed, and are known by identity.
        name: Any = kind
        if not isinstance(kind, type):
            try:
                hash(kind)
                name = kind, repr(kind)
            except TypeError:
                name = id(kind)
        known = self._decoders.get(name)
        if known is None:
            known = kind, self._made_decoder(kind)
            if len(self._decoders) >= _MOST_TYPES:
                self._decoders.clear()
            # The type is kept: while it lives, no other has its identity.
            self._decoders[name] = known
        return known[1]

    def _made_decoder(self, kind: Any) -> Decoder:
        try:
            return _decoder_of(self._serializer, kind)
        except Exception as error:  # noqa: BLE001  an annotation may name what does not exist
            problem = f"values cannot be validated as this type: {type(error).__name__}"
        raise CacheInputError("BAD_TYPE", problem)

    def loads(self, key: bytes, data: bytes, decode: Decoder) -> Any:
        """The value that was stored; None, and counted, where it cannot be read."""
        try:
            if self._signed or data.startswith(MARK):
                data = self._envelope.open(key, data)
            return decode(data)
        except Exception as error:  # noqa: BLE001  whatever stands there is not ours to trust
            self._counters.unreadable += 1
            self._unreadable(type(error).__name__)
            return None

    def loaded(self, key: bytes, payload: bytes, decode: Decoder) -> Any:
        """The value that a load gave; None where it does not fit the type, which is not counted."""
        try:
            if self._signed or payload.startswith(MARK):
                payload = self._envelope.open(key, payload)
            return decode(payload)
        except Exception:  # noqa: BLE001  a type may raise anything
            return None

    def is_readable(self, key: bytes, data: bytes) -> bool:
        """Whether this is a value: neither what cannot be read nor a null."""
        return self.loads(key, data, self._serializer.loads) is not None


def _encoded(name: str, what: str) -> bytes:
    """A name that may stand on the server.

    Raises:
        CacheInputError: BAD_KEY, BAD_TAG, by what it is.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _bad(what, f"is a str, not {type(name).__name__}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded:
        raise _bad(what, "must be text that UTF-8 can hold, and not empty")
    if not name.isprintable() and CONTROL.search(name):
        raise _bad(what, "must not hold control characters")
    if len(encoded) > _KEY_BYTES:
        raise _bad(what, f"may have {_KEY_BYTES} bytes, this one has {len(encoded)}")
    return encoded


def _decoder_of(serializer: Serializer, kind: Any) -> Decoder:
    """A function from bytes to a validated object of this type.

    Raises:
        TypeError: as for `json_decoder_of`.
    """
    if isinstance(serializer, Json):
        return json_decoder_of(kind)
    if isinstance(serializer, MessagePack):
        return msgpack_decoder_of(kind)
    return decoder_after(serializer.loads, kind, is_raw=isinstance(serializer, Raw))


def _foreign(what: str) -> CacheUnsupported:
    problem = f"options.foreign_readers is true, and {what} needs a header, which is no JSON"
    return CacheUnsupported("UNSUPPORTED", problem)


def _bad(what: str, problem: str) -> CacheInputError:
    return CacheInputError(f"BAD_{what.upper()}", f"a {what} {problem}")


def _as_bytes(payload: object) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)  # pyright: ignore[reportUnknownArgumentType]
    raise NotSerializableError("the serializer gave neither bytes nor text")


def _reason(error: Exception) -> str:
    return f"cannot be serialized: {error if isinstance(error, NotSerializableError) else type(error).__name__}"
