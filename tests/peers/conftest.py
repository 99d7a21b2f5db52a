"""These tests run the packages that the pages "From ..." are about: `nox -s docs` installs them, other sessions do not."""

from __future__ import annotations

from importlib.util import find_spec

PEERS = ("aiocache", "cashews", "django_redis", "fastapi_cache")

collect_ignore_glob = [] if all(map(find_spec, PEERS)) else ["test_*.py"]
