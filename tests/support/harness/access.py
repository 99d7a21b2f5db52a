"""How the plain servers of the tests are reached: by anybody, or as `ARC_SERVERS` says.

It is said for the servers of the fixtures, and where a test says itself how its server is reached,
that stays. The look from outside is always the administrator's, and always through the unix socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.choices import SERVERS
from harness.documented_users import BOUNDED_CLEAR, LOADING, NEAR

if TYPE_CHECKING:
    import ssl

    from harness.certificates import Certificates
    from harness.servers import Server, ServerOptions

# For any prefix, as the tests have many, and for any database.
RULES = [*BOUNDED_CLEAR, *NEAR, *LOADING, "resetkeys", "~*", "+select"]


class Access:
    """What a server is given on top of what a test asks for, so that it is reached as chosen."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self.environment: dict[str, str] = {}
        """What makes this process, and those it starts, trust the servers."""
        if "tls" in SERVERS:
            self.environment["SSL_CERT_FILE"] = str(certificates.ca_file)

    def options(self, asked: ServerOptions) -> ServerOptions:
        """What is asked for, and the access where it is not."""
        given: ServerOptions = {}
        if "user" in SERVERS and not asked.keys() & {"password", "acl"}:
            given["password"] = "administrator"
            given["acl"] = {"suite": " ".join(RULES)}
            given["login"] = ("suite", "PASSWORD")
        if "tls" in SERVERS and asked.get("tcp", True):
            given["certificates"] = self._certificates
        return {**given, **asked}

    def proxy_tls(self, server: Server) -> ssl.SSLContext | None:
        """What a proxy needs to see the commands for a server that has been given TLS."""
        ours = server.options.get("certificates") is self._certificates
        return self._certificates.server_context() if "tls" in SERVERS and ours else None
