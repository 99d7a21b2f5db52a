"""Who is measured beside whom: a section is one loop, or one set of threads, with its peers."""

from .peers import AsyncPeer, SyncPeer
from .peers_aiocache import Aiocache
from .peers_cashews import Cashews, CashewsNear
from .peers_coredis import Coredis
from .peers_django import Django, DjangoRedis
from .peers_dogpile import Dogpile
from .peers_fastapi_cache import FastapiCache
from .peers_glide import Glide, GlideInThreads
from .peers_ours import Ours, OursInThreads, OursNear
from .peers_protocol import Protocol
from .peers_published import Published
from .peers_redis import RedisPy, RedisPyInThreads
from .workloads import OURS, UNBOUNDED, Operation


def in_tasks(*, with_others: bool = False) -> list[AsyncPeer]:
    """Ours and the reference; with the others, all that a user would otherwise pick."""
    stores = frozenset({Operation.STORE})
    peers: list[AsyncPeer] = [Ours(), RedisPy(), Ours(UNBOUNDED, operations=stores, max_size=0)]
    if with_others:
        peers += [Glide(), Coredis(), Cashews(), Aiocache(), FastapiCache()]
    return peers


def near() -> list[AsyncPeer]:
    """The near caches, and the reference, which has none and asks the server."""
    return [OursNear(), RedisPy(), CashewsNear(), Coredis(near=True), Glide(near=True)]


def without_serializer() -> list[AsyncPeer]:
    return [Ours(serializer="raw"), Protocol()]


def in_threads(*, with_others: bool = False) -> list[SyncPeer]:
    """The private loop of ours is asyncio's own."""
    peers: list[SyncPeer] = [OursInThreads(), RedisPyInThreads(), Published()]
    if with_others:
        peers += [GlideInThreads(), Dogpile(), Django(), DjangoRedis()]
    return peers


def in_threads_on_uvloop() -> list[SyncPeer]:
    return [OursInThreads(OURS, uvloop=True), RedisPyInThreads()]
