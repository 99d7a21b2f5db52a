"""Convert what callers pass: keys to wire keys, values to stored bytes and back, timeouts to milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Final, Self, get_args

from async_redis_cache._common.durations import LONGEST, Timeout, milliseconds
from async_redis_cache._common.errors import CacheConfigError, CacheInputError, CacheUnsupported
from async_redis_cache._common.key_rules import (
    SHORT_KEY,
    LongKeys,
    distinct_tags,
    encode_name,
    hashed_key,
)
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats

from .decoders import decoder_after, json_decoder_of, msgpack_decoder_of
from .envelope import MARK, Envelope
from .lossless import NotSerializableError
from .serializers import SERIALIZERS, Json, MessagePack, Raw, Serializer
from .stored_none import recognizing_none, serialized_none

__all__ = ["Codec", "Decoder", "type_name"]

Decoder = Callable[[bytes], Any]
_MAX_DECODERS: Final = 256
_MAX_TYPE_NAME: Final = 200


class Codec:
    """Validate and convert keys, tags, timeouts and values. Errors are raised before anything is sent.

    Args:
        options: prefix, limits, serializer and compression.
        serializer: used instead of the one that the options name.
        counters: the statistics in which unreadable values are counted.
        unreadable: called for each unreadable value, with the name of the exception's class.
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
        """The type and its decoder, by type: programs use few types, and making a decoder is slow."""
        self._signed = bool(options.signing_key)
        self._hashes_long = False
        self._none: bytes | None = None
        """The serialized None of a codec that stores None as a value."""
        self.foreign_readers: Final = options.foreign_readers
        """Whether only plain values, without a header, may be stored."""
        self.decode_untyped: Final[Decoder] = self._serializer.loads
        self._envelope = Envelope(
            compress=options.compression != "none",
            threshold=options.compression_threshold,
            largest=options.max_value_size,
            signing_key=options.signing_key.encode(),
            purpose="custom" if serializer else options.serializer,
        )

    def of_namespace(
        self,
        prefix: str,
        counters: CacheStats,
        *,
        timeout: Timeout,
        serializer: Serializer | SerializerName | None,
        long_keys: LongKeys,
        cache_none: bool,
    ) -> Self:
        """Return a codec for the keys of a namespace.

        Args:
            prefix: of the namespace, which follows that of this codec.
            counters: count unreadable values.
            timeout: the default TTL; None for that of this codec.
            serializer: used instead of that of this codec; None for that.
            long_keys: "hash" to replace keys that would raise BAD_KEY by their hash.
            cache_none: whether None is a value; then a stored one is decoded as `STORED_NONE`.

        Raises:
            CacheInputError: BAD_TIMEOUT.
            CacheConfigError: BAD_OPTION, the serializer cannot be used with the options of the cache.
        """
        codec = copy.copy(self)
        vars(codec).update(
            _counters=counters,
            _prefix=self._prefix + prefix.encode(),
            _timeout=self.ttl(timeout),
            _hashes_long=long_keys == "hash",
        )
        if serializer is not None:
            vars(codec).update(self._serializing_with(serializer))
        if cache_none:
            none = serialized_none(codec._serializer)  # noqa: SLF001
            decode = recognizing_none(codec.decode_untyped, none)
            vars(codec).update(_none=none, _decoders={}, decode_untyped=decode)
        return codec

    def _serializing_with(self, serializer: Serializer | SerializerName) -> dict[str, Any]:
        """The attributes of a codec with another serializer."""
        if self.foreign_readers and serializer != "json":
            problem = (
                "options.foreign_readers cannot be combined with the serializer of a namespace"
            )
            raise CacheConfigError("BAD_OPTION", problem)
        if serializer == "pickle" and not self._signed:
            problem = "the serializer of a namespace is pickle, which requires options.signing_key"
            raise CacheConfigError("BAD_OPTION", problem)
        purpose = "custom"
        if isinstance(serializer, str):
            purpose, serializer = serializer, SERIALIZERS[serializer]()
        return {
            "_serializer": serializer,
            "_decoders": {},
            "decode_untyped": serializer.loads,
            "_envelope": self._envelope.with_purpose(purpose),
        }

    @property
    def caches_none(self) -> bool:
        """Whether None is a value."""
        return self._none is not None

    @property
    def prefix(self) -> bytes:
        """The prefix of the keys."""
        return self._prefix

    def wire_key(self, key: str) -> bytes:
        """Return the key as stored on the server: with the prefix, in UTF-8.

        Raises:
            CacheInputError: BAD_KEY.
        """
        # The common case, in one expression. Printable text contains neither control characters nor surrogates,
        # which UTF-8 cannot encode.
        if type(key) is str and key.isprintable() and 0 < len(key) <= SHORT_KEY:
            return self._prefix + key.encode()
        return self._prefix + (hashed_key(key) if self._hashes_long else encode_name(key, "key"))

    def wire_tags(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """Return the tags in UTF-8, without duplicates.

        Raises:
            CacheInputError: BAD_TAG.
        """
        return tuple(map(str.encode, self.tags(tags))) if tags else ()

    def tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Validate tags, and return them without duplicates.

        Raises:
            CacheInputError: BAD_TAG.
            CacheUnsupported: there are tags, and `options.foreign_readers` is true.
        """
        distinct = distinct_tags(tags)
        if distinct and self.foreign_readers:
            raise _needs_header("a value with tags")
        return distinct

    def ttl(self, timeout: Timeout) -> int:
        """Return the TTL for a timeout, in milliseconds; the default for None and 0.

        Raises:
            CacheInputError: BAD_TIMEOUT.
        """
        if timeout is None:
            return self._timeout
        if type(timeout) is int and 0 < timeout <= LONGEST:
            return timeout
        return milliseconds(timeout) or self._timeout

    def refuse_loads(self) -> None:
        """Refuse loads where only plain values may be stored: loaded values have a header.

        Raises:
            CacheUnsupported: `options.foreign_readers` is true.
        """
        if self.foreign_readers:
            raise _needs_header("a load")

    def refuse_counters(self) -> None:
        """Refuse counters where the bytes that the server writes for an integer are not those of the integer.

        Raises:
            CacheUnsupported: values are signed, or the serializer does not decode decimal digits.
        """
        if self._signed or self.loaded(b"", b"-12", self._serializer.loads) not in (-12, b"-12"):
            problem = "counters need the serializer json or raw, and no options.signing_key"
            raise CacheUnsupported("UNSUPPORTED", problem)

    def dumps(self, key: bytes, value: Any) -> bytes:
        """Return the bytes to store for a value: serialized, and in an envelope if it needs one.

        Raises:
            CacheInputError: NOT_SERIALIZABLE, VALUE_TOO_LARGE.
        """
        payload = b""
        problem: str | None = None
        try:
            payload = _as_bytes(self._serializer.dumps(value))
        except Exception as error:  # noqa: BLE001  any serializer may be given
            problem = _problem(error)
        # Raised outside of the handler, without a cause: a serializer's error may quote the value.
        if problem is not None:
            raise CacheInputError("NOT_SERIALIZABLE", problem)
        if len(payload) > self._largest:
            problem = (
                f"the serialized {type(value).__name__} has {len(payload)} bytes; "
                f"options.max_value_size is {self._largest}"
            )
            raise CacheInputError("VALUE_TOO_LARGE", problem)
        return self._envelope.wrap(key, payload)

    def decoder(self, kind: Any) -> Decoder:
        """Return a function that decodes a payload and validates it as this type; None: no validation.

        Raises:
            CacheInputError: BAD_TYPE.
        """
        if kind is None:
            return self.decode_untyped
        # Unions with the same members in another order are equal, but the order can decide what a value
        # becomes; so the `repr` is part of the lookup. Types without a hash are looked up by identity.
        lookup: Any = kind
        if not isinstance(kind, type):
            try:
                hash(kind)
                lookup = kind, repr(kind)
            except TypeError:
                lookup = id(kind)
        known = self._decoders.get(lookup)
        if known is None:
            known = kind, self._new_decoder(kind)
            if len(self._decoders) >= _MAX_DECODERS:
                self._decoders.clear()
            # The reference to the type keeps its id from being reused.
            self._decoders[lookup] = known
        return known[1]

    def _new_decoder(self, kind: Any) -> Decoder:
        try:
            decode = _decoder_of(self._serializer, kind)
            return decode if self._none is None else recognizing_none(decode, self._none)
        except Exception as error:  # noqa: BLE001  evaluating annotations may raise anything
            # The first line of the reason, which is about the type and quotes no value.
            reason, *_ = str(error).splitlines() or [""]
            problem = f"type={type_name(kind)} cannot be used for validation: {type(error).__name__}: {reason}"
        raise CacheInputError("BAD_TYPE", problem)

    def loads(self, key: bytes, data: bytes, decode: Decoder) -> Any:
        """Decode a stored value; None if it is unreadable, which is counted and reported."""
        try:
            if self._signed or data.startswith(MARK):
                data = self._envelope.open(key, data)
            return decode(data)
        except Exception as error:  # noqa: BLE001  the stored bytes may be anything
            self._counters.unreadable += 1
            self._unreadable(type(error).__name__)
            return None

    def loaded(self, key: bytes, payload: bytes, decode: Decoder) -> Any:
        """Decode the result of a load; None if it is not valid for the type, which is not counted."""
        try:
            if self._signed or payload.startswith(MARK):
                payload = self._envelope.open(key, payload)
            return decode(payload)
        except Exception:  # noqa: BLE001  a class may raise anything
            return None

    def is_readable(self, key: bytes, data: bytes) -> bool:
        """Whether stored bytes are a value: readable, and not null."""
        return self.loads(key, data, self.decode_untyped) is not None


def _decoder_of(serializer: Serializer, kind: Any) -> Decoder:
    """Return a function that decodes bytes and validates the result as this type.

    Raises:
        TypeError: as for `json_decoder_of`.
    """
    if isinstance(serializer, Json):
        return json_decoder_of(kind)
    if isinstance(serializer, MessagePack):
        return msgpack_decoder_of(kind)
    return decoder_after(serializer.loads, kind, is_raw=isinstance(serializer, Raw))


def _needs_header(what: str) -> CacheUnsupported:
    problem = f"options.foreign_readers is true, and {what} needs a header, which is not JSON"
    return CacheUnsupported("UNSUPPORTED", problem)


def _as_bytes(payload: object) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)  # pyright: ignore[reportUnknownArgumentType]
    raise NotSerializableError(f"dumps returned {type(payload).__name__}, not bytes or str")


def _problem(error: Exception) -> str:
    reason = error if isinstance(error, NotSerializableError) else type(error).__name__
    return f"cannot be serialized: {reason}"


def type_name(kind: Any) -> str:
    """Return a type as error messages name it: `Product`, `list[shop.Product]`; at most 200 characters."""
    name = kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else repr(kind)
    return name if len(name) <= _MAX_TYPE_NAME else f"{name[: _MAX_TYPE_NAME - 3]}..."
