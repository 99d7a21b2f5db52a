"""The option that an unknown name most likely means, for error messages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["nearest_option"]

_SYNONYMS: Final = {
    "ttl": "timeout",
    "expire": "timeout",
    "namespace": "key_prefix",
    "ssl": "tls",
    "socket_timeout": "command_timeout",
}
"""Names in other libraries that are not similar to the name of the option."""
_SIMILARITY: Final = 0.65
"""Enough to suggest `retries` for `retry`, and not `sentinel_password` for `password`."""


def nearest_option(name: str, names: Collection[str]) -> str | None:
    """Return the nearest of the names of options; None if none is similar.

    Args:
        name: the unknown name. One in a section, as in `near_cache.size`, means another of that section.
        names: those of `Options.names`.
    """
    section, dot, last = name.partition(".")
    start = section + dot
    if not dot or not any(known.startswith(start) for known in names):
        start, last = "", name
    candidates = {
        known.removeprefix(start): known
        for known in names
        if known.startswith(start) and ("." in known) is bool(start)
    }
    import difflib  # noqa: PLC0415  for errors only

    synonym = _SYNONYMS.get(last)
    if synonym in candidates:
        return candidates[synonym]
    similar = difflib.get_close_matches(last, candidates, 1, _SIMILARITY)
    return candidates[similar[0]] if similar else None
