"""What a measurement asks of a peer, and which peers there are.

A peer is an adapter of at most a page: it takes and gives values, not bytes, so the work of
serializing is on every side, and its methods hand over the client's own awaitable where they can,
so that the adapter costs nothing. A further peer needs an adapter and a place in the lists of
`line_up`.

The peers of other packages are imported when they are opened, and as `Any`: who does not measure
them need not have them, and the types are the same with and without them.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

import msgspec

from .servers import Target
from .workloads import Operation

EVERYTHING = frozenset(Operation)
HITS_AND_STORES = frozenset({Operation.RETRIEVE_HIT, Operation.STORE})
NEAR_HITS = frozenset({Operation.NEAR_HIT})

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode
"""The serializer of this library, given to each peer that lets one choose."""


class AsyncPeer(Protocol):
    """A cache whose callers are tasks of one event loop."""

    @property
    def name(self) -> str: ...
    @property
    def operations(self) -> frozenset[Operation]:
        """The rows this peer takes part in."""
        ...

    async def open(self, server: Target) -> None: ...
    async def close(self) -> None: ...
    def store(self, key: str, value: object) -> Awaitable[object]: ...
    def retrieve(self, key: str) -> Awaitable[object]: ...
    def remove(self, key: str) -> Awaitable[object]: ...
    def retrieve_many(self, keys: Sequence[str]) -> Awaitable[Mapping[str, object]]: ...
    def fill(self, values: Mapping[str, object]) -> Awaitable[object]:
        """Store what the measurement will find, in few round trips; never timed."""
        ...


class SyncPeer(Protocol):
    """A cache whose callers are threads."""

    @property
    def name(self) -> str: ...
    @property
    def operations(self) -> frozenset[Operation]: ...
    def open(self, server: Target) -> None: ...
    def close(self) -> None: ...
    def store(self, key: str, value: object) -> object: ...
    def retrieve(self, key: str) -> object: ...
    def remove(self, key: str) -> object: ...
    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]: ...
    def fill(self, values: Mapping[str, object]) -> None: ...
