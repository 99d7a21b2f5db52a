"""The package that this library takes the place of."""

from collections.abc import Mapping, Sequence
from typing import Any

from pip_services4_components.config import ConfigParams
from pip_services4_redis.cache import RedisCache

from .peers import EVERYTHING, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS, PUBLISHED, Operation


class Published:
    """pip-services4-redis 0.0.1, which takes and gives text and bytes and knows no batches.

    Host and port are given under `connection`: at top level, and as a URI, it does not read them.
    Its `remove` gives 1 where the contract asks for the removed value, so that row is a DEL.
    """

    name = PUBLISHED
    operations = EVERYTHING - {Operation.RETRIEVE_MANY}

    def open(self, server: Target) -> None:
        # Typed as Any: the package carries no types.
        self._cache: Any = RedisCache()
        self._cache.configure(
            ConfigParams.from_tuples("connection.host", server.host, "connection.port", server.port)
        )
        self._cache.open(None)

    def close(self) -> None:
        self._cache.close(None)

    def store(self, key: str, value: object) -> object:
        self._cache.store(None, key, encode(value), EXPIRY_MS)
        return value

    def retrieve(self, key: str) -> object:
        payload = self._cache.retrieve(None, key)
        return None if payload is None else decode(payload)

    def remove(self, key: str) -> object:
        return self._cache.remove(None, key)

    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        raise NotImplementedError("single calls, one after the other, would be another workload")

    def fill(self, values: Mapping[str, object]) -> None:
        for key, value in values.items():
            self.store(key, value)
