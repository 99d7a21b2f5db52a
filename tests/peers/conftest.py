"""These tests run the packages that pages compare with or migrate from: `nox -s docs` installs them, other sessions do not."""

from __future__ import annotations

from importlib.util import find_spec

MIGRATION = ("aiocache", "cashews", "django_redis", "fastapi_cache")
RESPONSES = ("hishel", "redis_fastapi", "fastapi_alcazaba", "litestar", "fastapi_cache")
OF_RESPONSES = "test_http_responses.py"

collect_ignore_glob = [] if all(map(find_spec, MIGRATION)) else ["test_[!h]*.py"]
if not all(map(find_spec, RESPONSES)):
    collect_ignore_glob.append(OF_RESPONSES)
