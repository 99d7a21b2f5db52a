"""Pauses between attempts at a server that fails."""

from __future__ import annotations

import random

import pytest

from async_redis_cache._common.backoff import RetryBackoff

MOST_A_SECOND = 8
LONGEST_SECONDS = 0.2
ATTEMPTS = 50


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_attempts_are_limited_in_any_second(seed: int | None) -> None:
    """No second holds more than eight attempts, the first one included, and no pause exceeds 200 ms."""
    chances = random.Random(seed)
    now = 0.0
    # Without a seed, each pause is as short as chance can make it.
    backoff = RetryBackoff(lambda: now, (lambda: 0.0) if seed is None else chances.random)
    attempts: list[float] = []
    for _ in range(ATTEMPTS):
        attempts.append(now)
        backoff.failed()
        assert backoff.remaining() <= LONGEST_SECONDS
        now += backoff.remaining()
    assert all(
        later - at > 1 for at, later in zip(attempts, attempts[MOST_A_SECOND:], strict=False)
    )


def test_first_failure_causes_no_pause() -> None:
    """A server that restarts is tried again at once, and after a success the pauses start anew."""
    backoff = RetryBackoff(lambda: 0.0, random.random)
    for _ in range(2):
        backoff.failed()
        assert backoff.remaining() == 0
        backoff.failed()
        assert backoff.remaining() > 0
        backoff.succeeded()
