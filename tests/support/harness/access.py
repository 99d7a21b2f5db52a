"""How tests reach the servers of the fixtures: without a login, or as `ARC_SERVERS` says.

Where a test itself configures logins or TLS, its configuration stands. The `raw` client always logs in as the
administrator, through the unix socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.choices import SERVERS
from harness.documented_users import BOUNDED_CLEAR, COUNTING, LOADING, LOCKING, NEAR

if TYPE_CHECKING:
    import ssl

    from harness.certificates import Certificates
    from harness.servers import Server, ServerOptions

# The tests use many prefixes and several databases.
RULES = [*BOUNDED_CLEAR, *NEAR, *LOADING, *COUNTING, *LOCKING, "resetkeys", "~*", "+select"]


class Access:
    """The options that a server gets in addition to those of the test, so that `ARC_SERVERS` holds."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self.environment: dict[str, str] = {}
        """Environment variables with which this process and its children trust the servers."""
        if "tls" in SERVERS:
            self.environment["SSL_CERT_FILE"] = str(certificates.ca_file)

    def options(self, asked: ServerOptions) -> ServerOptions:
        """The options of the test, with those of `ARC_SERVERS` where the test does not set them."""
        given: ServerOptions = {}
        if "user" in SERVERS and not asked.keys() & {"password", "acl"}:
            given["password"] = "administrator"
            given["acl"] = {"suite": " ".join(RULES)}
            given["login"] = ("suite", "PASSWORD")
        if "tls" in SERVERS and asked.get("tcp", True):
            given["certificates"] = self._certificates
        return {**given, **asked}

    def proxy_tls(self, server: Server) -> ssl.SSLContext | None:
        """The TLS context with which a proxy can read the commands, or None for a server without TLS."""
        ours = server.options.get("certificates") is self._certificates
        return self._certificates.server_context() if "tls" in SERVERS and ours else None
