"""What stands in front of a stored payload when there is more to say than the payload itself.

A value without metadata is stored as its serializer made it: plain JSON, which any other program
reads. One with metadata begins with a byte that neither JSON nor UTF-8 text nor MessagePack can
begin with, followed by a version, the header's length, the header (a MessagePack array) and the
payload. A raw payload that happens to begin with that byte is wrapped too, in an empty header.
"""

from __future__ import annotations

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
"""zlib cannot compress further than 1032 to 1: what claims to is no honest value."""


class UnreadableError(ValueError):
    """Stored bytes that this cache cannot, or must not, read."""


class _Header(msgspec.Struct, array_like=True):
    compression: str = ""
    size: int = 0
    signature: bytes = b""


class Envelope:
    """Wraps payloads and opens what was wrapped.

    Args:
        compress: whether payloads from `threshold` bytes on are compressed.
        threshold: in bytes.
        largest: bytes that a payload may have when it is decompressed.
        signing_key: secret of the signatures; empty for none, and then none are checked.
        purpose: what the payload is for, the name of its serializer: what was signed as raw bytes
            must never be taken for a pickle.
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

    def wrap(self, key: bytes, payload: bytes) -> bytes:
        """What is stored for this payload under this key."""
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
        """The payload again.

        Raises:
            UnreadableError: damaged, too large, from a later version, or not signed by us.
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
            raise UnreadableError("compressed in a way unknown here")
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
            raise UnreadableError("larger than this cache takes")
        inflater = zlib.decompressobj()
        try:
            # One byte more than promised shows that the promise was false, and no more is made.
            plain = inflater.decompress(payload, size + 1)
        except zlib.error as error:
            raise UnreadableError("damaged payload") from error
        if len(plain) != size or not inflater.eof:
            raise UnreadableError("damaged payload")
        return plain

    def _sign(self, key: bytes, header: _Header, payload: bytes) -> bytes:
        about = self._encode((self._purpose, key, header.compression, header.size))
        return hmac.digest(self._signing_key, about + payload, hashlib.sha256)
