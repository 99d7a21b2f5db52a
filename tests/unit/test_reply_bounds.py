"""The bounds of replies, without a network: what they refuse, and nothing else."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_redis_cache._connection.reply_limits import ReplyLimits, ReplyTooLargeError

NOTHING_YET = object()
MOST = 3_000


class _Reader:
    """Stands for hiredis; takes what it is fed."""

    def __init__(self) -> None:
        self.fed = b""
        self.gets = self.has_data = lambda: None

    def feed(self, data: bytes) -> None:
        self.fed += data


def _bounds(*, is_exact: bool = True, most: int = MOST) -> tuple[ReplyLimits, _Reader]:
    reader = _Reader()
    bounds = ReplyLimits(reader, is_exact=is_exact)
    bounds.expect(most, most // 3)
    return bounds, reader


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False) if b > a]


def _feed(bounds: ReplyLimits, pieces: list[bytes]) -> None:
    for piece in pieces:
        bounds.feed(piece)


BEFORE = st.sampled_from(
    [b"", b"*1\r\n", b"*2\r\n:1\r\n", b"$3\r\na\r\n\r\n", b"$1\r\naXX", b"*1\r\n%1\r\n"]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    before=BEFORE,
    mark=st.sampled_from([b"*", b"%", b"~", b">", b"|"]),
    number=st.integers(MOST // 3 + 1, 1 << 40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    is_exact=st.booleans(),
)
def test_header_is_refused_when_it_announces_too_much(
    before: bytes, mark: bytes, number: int, cuts: list[int], is_exact: bool
) -> None:
    """40. A RESP header that announces too many bytes or elements is refused wherever it stands."""
    bounds, reader = _bounds(is_exact=is_exact)
    data = before + mark + b"%d\r\n" % number
    with pytest.raises(ReplyTooLargeError):
        _feed(bounds, _pieces(data, cuts))
    assert len(reader.fed) < len(data)


VALUES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"*9999999\r\n", b"\r\n%77777777\r", b"a~123456\r\n*1\r\n", b"$5\r\n*99999\r\n"]
    ),
)
REPLY = st.recursive(
    st.one_of(VALUES, st.none(), st.integers(-(10**9), 10**9)),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=30,
)


def _packed(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"*%d\r\n" % len(reply) + b"".join(map(_packed, reply))


def _elements_in(reply: Any) -> int:
    if not isinstance(reply, list):
        return 0
    parts: list[Any] = reply  # pyright: ignore[reportUnknownVariableType]
    return len(parts) + sum(map(_elements_in, parts))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(reply=REPLY, cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_reply_passes_when_it_is_within_the_bounds(reply: Any, cuts: list[int]) -> None:
    """40. A reply within the limits is parsed as by hiredis alone."""
    data = _packed(reply)
    bounds = ReplyLimits(hiredis.Reader(notEnoughData=NOTHING_YET), is_exact=True)
    bounds.expect(len(data), _elements_in(reply) + 1)
    found: Any = NOTHING_YET
    for piece in _pieces(data, cuts):
        assert found is NOTHING_YET
        bounds.feed(piece)
        found = bounds.gets()
    assert found == reply
    assert bounds.received_bytes == len(data)


def test_bytes_are_refused_when_they_are_too_many() -> None:
    """One byte more than expected is never fed."""
    bounds, reader = _bounds()
    bounds.feed(b"x" * MOST)
    with pytest.raises(ReplyTooLargeError):
        bounds.feed(b"x")
    assert len(reader.fed) == MOST


def test_elements_of_all_headers_are_added_up() -> None:
    """Many small arrays are as much as a large one; what comes next begins at nothing."""
    bounds, _ = _bounds()
    bounds.feed(b"*500\r\n" * 2)
    bounds.expect(MOST, MOST // 3)
    bounds.feed(b"*2\r\n*500\r\n")
    with pytest.raises(ReplyTooLargeError):
        bounds.feed(b"*501\r\n")


def test_line_is_refused_when_it_has_no_end() -> None:
    """Where headers are looked at one by one, a line of 64 KiB is none."""
    bounds, _ = _bounds(most=600_000)
    bounds.feed(b"*1\r\n$9\r\n*9999999\r\r\n+")
    with pytest.raises(ValueError, match="without an end"):
        _feed(bounds, [b"x" * 8_000] * 9)


def test_elements_of_short_headers_are_added_up_when_there_are_many() -> None:
    """Small lists in a long reply are elements too."""
    bounds, _ = _bounds(most=600_000)
    with pytest.raises(ReplyTooLargeError):
        _feed(bounds, [b"*9\r\n" * 10_000] * 12)
