"""A service of threads and blocking calls: the same cache, and nothing to await.

    python legacy_service.py

`CACHE_URL` names your server (`redis://127.0.0.1:6379/0`); without it a private one runs along.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from async_redis_cache import CacheError, RedisCache


class PriceList:
    """Quotes prices out of a slow database; its methods are called by many threads at once."""

    def __init__(self, cache: RedisCache) -> None:
        self._cache = cache

    def quote(self, sku: str) -> float:
        try:
            price = self._cache.retrieve(None, sku, type=float)
        except CacheError:  # the cache is away: prices take longer, and are as right
            return self._ask_database(sku)
        if price is None:
            price = self._ask_database(sku)
            with suppress(CacheError):
                self._cache.store(None, sku, price)
        return price

    def change(self, sku: str) -> None:
        self._cache.remove(None, sku)

    def _ask_database(self, sku: str) -> float:
        time.sleep(0.05)
        return len(sku) * 9.5


def main() -> None:
    url = os.environ.get("CACHE_URL", "embedded://")
    with RedisCache.from_url(url, key_prefix="prices:") as cache, ThreadPoolExecutor(16) as threads:
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
