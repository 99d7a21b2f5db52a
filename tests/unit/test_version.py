"""The version matches the distribution's."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

import async_redis_cache


def test_version_is_that_of_the_installed_distribution() -> None:
    """`__version__` is the one source of the distribution's version."""
    try:
        installed = version("async-redis-cache")
    except PackageNotFoundError:
        pytest.skip("runs from its sources, without a distribution")
    assert async_redis_cache.__version__ == installed
