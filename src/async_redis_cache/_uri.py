"""Where the server is. A parser of our own, since others quote the password when they complain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import unquote

from ._errors import CacheConfigError

__all__ = ["DEFAULT_PORT", "Endpoint", "parse_port", "parse_uri"]

DEFAULT_PORT: Final = 6379

Kind = Literal["tcp", "unix", "embedded", "fake"]

_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("tcp", False),
    "rediss": ("tcp", True),
    "valkey": ("tcp", False),
    "valkeys": ("tcp", True),
    "unix": ("unix", False),
    "embedded": ("embedded", False),
    "fake": ("fake", False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server, and who we are there. Its repr shows neither user nor password."""

    kind: Kind = "tcp"
    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    tls: bool = False
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def with_login(self, username: str | None, password: str | None) -> Endpoint:
        """The same server with this login; what is None stays as it is."""
        return replace(
            self,
            username=self.username if username is None else username,
            password=self.password if password is None else password,
        )


def parse_uri(uri: str) -> Endpoint:
    """Read `scheme://[user[:password]@]host[:port][/database]`, or a `unix://` path.

    User and password are percent-encoded; the database may also be given as `?db=`. Nothing
    else is taken from a query: a URI cannot switch off the verification of a certificate.

    Raises:
        CacheConfigError: BAD_URI; the message never quotes the URI.
    """
    scheme, separator, rest = uri.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise _bad("must begin with one of " + ", ".join(f"{name}://" for name in _SCHEMES))
    if "#" in rest:
        raise _bad("must not hold '#'; write %23")
    kind, tls = _SCHEMES[scheme.lower()]
    rest, _, query = rest.partition("?")
    login, _, place = rest.rpartition("@") if kind == "unix" else _split_login(rest)
    username, _, password = login.partition(":")
    endpoint = Endpoint(kind=kind, tls=tls, database=_database_of(query)).with_login(
        unquote(username) or None, unquote(password) or None
    )
    if kind == "unix":
        if not place.startswith("/"):
            raise _bad("must name an absolute path, as in unix:///run/redis.sock")
        return replace(endpoint, path=unquote(place))
    if kind != "tcp":
        if rest or query:
            raise _bad(f"takes nothing behind {kind}://")
        return endpoint
    address, _, path = place.partition("/")
    host, port = _split_address(address)
    if path:
        endpoint = replace(endpoint, database=parse_number(path, "database"))
    return replace(endpoint, host=host, port=port)


def parse_number(text: str, what: str) -> int:
    """A database number.

    Raises:
        CacheConfigError: BAD_URI, without the text.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise _bad(f"has a {what} that is no number")
    return int(text)


def parse_port(text: str) -> int:
    """A TCP port.

    Raises:
        CacheConfigError: BAD_URI, without the text.
    """
    port = parse_number(text, "port")
    if not 0 < port < 65536:
        raise _bad("has a port outside 1 to 65535")
    return port


def _split_login(rest: str) -> tuple[str, str, str]:
    authority, slash, path = rest.partition("/")
    login, at, address = authority.rpartition("@")
    return login, at, address + slash + path


def _split_address(address: str) -> tuple[str, int]:
    if address.startswith("["):
        host, closed, port = address[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise _bad("has an IPv6 address that is not closed by ']'")
        port = port[1:]
    else:
        host, _, port = address.partition(":")
    if not host:
        raise _bad("names no host")
    return unquote(host), parse_port(port) if port else DEFAULT_PORT


def _database_of(query: str) -> int:
    database = 0
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name != "db":
            raise _bad("takes no parameter but db")
        database = parse_number(value, "database")
    return database


def _bad(problem: str) -> CacheConfigError:
    return CacheConfigError("BAD_URI", f"connection.uri {problem}")
