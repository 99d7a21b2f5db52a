"""The pages about migrating from other libraries have all their parts, and name what exists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache, Namespace, RedisCache, SyncNamespace
from async_redis_cache._common.option_keywords import CacheOptions
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache.asgi import ResponseOptions
from code_blocks import ROOT, name_of

if TYPE_CHECKING:
    from pathlib import Path

MIGRATION = [*(ROOT / "docs" / "how-to").glob("from-*.md")]
PARTS = ["Before", "After", "Equivalents", "What behaves differently", "Moving the data"]
KEYWORDS = {
    *(CacheOptions.__annotations__ | LoadOptions.__annotations__ | ResponseOptions.__annotations__),
    *("any_loop", "cache", "cache_none", "key", "key_prefix", "long_keys"),
    *("serializer", "ttl", "type", "wait"),
    *("db", "hours", "lifespan"),
}
"""Those of caches, namespaces and their methods, and of URLs, timedelta and FastAPI."""


def here(page: Path) -> str:
    """The code in the last column of all tables: what this library has."""
    rows = re.findall(r"^\|.*\|([^|]+)\|$", page.read_text(), re.MULTILINE)
    return "\n".join(re.findall(r"`([^`]+)`", "\n".join(rows)))


@pytest.mark.parametrize("page", MIGRATION, ids=name_of)
def test_each_page_has_its_parts(page: Path) -> None:
    """Both programs, the equivalents, the differences, and what becomes of the data; in this order."""
    assert re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE) == PARTS


@pytest.mark.parametrize("page", MIGRATION, ids=name_of)
def test_equivalents_exist(page: Path) -> None:
    """Every method of a namespace or a cache, and every keyword, is one of this library."""
    code = here(page)
    synchronous = page.stem == "from-django-redis"
    of_namespaces = {*re.findall(r"\b(?:products|views|pages)\.(\w+)\(", code)}
    of_caches = {*re.findall(r"\bcache\.(\w+)\(", code)}
    assert len(of_namespaces) > 2
    assert of_namespaces <= {*dir(SyncNamespace if synchronous else Namespace)}
    assert of_caches <= {*dir(RedisCache if synchronous else AsyncRedisCache)}
    assert {*re.findall(r"(?<![\w-])(\w+)=", code)} <= KEYWORDS
