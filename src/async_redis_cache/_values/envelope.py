"""The envelope: a header in front of a payload that is compressed or signed.

Other payloads are stored as the serializer produced them, so any program can read plain JSON. An envelope begins with
a byte that cannot begin JSON, UTF-8 text or MessagePack, followed by a version, the length of the header, the header
(a MessagePack array) and the payload. A raw payload that begins with this byte is wrapped too, with an empty header.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import struct
import zlib
from typing import Final

import msgspec

__all__ = ["MARK", "Envelope", "UnreadableError"]

MARK: Final = b"\xc1"
_START: Final = struct.Struct(">cBH")
_VERSION: Final = 1
_LARGEST_RATIO: Final = 1032
"""The highest ratio that zlib can reach: a header that claims more is forged or damaged."""


class UnreadableError(ValueError):
    """The stored bytes cannot be decoded, or must not be."""


class _Header(msgspec.Struct, array_like=True):
    compression: str = ""
    size: int = 0
    signature: bytes = b""


class Envelope:
    """Wrap payloads in envelopes, and open envelopes.

    Args:
        compress: whether payloads of at least `threshold` bytes are compressed.
        threshold: in bytes.
        largest: the largest payload after decompression, in bytes.
        signing_key: the secret for signatures (HMAC-SHA-256). Empty: values are neither signed nor verified.
        purpose: the name of the serializer. It is signed too, so that bytes signed as raw can never be loaded as a
            pickle.
    """

    def __init__(
        self, *, compress: bool, threshold: int, largest: int, signing_key: bytes, purpose: str
    ) -> None:
        self._threshold = threshold if compress else None
        self._largest = largest
        self._signing_key = signing_key
        self._purpose = purpose
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(_Header).decode

    def with_purpose(self, purpose: str) -> Envelope:
        """Return the same for another serializer."""
        envelope = copy.copy(self)
        vars(envelope)["_purpose"] = purpose
        return envelope

    def wrap(self, key: bytes, payload: bytes) -> bytes:
        """Return the bytes to store for this payload under this key."""
        small = payload
        if self._threshold is not None and len(payload) >= self._threshold:
            small = zlib.compress(payload, 1)
        if len(small) < len(payload):
            header = _Header(compression="zlib", size=len(payload))
            payload = small
        elif self._signing_key or payload.startswith(MARK):
            header = _Header()
        else:
            return payload
        if self._signing_key:
            header.signature = self._sign(key, header, payload)
        encoded = self._encode(header)
        return _START.pack(MARK, _VERSION, len(encoded)) + encoded + payload

    def open(self, key: bytes, data: bytes) -> bytes:
        """Return the payload of stored bytes.

        Raises:
            UnreadableError: the bytes are damaged, too large, of another version, or not signed with this key.
        """
        if not data.startswith(MARK):
            if self._signing_key:
                raise UnreadableError("not signed")
            return data
        header, payload = self._split(data)
        if self._signing_key and not hmac.compare_digest(
            header.signature, self._sign(key, header, payload)
        ):
            raise UnreadableError("not signed with this key")
        if not header.compression:
            return payload
        if header.compression != "zlib":
            raise UnreadableError("unknown compression")
        return self._decompress(header.size, payload)

    def _split(self, data: bytes) -> tuple[_Header, bytes]:
        try:
            _, version, length = _START.unpack_from(data)
            end = _START.size + length
            header = self._decode(data[_START.size : end])
        except (struct.error, msgspec.MsgspecError) as error:
            raise UnreadableError("damaged header") from error
        if version != _VERSION or end > len(data):
            raise UnreadableError("damaged header")
        return header, data[end:]

    def _decompress(self, size: int, payload: bytes) -> bytes:
        if not 0 <= size <= min(self._largest, len(payload) * _LARGEST_RATIO):
            raise UnreadableError("exceeds the size limit when decompressed")
        inflater = zlib.decompressobj()
        try:
            # One byte more than the header claims is enough to detect a wrong size, and bounds the memory.
            plain = inflater.decompress(payload, size + 1)
        except zlib.error as error:
            raise UnreadableError("damaged payload") from error
        if len(plain) != size or not inflater.eof:
            raise UnreadableError("damaged payload")
        return plain

    def _sign(self, key: bytes, header: _Header, payload: bytes) -> bytes:
        signed = self._encode((self._purpose, key, header.compression, header.size))
        return hmac.digest(self._signing_key, signed + payload, hashlib.sha256)
