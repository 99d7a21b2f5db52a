"""TLS: whom we trust and who we are, and a connection of which nothing is left when it ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import anyio.to_thread

from async_redis_cache._common.errors import CacheConfigError
from async_redis_cache._common.options import Options

from .name_resolution import ResolvingConnection

__all__ = ["TLSConfig", "TLSConnection"]

_TURNS_TO_READ: Final = 3
"""Of the loop: it looks what has come, reads it, and tells the stream."""


class _TLSFile(NamedTuple):
    """A file in PEM form, and the option that names it."""

    option: str
    path: str


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """Whom we trust, and who we are to them.

    Attributes:
        authorities: trusted in place of the system's, where a file is named.
        certificate: ours, where a file is named.
        key_file: its private key, where that is not in the same file.
        check_hostname: whether a certificate must bear the host's name.
        verify: whether certificates are verified at all.
    """

    authorities: _TLSFile
    certificate: _TLSFile
    key_file: str
    check_hostname: bool
    verify: bool

    @classmethod
    def of(cls, options: Options, *, sentinels: bool = False) -> TLSConfig:
        """For the servers with the data; for sentinels the same but for the files of their own."""
        authorities = _TLSFile("tls_ca_file", options.tls_ca_file)
        certificate = _TLSFile("tls_certificate_file", options.tls_certificate_file)
        key_file = options.tls_key_file
        if sentinels and options.sentinel_tls_ca_file:
            authorities = _TLSFile("sentinel_tls_ca_file", options.sentinel_tls_ca_file)
        if sentinels and options.sentinel_tls_certificate_file:
            certificate = _TLSFile(
                "sentinel_tls_certificate_file", options.sentinel_tls_certificate_file
            )
            key_file = options.sentinel_tls_key_file
        return cls(
            authorities, certificate, key_file, options.tls_check_hostname, options.tls_verify
        )

    def context(self) -> ssl.SSLContext:
        """What is asked of a connection; the files are read anew each time, as they are renewed."""
        # The authorities of the system where no others are named.
        context = ssl.create_default_context(cafile=self.authorities.path or None)
        self._show(context)
        context.check_hostname = self.check_hostname and self.verify
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        return context

    def check(self) -> None:
        """Find out now what would later be a connection that failed.

        Raises:
            CacheConfigError: BAD_OPTION, when a file cannot be read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        file, problem = self.authorities, ""
        try:
            if file.path:
                context.load_verify_locations(file.path)
            file = self.certificate
            self._show(context)
        except ssl.SSLError:
            problem = "and its like do not hold what they should, in PEM form and unencrypted"
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {type(error).__name__}"
        if problem:
            raise CacheConfigError("BAD_OPTION", f"options.{file.option} {problem}")

    def _show(self, context: ssl.SSLContext) -> None:
        if self.certificate.path:
            # A password, or OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.certificate.path, self.key_file or None, password="")


class TLSConnection(ResolvingConnection):
    """Begins TLS on a connection that is there, and ends without a good-bye.

    Where both begin in one step, asyncio forgets to close a connection that is given up just then; and
    a good-bye leaves one open until the peer has answered it.

    Args:
        new_context: reads whom to trust, and who we are; for each connection, as files are renewed.
        options: of redis-py.
    """

    def __init__(self, *, new_context: Callable[[], ssl.SSLContext], **options: Any) -> None:
        super().__init__(**options)
        self._new_context = new_context

    async def _connect(self) -> None:
        # To read the authorities of a system takes tens of milliseconds.
        context = await anyio.to_thread.run_sync(self._new_context)
        await super()._connect()
        writer = cast("asyncio.StreamWriter", self._writer)
        try:
            await writer.start_tls(context, server_hostname=self.host)
        except BaseException:
            # asyncio closes it, and uvloop not always; and neither tells a stream so that has not got its
            # TLS: who waited for the end would do so in vain.
            writer.transport.abort()
            self._reader = self._writer = None
            raise
        # Our certificate is judged after that. Where it is refused, and the connection closed, whoever
        # writes first learns of the closing alone, and not why: what has come is to be read first.
        for _ in range(_TURNS_TO_READ):
            await asyncio.sleep(0)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Called by redis-py, too, for what has failed or was given up."""
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.transport.abort()
        await super().disconnect(*args, **kwargs)
