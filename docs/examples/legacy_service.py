"""A threaded service with blocking calls, which share round trips.

    python legacy_service.py

Set `CACHE_URL` to the address of your server (`redis://127.0.0.1:6379/0`); the default is a private
server that runs as long as the program.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from async_redis_cache import RedisCache


class PriceList:
    """Prices from a slow database. Thread-safe."""

    def __init__(self, cache: RedisCache) -> None:
        self._prices = cache.namespace("price", type=float, ttl=timedelta(minutes=5))

    def quote(self, sku: str) -> float:
        # Threads that request the same price share one load. While Redis is unreachable, the loader
        # runs without it.
        return self._prices.get_or_load(sku, lambda: self._query_database(sku))

    def change(self, sku: str) -> None:
        self._prices.delete(sku)

    def _query_database(self, sku: str) -> float:
        time.sleep(0.05)
        return len(sku) * 9.5


def main() -> None:
    url = os.environ.get("CACHE_URL", "embedded://")
    with RedisCache.from_url(url, key_prefix="shop:") as cache, ThreadPoolExecutor(16) as threads:
        prices = PriceList(cache)
        orders = [f"sku-{n % 20}" for n in range(2_000)]
        began = time.perf_counter()
        total = sum(threads.map(prices.quote, orders))
        seconds = time.perf_counter() - began

        stats = cache.stats()
        print(f"{len(orders)} quotes on 16 threads in {seconds:.2f} s, total {total:.2f}")
        print(f"{stats.hits} from the cache in {stats.round_trips} round trips")


if __name__ == "__main__":
    main()
