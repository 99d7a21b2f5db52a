"""Limits on replies: bytes, and elements announced by headers.

hiredis has neither limit. It buffers a reply of any size, and allocates as many list slots as the header of an array
announces before one element has arrived: 13 bytes cost three gigabytes. So bytes are counted, and the announced
elements added up, before hiredis receives the data.
"""

from __future__ import annotations

import re
from typing import Any, Final

from redis.asyncio.connection import DefaultParser

__all__ = ["HandshakeParser", "ReplyLimits", "ReplyTooLargeError"]

_HANDSHAKE_BYTES: Final = 256 * 1024
"""Limit on the bytes read before a connection is in use; includes what Sentinels reply about replicas."""
_HANDSHAKE_ELEMENTS: Final = 16 * 1024
"""Limit on the elements; redis-py makes an object of each, which can take microseconds."""
_SMALL_BYTES: Final = 64 * 1024
"""A reply this short has few elements, whatever it contains: its short headers are not added up."""
_HEADER_BYTES: Final = 24
"""The longest valid header: a marker, up to 19 digits and the end of the line."""
_SHORT_BYTES: Final = 4 * 1024
"""Copying this many takes less time than a function call."""
_LINE_BYTES: Final = 64 * 1024
"""The longest line, such as the text of an error, in the exact check."""
_MARKS: Final = b"*%~>|"
_STRINGS: Final = b"$="
_ZERO: Final = b"0"
_NINE: Final = b"9"
_SIZED: Final = _MARKS + _STRINGS


_SHAPES: Final = bytes.maketrans(_MARKS + b"0123456789", b"*" * len(_MARKS) + b"0" * 10)
"""Maps all markers to one and all digits to one, so that a single search finds all headers. Values, such as binary
records, contain many markers, but hardly any followed by digits."""


def _headers(least_digits: int) -> tuple[bytes, re.Pattern[bytes]]:
    # hiredis accepts digits only, without a sign or leading zeros.
    return b"*" + b"0" * least_digits, re.compile(rb"\*0{%d,19}\r" % least_digits)


_HEADERS: Final = _headers(1)
_LONG_HEADERS: Final = _headers(2)
"""Without headers of one digit: if each key has a command of its own, each reply has one."""
_BEGUN: Final = re.compile(rb"[%s]\d*\Z" % _MARKS)


class ReplyTooLargeError(Exception):
    """A reply has more bytes, or announces more elements, than the commands allow."""


class ReplyLimits:
    """Checks incoming data and passes it on to hiredis.

    Args:
        reader: the parser of hiredis.
        is_exact: whether the replies are parsed before one is refused because of bytes that look like headers, and
            may be part of a value.
    """

    def __init__(self, reader: Any, *, is_exact: bool = False) -> None:
        self._feed = reader.feed
        self.gets: Final = reader.gets
        self.has_data: Final = reader.has_data
        self._is_exact = is_exact
        self.received_bytes = 0
        """Bytes since `expect`."""
        self._max_bytes = 0
        self._max_elements = 0
        self._is_counting = False
        """Whether the attributes below were used since `expect`."""
        self._announced = 0
        self._recent = b""
        self._chunks: list[bytes] = []
        self._parser: _HeaderParser | None = None

    def expect(self, max_bytes: int, max_elements: int) -> None:
        """Set the limits for the data that follows. No reply may be partially read."""
        self._max_bytes = max_bytes
        self._max_elements = max_elements
        self.received_bytes = 0
        if self._is_counting:
            self._is_counting = False
            self._announced = 0
            self._chunks = []
            self._parser = None

    def feed(self, data: bytes) -> None:
        """Pass data on to hiredis.

        Raises:
            ReplyTooLargeError: a limit is exceeded; the connection must be closed.
        """
        before = self.received_bytes
        size = len(data)
        self.received_bytes = received = before + size
        if received > self._max_bytes:
            raise ReplyTooLargeError
        recent = data
        if before:
            recent = self._recent
            self._count(data, recent)
            recent = data if size >= _HEADER_BYTES else recent[-_HEADER_BYTES:] + data
        # Most replies end here: a single array with a short header. Searching for single bytes like this is the
        # fastest way.
        elif (
            0x25 in data
            or 0x3E in data
            or 0x7C in data
            or 0x7E in data
            or (0x2A in data[1:] if size <= _SHORT_BYTES else data.find(b"*", 1) >= 0)
            or _ZERO <= data[4:5] <= _NINE
        ):
            self._count(data)
        self._recent = recent
        self._feed(data)

    def _count(self, data: bytes, recent: bytes = b"") -> None:
        """Add up the announced elements. Not everything that looks like a header is one: values are arbitrary bytes."""
        self._is_counting = True
        limit = self._max_elements
        if self._parser is not None:
            self._parser.parse(data)
        else:
            # A header may arrive in parts.
            begun = _BEGUN.search(recent[-_HEADER_BYTES:])
            is_small = self._is_exact and self.received_bytes <= _SMALL_BYTES
            seen = begun[0] + data if begun else data
            self._announced += _apparent(seen, _LONG_HEADERS if is_small else _HEADERS)
            if self._is_exact:
                if not self._chunks and recent:
                    # The first part had no second apparent header, and was not kept.
                    self._chunks.append(recent)
                self._chunks.append(data)
                if self._announced > limit:
                    self._parser = _HeaderParser(limit)
                    for chunk in self._chunks:
                        self._parser.parse(chunk)
                    return
        if self._announced > limit and self._parser is None:
            raise ReplyTooLargeError


def _apparent(data: bytes, headers: tuple[bytes, re.Pattern[bytes]]) -> int:
    """The number of elements announced by everything that looks like a header."""
    if not any(mark in data for mark in _MARKS):
        return 0
    shapes = data.translate(_SHAPES)
    begin, header = headers
    first = header.match(shapes)
    found = [] if first is None else [first]
    second = shapes.find(begin, 1)
    if second > 0:
        found.extend(header.finditer(shapes, second))
    return sum(int(data[match.start() + 1 : match.end() - 1]) for match in found)


class _HeaderParser:
    """Parses header by header, and skips the contents of strings.

    Args:
        max_elements: limit on the announced elements; items may be twice as many.
    """

    def __init__(self, max_elements: int) -> None:
        self._max_elements = max_elements
        self._announced = self._items = 0
        self._skip = 0
        self._rest = b""

    def parse(self, data: bytes) -> None:
        """Parse the next bytes.

        Raises:
            ReplyTooLargeError: the headers announce too many elements, or there are too many items.
            ValueError: a header is malformed.
        """
        data = self._rest + data
        at = self._skip
        while at < len(data):
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            kind = data[at]
            size = int(data[at + 1 : end]) if kind in _SIZED else 0
            at = end + 2
            if kind in _MARKS:
                self._announced += max(0, size)
            elif kind in _STRINGS and size >= 0:
                at += size + 2
            self._items += 1
            if self._announced > self._max_elements or self._items > 2 * self._max_elements:
                raise ReplyTooLargeError
        self._rest = data[at:]
        self._skip = max(0, at - len(data))
        if len(self._rest) > _LINE_BYTES:
            raise ValueError("line without an end")


class HandshakeParser(DefaultParser):  # type: ignore[misc,valid-type]
    """The parser of redis-py with limits: until the login has succeeded, the peer may be anything."""

    _reader: Any

    def on_connect(self, connection: Any) -> None:
        """Wrap the reader. Called by redis-py."""
        super().on_connect(connection)  # pyright: ignore[reportUnknownMemberType]
        limited = ReplyLimits(self._reader)
        limited.expect(_HANDSHAKE_BYTES, _HANDSHAKE_ELEMENTS)
        self._reader = limited
