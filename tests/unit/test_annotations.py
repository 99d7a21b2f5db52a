"""Functions whose annotations name what does not exist at run time, which Python 3.14 allows without quotes (PEP 649)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, cached
from async_redis_cache._api.loaders import takes_load

# Without `from __future__ import annotations`, whose annotations are texts.
PROGRAM = """
async def find(key: str) -> Missing: ...

def load(request: Missing) -> Missing: ...
"""


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="defining these functions raises NameError on this Python"
)
def test_unresolved_annotations_are_accepted() -> None:
    """A function can be cached, and a loader takes a `Load`, though its annotations cannot be resolved."""
    defined: dict[str, Any] = {"__name__": __name__}
    exec(compile(PROGRAM, __file__, "exec", dont_inherit=True), defined)
    cache = AsyncRedisCache.from_url("redis://127.0.0.1:1")
    assert "find" in repr(cached(cache, key="{key}")(defined["find"]))
    assert takes_load(defined["load"])
