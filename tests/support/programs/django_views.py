"""A WSGI application of Django with an asynchronous view, which has an event loop for each request, and a global cache.

GET /<number> gives the process, and whether the view found what belongs to the number.
"""

from __future__ import annotations

import asyncio
import os
import threading

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path

from async_redis_cache import AsyncRedisCache

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ROOT_URLCONF=__name__,
)
django.setup()
cache = AsyncRedisCache.from_url(
    os.environ["APP_CACHE_URL"], any_loop=True, key_prefix="django:", command_timeout=5000
)


def select(number: int) -> str:
    """Read the database, in the thread of the request."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'value of ' || %s", [number])
        return str(cursor.fetchone()[0])


async def view(request: HttpRequest, number: int) -> JsonResponse:
    """Store and retrieve a value of this process, and load one that all share in the thread of the request."""
    thread = await sync_to_async(threading.get_ident)()
    threads = {thread}

    async def load() -> str:
        threads.add(await sync_to_async(threading.get_ident)())
        return await sync_to_async(select)(number)

    if not cache.is_open():
        await cache.open(None)
    mine = f"{os.getpid()} {number}"
    await cache.store(None, mine, mine)
    own, shared = await asyncio.gather(
        cache.retrieve(None, mine), cache.retrieve_or_load(None, f"{number}", load, timeout=100)
    )
    right = own == mine and shared == f"value of {number}" and threads == {thread}
    return JsonResponse({"pid": os.getpid(), "right": right, "loads": cache.stats().loads})


urlpatterns = [path("<int:number>", view)]
application = WSGIHandler()
