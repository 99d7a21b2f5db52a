"""The least that a near hit can cost: a dictionary, a clock, and a value decoded for each caller."""

import time
from collections.abc import Mapping, Sequence

from .peers import NEAR_HITS, AsyncPeer, decode, encode
from .peers_ours import OursNear
from .servers import Target
from .workloads import DICTIONARY, EXPIRY_MS


class Dictionary:
    """Serialized values with an expiry in a dictionary of this process; it knows no server."""

    name = DICTIONARY
    operations = NEAR_HITS

    async def open(self, server: Target) -> None:
        self._entries: dict[str, tuple[float, bytes]] = {}

    async def close(self) -> None:
        self._entries.clear()

    async def store(self, key: str, value: object) -> object:
        self._entries[key] = time.monotonic() + EXPIRY_MS / 1000, encode(value)
        return value

    async def retrieve(self, key: str) -> object:
        entry = self._entries.get(key)
        if entry is None or entry[0] <= time.monotonic():
            return None
        return decode(entry[1])

    async def remove(self, key: str) -> object:
        entry = self._entries.pop(key, None)
        return None if entry is None else decode(entry[1])

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        return {key: await self.retrieve(key) for key in keys}

    async def fill(self, values: Mapping[str, object]) -> object:
        for key, value in values.items():
            await self.store(key, value)
        return None


def near_by_hand() -> list[AsyncPeer]:
    """A near hit, and the least that one can cost."""
    return [OursNear(), Dictionary()]
