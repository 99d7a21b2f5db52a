"""The address of a server and the login there.

URIs are parsed here, because the errors of other parsers can contain the password.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import unquote

from .address_map import AddressMap
from .errors import CacheConfigError
from .logins import Login, LoginSource
from .option_suggestions import nearest_option
from .options import Options

__all__ = [
    "DEFAULT_PORTS",
    "Address",
    "Endpoint",
    "Topology",
    "name_of",
    "parse_number",
    "parse_port",
    "parse_uri",
]

Kind = Literal["tcp", "unix", "embedded", "fake"]
Topology = Literal["single", "sentinel", "cluster"]
Address = tuple[str, int]
"""A host and a port."""

DEFAULT_PORTS: Final[dict[Topology, int]] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
"""The default ports of the servers that a URI names: for a topology with sentinels, of the sentinels."""
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
    """The address of a server and the login there. The repr contains neither user nor password.

    Attributes:
        kind: the transport, or a server that the library starts itself.
        topology: a single server, or sentinels or cluster nodes that name the servers.
        host: the host of a single server.
        port: the port of a single server.
        seeds: the sentinels, or some nodes of the cluster.
        master: the name of the master, as configured in the sentinels.
        path: the path of a unix socket.
        is_named_by_server: whether the host comes from a sentinel or a node, rather than from the configuration.
        address_map: `options.address_map`, which replaces the addresses that sentinels and nodes announce.
        is_mapped: whether host and port are from the address map.
        tls: whether the connection uses TLS; connections to sentinels have an option of their own.
        database: the number of the database.
        username: the user of the login.
        password: the password of the login.
        login_source: returns the login for each connection, instead of `username` and `password`.
    """

    kind: Kind = "tcp"
    topology: Topology = "single"
    host: str = ""
    port: int = DEFAULT_PORTS["single"]
    seeds: tuple[Address, ...] = ()
    master: str = ""
    path: str = ""
    is_named_by_server: bool = False
    address_map: str = ""
    is_mapped: bool = False
    tls: bool = False
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    login_source: LoginSource | None = field(default=None, repr=False, compare=False)

    def with_login(self, username: str | None, password: str | None) -> Endpoint:
        """The same endpoint with another login; a part that is None is kept."""
        return replace(
            self,
            username=self.username if username is None else username,
            password=self.password if password is None else password,
        )

    @property
    def login(self) -> Login:
        """The login in the configuration."""
        if self.username:
            return self.username, self.password or ""
        return (self.password,) if self.password else ()

    def at(self, address: Address) -> Endpoint:
        """The single server at this address, with the same login, database and TLS.

        An address that is in the address map is replaced, here and nowhere else: everything else, such as the slot
        map, log records and redirections, knows a server by the address that it announces.
        """
        mapped = AddressMap.of(self.address_map).find(address)
        host, port = mapped or address
        return replace(
            self,
            topology="single",
            host=host,
            port=port,
            seeds=(),
            master="",
            is_named_by_server=mapped is None and bool(self.seeds) and host not in dict(self.seeds),
            address_map="",
            is_mapped=mapped is not None,
        )

    def after_fork(self) -> Endpoint:
        """The same endpoint for a forked child."""
        source = self.login_source
        return self if source is None else replace(self, login_source=source.after_fork())

    @property
    def name(self) -> str:
        """The name in messages and log records, without the login."""
        if self.kind == "tcp":
            addresses = self.seeds or ((self.host, self.port),)
            return self.master or ",".join(map(name_of, addresses))
        return self.path or self.kind


def name_of(address: Address) -> str:
    """An address as text; an IPv6 address is in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_uri(uri: str) -> Endpoint:
    """Parse `scheme://[user[:password]@]host[:port][/database]`, or a `unix://` path.

    For sentinels and clusters there may be several `host[:port]`, separated by commas; for sentinels,
    `/master[/database]` follows. User and password are percent-encoded. The database may also be given as `?db=`.
    There are no other parameters, so that a URI cannot disable the verification of certificates.

    Raises:
        CacheConfigError: BAD_URI. The message never contains a part of the URI.
    """
    scheme, separator, rest = uri.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise _bad("must start with one of " + ", ".join(f"{name}://" for name in _SCHEMES))
    if "#" in rest:
        raise _bad("must not contain '#': write %23")
    kind, tls, topology = _SCHEMES[scheme.lower()]
    rest, _, query = rest.partition("?")
    login, location = _split_login(rest)
    username, _, password = login.partition(":")
    endpoint = Endpoint(
        kind=kind, tls=tls, topology=topology, database=_database_of(query)
    ).with_login(unquote(username) or None, unquote(password) or None)
    if kind == "unix":
        if not location.startswith("/"):
            raise _bad("must contain an absolute path, such as unix:///run/redis.sock")
        return replace(endpoint, path=unquote(location))
    if kind != "tcp":
        if rest or query:
            raise _bad(f"must be {kind}:// alone")
        return endpoint
    address, _, path = location.partition("/")
    if topology == "sentinel":
        master, _, path = path.partition("/")
        endpoint = replace(endpoint, master=unquote(master))
    if path:
        endpoint = replace(endpoint, database=parse_number(path, "the database in connection.uri"))
    default = DEFAULT_PORTS[topology]
    if topology == "single":
        return endpoint.at(_split_address(address, default))
    seeds = tuple(_split_address(seed, default) for seed in address.split(","))
    return replace(endpoint, seeds=seeds)


def parse_number(text: str, parameter: str) -> int:
    """Parse the number of a database or port.

    Args:
        text: the digits.
        parameter: where it was given, for the message.

    Raises:
        CacheConfigError: BAD_URI. The message does not contain the text.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise CacheConfigError("BAD_URI", f"{parameter} is not a number")
    return int(text)


def parse_port(text: str, parameter: str) -> int:
    """Parse a TCP port. Arguments and errors as for `parse_number`."""
    port = parse_number(text, parameter)
    if not 0 < port < 65536:
        raise CacheConfigError("BAD_URI", f"{parameter} is not between 1 and 65535")
    return port


def _split_login(rest: str) -> tuple[str, str]:
    authority, slash, path = rest.partition("/")
    login, _, address = authority.rpartition("@")
    return login, address + slash + path


def _split_address(address: str, default: int) -> Address:
    if address.startswith("["):
        host, closed, port = address[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise _bad("has an IPv6 address without a closing ']'")
        port = port[1:]
    else:
        host, _, port = address.partition(":")
    if not host:
        raise _bad("has no host")
    return unquote(host), parse_port(port, "the port in connection.uri") if port else default


def _database_of(query: str) -> int:
    database = 0
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name != "db":
            # Never the name itself: an unencoded password can contain a question mark.
            option = nearest_option(name, Options.names())
            hint = (
                f"; `{option}` is a keyword of from_url, and an option of `configure`"
                if option
                else ""
            )
            raise _bad(f"has a parameter other than `db`{hint}")
        database = parse_number(value, "the database in connection.uri")
    return database


def _bad(problem: str) -> CacheConfigError:
    return CacheConfigError("BAD_URI", f"connection.uri {problem}")
