"""The defaults of the options that limit time: long ones, as a busy machine may stall for a second or two.

So a test whose subject is not a deadline does not fail by one. A test of a deadline sets it; a test of the defaults
themselves takes the fixture `default_deadlines`. Programs in processes of their own have the library's defaults.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from async_redis_cache._common.options import Options

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

LONG: Final[Mapping[str, int]] = {
    "command_timeout": 20_000,
    "connect_timeout": 20_000,
    "loading_lease_timeout": 10_000,
    "near_cache_heartbeat": 10_000,
}
"""Milliseconds, by option."""

_DEFAULTS: Final = cast("dict[str, Any]", Options.__init__.__kwdefaults__)
OF_THE_LIBRARY: Final[Mapping[str, int]] = {name: _DEFAULTS[name] for name in LONG}
"""The library's own defaults of the same options."""


@contextmanager
def defaults(milliseconds: Mapping[str, int]) -> Generator[None]:
    """Replace the defaults of these options."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in milliseconds.items():
            patch.setitem(_DEFAULTS, name, value)
        yield
