"""Several links, of which each tells of other keys: they are believed while all of them are alive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from async_redis_cache._common.endpoint import Address

from .tracking import InvalidationListener

__all__ = ["TrackingGroup"]


class TrackingGroup:
    """Passes on what several links tell.

    Args:
        listener: who is told.
        lost: called when one of them is lost.
    """

    def __init__(self, listener: InvalidationListener, lost: Callable[[], None]) -> None:
        self._listener = listener
        self._lost = lost
        self._moments: dict[Address, float] = {}
        """Until when each has said that it has told all."""

    @property
    def is_whole(self) -> bool:
        """Whether none of them is lost."""
        return -math.inf not in self._moments.values()

    def add(self, place: Address) -> InvalidationListener:
        """Whom the link to this server is to tell. Until it is alive, nothing is trusted."""
        self._moments[place] = -math.inf
        self._listener.disconnected()
        return _NodeListener(self, place)

    def remove(self, place: Address) -> None:
        """The link to this server is not needed any more."""
        self._moments.pop(place, None)
        self._update()

    def changed(self, keys: Sequence[bytes]) -> None:
        """One of them says that these keys have changed."""
        self._listener.changed(list(keys))

    def flush(self) -> None:
        """One of them says that all may have."""
        self._listener.flush()

    def alive_until(self, place: Address, moment: float) -> None:
        """The link to this server is proven alive."""
        if place in self._moments:
            self._moments[place] = moment
            self._update()

    def silent(self, place: Address) -> None:
        """The link to this server is lost."""
        if place in self._moments:
            self._moments[place] = -math.inf
            self._listener.disconnected()
            self._lost()

    def _update(self) -> None:
        moment = min(self._moments.values(), default=-math.inf)
        if moment > -math.inf:
            self._listener.connected_until(moment)


class _NodeListener:
    """One link among several."""

    def __init__(self, unison: TrackingGroup, place: Address) -> None:
        self._unison = unison
        self._place = place
        self.changed = unison.changed
        self.flush = unison.flush

    def connected_until(self, moment: float) -> None:
        """See `Listener`."""
        self._unison.alive_until(self._place, moment)

    def disconnected(self) -> None:
        """See `Listener`."""
        self._unison.silent(self._place)
