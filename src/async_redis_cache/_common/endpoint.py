"""Where the server is. A parser of our own, since others quote the password when they complain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import unquote

from .errors import CacheConfigError

__all__ = ["DEFAULT_PORTS", "Address", "Endpoint", "Topology", "name_of", "parse_port", "parse_uri"]

Kind = Literal["tcp", "unix", "embedded", "fake"]
Topology = Literal["single", "sentinel", "cluster"]
Address = tuple[str, int]
"""A host and a port."""

DEFAULT_PORTS: Final[dict[Topology, int]] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
"""Of the servers that an address names: with sentinels, of these."""
_TCP: Final = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
_SCHEMES: Final[dict[str, tuple[Kind, bool, Topology]]] = {
    **{name: ("tcp", tls, "single") for name, tls in _TCP.items()},
    "unix": ("unix", False, "single"),
    "embedded": ("embedded", False, "single"),
    "fake": ("fake", False, "single"),
    **{f"{name}+sentinel": ("tcp", tls, "sentinel") for name, tls in _TCP.items()},
    **{f"{name}+cluster": ("tcp", tls, "cluster") for name, tls in _TCP.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the server is, and who we are there. Its repr shows neither user nor password.

    Attributes:
        kind: how it is reached.
        topology: whether it is one, or who knows which it is.
        host: of a single server.
        port: likewise.
        seeds: who knows: sentinels, or nodes of a cluster.
        master: the name that the sentinels know it by.
        path: of a unix socket.
        is_named_by_server: whether a sentinel or a node has named the host, and not the configuration.
        tls: whether the connection is encrypted; that to a sentinel is an option of its own.
        database: its number.
        username: of the login.
        password: of the login.
    """

    kind: Kind = "tcp"
    topology: Topology = "single"
    host: str = ""
    port: int = DEFAULT_PORTS["single"]
    seeds: tuple[Address, ...] = ()
    master: str = ""
    path: str = ""
    is_named_by_server: bool = False
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

    def at(self, address: Address) -> Endpoint:
        """The single server at this address."""
        host, port = address
        return replace(
            self,
            topology="single",
            host=host,
            port=port,
            seeds=(),
            master="",
            is_named_by_server=bool(self.seeds) and host not in dict(self.seeds),
        )

    @property
    def name(self) -> str:
        """What it is called where people read it; the login is no part of that."""
        if self.kind == "tcp":
            places = self.seeds or ((self.host, self.port),)
            return self.master or ",".join(map(name_of, places))
        return self.path or self.kind


def name_of(address: Address) -> str:
    """An address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_uri(uri: str) -> Endpoint:
    """Read `scheme://[user[:password]@]host[:port][/database]`, or a `unix://` path.

    Where sentinels or a cluster are named, several `host[:port]`, separated by commas; with
    sentinels, `/master[/database]` behind them. User and password are percent-encoded; the database may also be given as `?db=`. Nothing
    else is taken from a query: a URI cannot switch off the verification of a certificate.

    Raises:
        CacheConfigError: BAD_URI; the message never quotes the URI.
    """
    scheme, separator, rest = uri.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise _bad("must begin with one of " + ", ".join(f"{name}://" for name in _SCHEMES))
    if "#" in rest:
        raise _bad("must not hold '#'; write %23")
    kind, tls, topology = _SCHEMES[scheme.lower()]
    rest, _, query = rest.partition("?")
    login, _, place = _split_login(rest)
    username, _, password = login.partition(":")
    endpoint = Endpoint(
        kind=kind, tls=tls, topology=topology, database=_database_of(query)
    ).with_login(unquote(username) or None, unquote(password) or None)
    if kind == "unix":
        if not place.startswith("/"):
            raise _bad("must name an absolute path, as in unix:///run/redis.sock")
        return replace(endpoint, path=unquote(place))
    if kind != "tcp":
        if rest or query:
            raise _bad(f"takes nothing behind {kind}://")
        return endpoint
    address, _, path = place.partition("/")
    if topology == "sentinel":
        master, _, path = path.partition("/")
        endpoint = replace(endpoint, master=unquote(master))
    if path:
        endpoint = replace(endpoint, database=parse_number(path, "database"))
    default = DEFAULT_PORTS[topology]
    if topology == "single":
        return endpoint.at(_split_address(address, default))
    seeds = tuple(_split_address(one, default) for one in address.split(","))
    return replace(endpoint, seeds=seeds)


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


def _split_address(address: str, default: int) -> Address:
    if address.startswith("["):
        host, closed, port = address[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise _bad("has an IPv6 address that is not closed by ']'")
        port = port[1:]
    else:
        host, _, port = address.partition(":")
    if not host:
        raise _bad("names no host")
    return unquote(host), parse_port(port) if port else default


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
