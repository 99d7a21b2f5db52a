"""The certificate authority of a test run."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of a server and a client it vouches for, and of a stranger to it."""

    ca_file: Path
    server_certificate_file: Path
    server_key_file: Path
    client_certificate_file: Path
    client_key_file: Path
    stranger_ca_file: Path

    @classmethod
    def create(cls, directory: Path, *names: str) -> Self:
        """Write them into `directory`; the server is called `names`, or localhost and 127.0.0.1."""
        files = cls(
            ca_file=directory / "ca.pem",
            server_certificate_file=directory / "server.pem",
            server_key_file=directory / "server-key.pem",
            client_certificate_file=directory / "client.pem",
            client_key_file=directory / "client-key.pem",
            stranger_ca_file=directory / "stranger-ca.pem",
        )
        ca = trustme.CA()
        server = ca.issue_cert(*(names or ("localhost", "127.0.0.1")))
        client = ca.issue_cert("client@example.org", common_name="client")
        ca.cert_pem.write_to_path(str(files.ca_file))
        for leaf, certificate_file, key_file in (
            (server, files.server_certificate_file, files.server_key_file),
            (client, files.client_certificate_file, files.client_key_file),
        ):
            leaf.private_key_pem.write_to_path(str(key_file))
            for blob in leaf.cert_chain_pems:
                blob.write_to_path(str(certificate_file), append=True)
        trustme.CA().cert_pem.write_to_path(str(files.stranger_ca_file))
        return files

    def server_context(self, *, require_client: bool = False) -> ssl.SSLContext:
        """What a TLS server of the tests needs, for instance the proxy."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca_file)
        context.load_cert_chain(self.server_certificate_file, self.server_key_file)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_NONE
        return context
