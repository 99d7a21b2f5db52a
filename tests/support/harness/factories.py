"""The types of the factory fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Unpack

if TYPE_CHECKING:
    import ssl

    from harness.flavours import Flavour
    from harness.proxy import Proxy
    from harness.servers import Server, ServerOptions


class StartServer(Protocol):
    """Start a private server of the test; it ends with the test."""

    def __call__(
        self, flavour: Flavour | None = None, **options: Unpack[ServerOptions]
    ) -> Server: ...


class StartProxy(Protocol):
    """Start a proxy in front of a server; it ends with the test."""

    def __call__(self, server: Server, *, tls: ssl.SSLContext | None = None) -> Proxy: ...
