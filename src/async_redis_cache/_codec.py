"""The hall between the doors and the corridor: keys and wire keys, values and stored bytes, time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ._counters import CacheStats
from ._envelope import MARK, Envelope
from ._errors import CacheInputError
from ._json_damage import RefusedError
from ._load_options import LoadOptions, LoadPolicies, LoadPolicy
from ._options import CONTROL, Options
from ._serializers import SERIALIZERS, Serializer
from ._timeouts import Timeout, milliseconds
from ._validation import decoder_of

__all__ = ["Codec", "Decoder"]

Decoder = Callable[[bytes], Any]
_KEY_BYTES: Final = 512


class Codec:
    """Translates what callers say. Whatever it refuses, it refuses before anything is sent.

    Args:
        options: prefix, limits, serializer and compression.
        serializer: instead of the one that the options name.
        counters: where unreadable values are counted.
    """

    def __init__(
        self, options: Options, serializer: Serializer | None, counters: CacheStats
    ) -> None:
        self._counters = counters
        self._prefix = options.key_prefix.encode()
        self._timeout = options.timeout
        self._largest = options.max_value_size
        self._serializer = serializer or SERIALIZERS[options.serializer]()
        self._signed = bool(options.signing_key)
        self._policies = LoadPolicies(options)
        self._envelope = Envelope(
            compress=options.compression != "none",
            threshold=options.compression_threshold,
            largest=options.max_value_size,
            signing_key=options.signing_key.encode(),
            purpose="custom" if serializer else options.serializer,
        )

    def key(self, key: str) -> bytes:
        """The key as it stands on the server.

        Raises:
            CacheInputError: BAD_KEY.
        """
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CacheInputError("BAD_KEY", f"a key is a str, not {type(key).__name__}")
        try:
            encoded = key.encode()
        except UnicodeEncodeError:
            encoded = b""
        if not encoded:
            raise CacheInputError(
                "BAD_KEY", "a key must be text that UTF-8 can hold, and not empty"
            )
        if not key.isprintable() and CONTROL.search(key):
            raise CacheInputError("BAD_KEY", "a key must not hold control characters")
        if len(encoded) > _KEY_BYTES:
            problem = f"a key may have {_KEY_BYTES} bytes, this one has {len(encoded)}"
            raise CacheInputError("BAD_KEY", problem)
        return self._prefix + encoded

    def life(self, timeout: Timeout) -> int:
        """Milliseconds that a value is to live.

        Raises:
            CacheInputError: BAD_TIMEOUT.
        """
        if timeout is None:
            return self._timeout
        return milliseconds(timeout) or self._timeout

    def policy(self, given: LoadOptions) -> LoadPolicy:
        """What applies to a call that loads.

        Raises:
            CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION.
        """
        return self._policies.of(given)

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
        try:
            return decoder_of(self._serializer, kind)
        except Exception as error:  # noqa: BLE001  an annotation may name what does not exist
            problem = f"values cannot be validated as this type: {type(error).__name__}"
        raise CacheInputError("BAD_TYPE", problem)

    def loads(self, key: bytes, data: bytes, decode: Decoder) -> Any:
        """The value that was stored; None, and counted, where it cannot be read."""
        try:
            if self._signed or data.startswith(MARK):
                data = self._envelope.open(key, data)
            return decode(data)
        except Exception:  # noqa: BLE001  whatever stands there is not ours to trust
            self._counters.unreadable += 1
            return None


def _as_bytes(payload: object) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)  # pyright: ignore[reportUnknownArgumentType]
    raise RefusedError("the serializer gave neither bytes nor text")


def _reason(error: Exception) -> str:
    return f"cannot be serialized: {error if isinstance(error, RefusedError) else type(error).__name__}"
