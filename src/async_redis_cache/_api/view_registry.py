"""The views of a cache: its namespaces and cached functions, for instrumentation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

__all__ = ["ViewRegistry"]


def _nothing(_: Any) -> None:
    """The default callback."""


class ViewRegistry:
    """The views of one cache, views of views included. It does not keep them alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: WeakSet[Any] = WeakSet()
        self._prepare: Callable[[Any], None] = _nothing

    def add(self, view: Any) -> None:
        """Add a new view, and prepare it."""
        with self._lock:
            self._views.add(view)
            self._prepare(view)

    def prepare_each(self, prepare: Callable[[Any], None]) -> None:
        """Call a function with each view, and with those that are added from now on."""
        with self._lock:
            self._prepare = prepare
            for view in tuple(self._views):
                prepare(view)

    def release_each(self, release: Callable[[Any], None]) -> None:
        """Call a function with each view, and prepare those that are added from now on no more."""
        self.prepare_each(release)
        self._prepare = _nothing
