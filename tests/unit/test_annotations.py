"""Functions whose annotations name what is no global: type parameters, and what does not exist at run time (PEP 649)."""

from __future__ import annotations

import sys
from typing import Any, get_args

import pytest

from async_redis_cache import AsyncRedisCache, cached
from async_redis_cache._api.loaders import takes_load
from async_redis_cache._calls.uncacheable import annotated_result

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


GENERIC = """
from __future__ import annotations

def first[T](items: list[T]) -> list[T]: ...

class Shop[K]:
    class Shelf[V]:
        def find(self, key: K) -> dict[K, V]: ...
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a syntax error on this Python")
def test_type_parameters_in_texts_are_resolved() -> None:
    """Those of a function, and of the classes that it is defined in, may be in its return annotation."""
    defined: dict[str, Any] = {"__name__": __name__}
    exec(compile(GENERIC, __file__, "exec", dont_inherit=True), defined)
    first, shop = defined["first"], defined["Shop"]
    assert get_args(annotated_result(first, "first")) == first.__type_params__
    find = shop.Shelf.find
    kinds = shop.__type_params__ + shop.Shelf.__type_params__
    assert get_args(annotated_result(find, "find")) == kinds
