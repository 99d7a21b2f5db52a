"""Callbacks for forked children. Windows has no fork."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["after_fork_in_child"]


def after_fork_in_child(callback: Callable[[], object]) -> None:
    """Call `callback` in every child that this process forks; does nothing on a platform without fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)
