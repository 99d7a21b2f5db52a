"""What the factory fixtures of the tests are, for annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Unpack

if TYPE_CHECKING:
    import ssl

    from harness.flavours import Flavour
    from harness.proxy import Proxy
    from harness.servers import Server, ServerOptions


class StartServer(Protocol):
    """Start a server that belongs to the test alone; the test's end is its end."""

    def __call__(
        self, flavour: Flavour | None = None, **options: Unpack[ServerOptions]
    ) -> Server: ...


class StartProxy(Protocol):
    """Start a proxy in front of a server; the test's end is its end."""

    def __call__(self, server: Server, *, tls: ssl.SSLContext | None = None) -> Proxy: ...
