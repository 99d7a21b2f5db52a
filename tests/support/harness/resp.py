"""A minimal RESP parser: which commands were sent, and which have been answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import hiredis

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED_BYTES = 256
ARRAY, LINE_END = b"*", b"\r\n"

_incomplete = object()


class Command(NamedTuple):
    """A command that was carried to the server; of each argument the first 256 bytes."""

    connection: int
    name: str
    arguments: tuple[bytes, ...]


class Requests:
    """The commands in the stream of one client, as long as it is such a stream (TLS is none)."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._readable = True

    @property
    def half_sent(self) -> bool:
        """Whether the rest of a command is still to come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Command]:
        """The commands that are complete with `data`."""
        if not self._readable:
            return
        self._buffer += data
        start = 0
        try:
            while parsed := self._command_at(start):
                command, start = parsed
                yield command
        except ValueError:
            self._readable = False
            start = len(self._buffer)
        del self._buffer[:start]

    def _command_at(self, start: int) -> tuple[Command, int] | None:
        header = self._number_at(start)
        if header is None:
            return None
        count, at = header
        if count < 1 or not self._buffer.startswith(ARRAY, start):
            raise ValueError("not a command")
        words: list[bytes] = []
        for _ in range(count):
            header = self._number_at(at)
            if header is None:
                return None
            size, at = header
            words.append(bytes(self._buffer[at : at + min(size, RECORDED_BYTES)]))
            at += size + len(LINE_END)
            if at > len(self._buffer):
                return None
        return Command(self._connection, words[0].decode().upper(), tuple(words[1:])), at

    def _number_at(self, start: int) -> tuple[int, int] | None:
        """The number of the header that begins at `start`, and where that header ends."""
        end = self._buffer.find(LINE_END, start)
        if end < 0:
            return None
        return int(self._buffer[start + 1 : end]), end + len(LINE_END)


class Replies:
    """The replies in the stream of one server."""

    def __init__(self) -> None:
        self._reader: hiredis.Reader | None = hiredis.Reader(notEnoughData=_incomplete)

    def count(self, data: bytes) -> int:
        """How many replies are complete with `data`; what the server pushes is none."""
        if self._reader is None:
            return 0
        self._reader.feed(data)
        replies = 0
        try:
            while (message := self._reader.gets()) is not _incomplete:
                replies += not isinstance(message, hiredis.PushNotification)
        except hiredis.ProtocolError:
            self._reader = None  # TLS, for instance; it is carried all the same.
        return replies
