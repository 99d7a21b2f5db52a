"""Bounds on what a server may answer: bytes, and elements that its headers announce.

hiredis has neither bound. It buffers a reply of any size, and makes a list of as many places as an array's
header announces, before one element is there: 13 bytes cost three gigabytes. So what comes is counted, and
what headers announce is added up, before hiredis sees it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from redis.asyncio.connection import DefaultParser

__all__ = ["HandshakeParser", "ReplyLimits", "ReplyTooLargeError"]

_HANDSHAKE_BYTES: Final = 256 * 1024
"""Most bytes that a server may answer before its connection is used: also what sentinels say of replicas."""
_HANDSHAKE_ELEMENTS: Final = 16 * 1024
"""The same of elements, which redis-py makes an object of each, some of them in microseconds."""
_SMALL_BYTES: Final = 64 * 1024
"""What is that short has few elements, whatever it holds: short headers in it are not added up."""
_HEADER_BYTES: Final = 24
"""No header that is one has more: a mark, at most 19 digits, and the line's end."""
_SHORT_BYTES: Final = 4 * 1024
"""To copy so many takes less than to call a function."""
_LINE_BYTES: Final = 64 * 1024
"""The longest line, an error's text for instance, where it is looked at closely."""
_MARKS: Final = b"*%~>|"
_STRINGS: Final = b"$="
_ZERO: Final = b"0"
_NINE: Final = b"9"
_SIZED: Final = _MARKS + _STRINGS


_SHAPES: Final = bytes.maketrans(_MARKS + b"0123456789", b"*" * len(_MARKS) + b"0" * 10)
"""Makes all marks one, and all digits, so that one search finds all headers. Values have many marks, in binary
records for instance, and hardly any with digits behind it."""


def _headers(least_digits: int) -> tuple[bytes, re.Pattern[bytes]]:
    # hiredis takes digits alone, without a sign or zeros in front.
    return b"*" + b"0" * least_digits, re.compile(rb"\*0{%d,19}\r" % least_digits)


_HEADERS: Final = _headers(1)
_LONG_HEADERS: Final = _headers(2)
"""Without those of one digit: where each key is requested by itself, each reply has one."""
_BEGUN: Final = re.compile(rb"[%s]\d*\Z" % _MARKS)


class ReplyTooLargeError(Exception):
    """A reply has more bytes, or announces more elements, than what was asked can have."""


class ReplyLimits:
    """Checks what comes, and passes it on to hiredis.

    Args:
        reader: of hiredis.
        is_exact: whether bytes that look like a header are looked at more closely before a reply is refused
            for them: they may stand in a value.
    """

    def __init__(self, reader: Any, *, is_exact: bool = False) -> None:
        self._feed = reader.feed
        self.gets: Final = reader.gets
        self.has_data: Final = reader.has_data
        self._is_exact = is_exact
        self.received = 0
        """Bytes, since `expect`."""
        self._most = 0
        self._elements = 0
        self._is_counting = False
        """Whether what follows was used since `expect`."""
        self._announced = 0
        self._recent = b""
        self._chunks: list[bytes] = []
        self._walk: _Walk | None = None

    def expect(self, most: int, elements: int) -> None:
        """Take so many bytes from now on, and so many elements. No reply is half read."""
        self._most = most
        self._elements = elements
        self.received = 0
        if self._is_counting:
            self._is_counting = False
            self._announced = 0
            self._chunks = []
            self._walk = None

    def feed(self, data: bytes) -> None:
        """Take what has come.

        Raises:
            ReplyTooLargeError: it is more than expected. The connection is of no use any more.
        """
        before = self.received
        size = len(data)
        self.received = received = before + size
        if received > self._most:
            raise ReplyTooLargeError
        recent = data
        if before:
            recent = self._recent
            self._count(data, recent)
            recent = data if size >= _HEADER_BYTES else recent[-_HEADER_BYTES:] + data
        # Most exchanges end here: one array is all that has come, and its header is short. To look for single
        # bytes like this is the fastest that there is.
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
        """Add up what headers announce. Not all that look like headers are: a value may hold anything."""
        self._is_counting = True
        most = self._elements
        if self._walk is not None:
            self._walk.over(data)
        else:
            # A header may come in parts.
            begun = _BEGUN.search(recent[-_HEADER_BYTES:])
            is_small = self._is_exact and self.received <= _SMALL_BYTES
            seen = begun[0] + data if begun else data
            self._announced += _apparent(seen, _LONG_HEADERS if is_small else _HEADERS)
            if self._is_exact:
                if not self._chunks and recent:
                    # The first did not look like more than one header.
                    self._chunks.append(recent)
                self._chunks.append(data)
                if self._announced > most:
                    self._walk = _Walk(most)
                    for chunk in self._chunks:
                        self._walk.over(chunk)
                    return
        if self._announced > most and self._walk is None:
            raise ReplyTooLargeError


def _apparent(data: bytes, headers: tuple[bytes, re.Pattern[bytes]]) -> int:
    """How many elements all that looks like a header announces."""
    if not any(mark in data for mark in _MARKS):
        return 0
    shapes = data.translate(_SHAPES)
    begin, header = headers
    first = header.match(shapes)
    found = [] if first is None else [first]
    at = shapes.find(begin, 1)
    if at > 0:
        found.extend(header.finditer(shapes, at))
    return sum(int(data[one.start() + 1 : one.end() - 1]) for one in found)


class _Walk:
    """Goes from header to header, past what is in strings.

    Args:
        most: elements that they may announce, and replies beside them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._announced = self._items = 0
        self._skip = 0
        self._rest = b""

    def over(self, data: bytes) -> None:
        """Go over the next bytes.

        Raises:
            ReplyTooLargeError: the headers announce more, or there are more items.
            ValueError: a header is none.
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
            if self._announced > self._most or self._items > 2 * self._most:
                raise ReplyTooLargeError
        self._rest = data[at:]
        self._skip = max(0, at - len(data))
        if len(self._rest) > _LINE_BYTES:
            raise ValueError("a line without an end")


class HandshakeParser(DefaultParser):  # type: ignore[misc,valid-type]
    """redis-py's parser, within bounds: until the login has succeeded, anything may answer."""

    _reader: Any

    def on_connect(self, connection: Any) -> None:
        """Begin to read; called by redis-py."""
        super().on_connect(connection)  # pyright: ignore[reportUnknownMemberType]
        bounds = ReplyLimits(self._reader)
        bounds.expect(_HANDSHAKE_BYTES, _HANDSHAKE_ELEMENTS)
        self._reader = bounds
