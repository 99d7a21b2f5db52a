"""`connection.uri`: the meaning of each part; errors quote none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_redis_cache import CacheConfigError, CacheError
from async_redis_cache._common.endpoint import Endpoint, parse_uri
from harness.apis import APIS, Api, configured, new_cache
from harness.choices import by_host_and_port

if TYPE_CHECKING:
    from harness import Server, StartServer

pytestmark = pytest.mark.depends_on("api")

GOOD: list[tuple[str, Endpoint]] = [
    ("redis://localhost", Endpoint(host="localhost")),
    ("redis://localhost/", Endpoint(host="localhost")),
    ("redis://localhost:", Endpoint(host="localhost")),
    ("REDIS://Localhost:7000", Endpoint(host="Localhost", port=7000)),
    (" redis://h:1/2 ", Endpoint(host="h", port=1, database=2)),
    ("redis://h:65535/15", Endpoint(host="h", port=65535, database=15)),
    ("redis://h?db=3", Endpoint(host="h", database=3)),
    ("redis://h/?db=3", Endpoint(host="h", database=3)),
    ("redis://h/0", Endpoint(host="h", database=0)),
    ("redis://10.0.0.1:6380", Endpoint(host="10.0.0.1", port=6380)),
    ("redis://[::1]", Endpoint(host="::1")),
    ("redis://[::1]:7000/1", Endpoint(host="::1", port=7000, database=1)),
    ("redis://u:p@[2001:db8::7]:7000", Endpoint(host="2001:db8::7", port=7000)),
    ("redis://[fe80::1%25eth0]", Endpoint(host="fe80::1%eth0")),
    ("rediss://h", Endpoint(host="h", tls=True)),
    ("valkey://h", Endpoint(host="h")),
    ("valkeys://h:7000/1", Endpoint(host="h", port=7000, database=1, tls=True)),
    ("unix:///run/redis.sock", Endpoint(kind="unix", path="/run/redis.sock")),
    ("unix:///run/redis.sock?db=2", Endpoint(kind="unix", path="/run/redis.sock", database=2)),
    ("unix:///a%20b/%40c%3F", Endpoint(kind="unix", path="/a b/@c?")),
    ("unix:///run/a://b", Endpoint(kind="unix", path="/run/a://b")),
    ("unix:///run/a@/b@c", Endpoint(kind="unix", path="/run/a@/b@c")),
    ("unix://u:p@/run/s", Endpoint(kind="unix", path="/run/s")),
    ("embedded://", Endpoint(kind="embedded")),
    ("fake://", Endpoint(kind="fake")),
]
LOGINS: list[tuple[str, str | None, str | None]] = [
    ("redis://h", None, None),
    ("redis://:secret@h", None, "secret"),
    ("redis://ann:secret@h", "ann", "secret"),
    ("redis://ann@h", "ann", None),
    ("redis://ann:@h", "ann", None),
    ("redis://a%6En:s%23%2F%3A%40%3F%25@h", "ann", "s#/:@?%"),
    ("redis://a%3Ab:c:d@h", "a:b", "c:d"),
    ("redis://ann:p@ss@h", "ann", "p@ss"),
    ("redis://ann:se+cret@h", "ann", "se+cret"),
    ("unix://ann:s%2Fcret@/run/s", "ann", "s/cret"),
]
BAD = [
    "",
    "secret",
    "localhost:6379",
    "redis:/secret",
    "http://secret",
    "redis+other://secret",
    "redis://",
    "redis://:6379",
    "redis://:secret@",
    "redis://:secret@:6379",
    "redis://h:0",
    "redis://h:65536",
    "redis://h:99999999999999999999",
    "redis://h:secret",
    "redis://h:-1",
    "redis://h:63.79",
    "redis://h:\uff16\uff13",
    "redis://h:1:2",
    "redis://::1",
    "redis://[::1",
    "redis://[::1]7000",
    "redis://[]",
    "redis://h/secret",
    "redis://h/-1",
    "redis://h/1/2",
    "redis://h/1.0",
    "redis://h?db=secret",
    "redis://h?db=-1",
    "redis://h?ssl_cert_reqs=none",
    "rediss://h?ssl_check_hostname=false&db=1",
    "redis://h?password=secret",
    "redis://:sec#ret@h",
    "redis://h#secret",
    "redis://:sec/ret@h",
    "redis://:sec?ret@h",
    "unix://",
    "unix://secret.sock",
    "unix://u:secret@run/s",
    "unix://u:sec/ret@/run/s",
    "unix:///run/s?mode=secret",
    "embedded://secret",
    "embedded://?db=1",
    "fake://secret:1",
    "fake:///1",
    "redis+sentinel://",
    "redis+sentinel:///secret",
    "redis+sentinel://a,,b/secret",
    "redis+sentinel://a:secret/m",
    "redis+sentinel://a/m/secret",
    "redis+cluster://a,b/secret",
    "redis+cluster://a,secret:0",
    "unix+sentinel://secret/m",
    "embedded+cluster://secret",
]


SEVERAL = [
    ("redis+sentinel://a/m", "sentinel", (("a", 26379),), "m", 0, False),
    (
        "redis+sentinel://a:1,b,[::1]:3/m/2",
        "sentinel",
        (("a", 1), ("b", 26379), ("::1", 3)),
        "m",
        2,
        False,
    ),
    ("valkeys+sentinel://u:p@a,b/m%2Fn", "sentinel", (("a", 26379), ("b", 26379)), "m/n", 0, True),
    ("redis+sentinel://a", "sentinel", (("a", 26379),), "", 0, False),
    ("redis+cluster://a", "cluster", (("a", 6379),), "", 0, False),
    ("rediss+cluster://u:p@a:1,b:2?db=1", "cluster", (("a", 1), ("b", 2)), "", 1, True),
]


@pytest.mark.parametrize(("uri", "topology", "seeds", "master", "database", "tls"), SEVERAL)
def test_several_places(
    uri: str, topology: str, seeds: object, master: str, database: int, *, tls: bool
) -> None:
    """Sentinels with the name of their master, or nodes of a cluster, each with its own port."""
    found = parse_uri(uri)
    assert (found.topology, found.seeds, found.master) == (topology, seeds, master)
    assert (found.database, found.tls) == (database, tls)
    assert ("u:p@" in uri) is (found.username == "u")
    single = found.at(("c", 7))
    assert (single.topology, single.host, single.port) == ("single", "c", 7)
    assert (single.database, single.tls, single.password) == (database, tls, found.password)
    assert (single.seeds, single.master, single.name) == ((), "", "c:7")


@pytest.mark.parametrize(("uri", "endpoint"), GOOD)
def test_places(uri: str, endpoint: Endpoint) -> None:
    """Scheme, host, port and database; 6379 and 0 where they are not given."""
    found = parse_uri(uri)
    assert (found.kind, found.host, found.port) == (endpoint.kind, endpoint.host, endpoint.port)
    assert (found.path, found.tls) == (endpoint.path, endpoint.tls)
    assert found.database == endpoint.database


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("redis://u:p@h", "h:6379"),
        ("redis://[::1]:7000/1", "[::1]:7000"),
        ("redis+cluster://a:1,[::1]:3,b", "a:1,[::1]:3,b:6379"),
        ("redis+sentinel://a,b/m", "m"),
        ("redis+sentinel://a,b", "a:26379,b:26379"),
        ("unix://u:p@/run/s", "/run/s"),
        ("fake://", "fake"),
    ],
)
def test_error_names_the_option(uri: str, name: str) -> None:
    """As people write it, with brackets where the host has colons itself, and without the login."""
    assert parse_uri(uri).name == name


@pytest.mark.parametrize(("uri", "username", "password"), LOGINS)
def test_logins(uri: str, username: str | None, password: str | None) -> None:
    """User and password are percent-encoded; a plus sign is one, and neither is in the repr."""
    found = parse_uri(uri)
    assert (found.username, found.password) == (username, password)
    for secret in filter(None, (username, password)):
        assert secret not in repr(found)


@pytest.mark.parametrize("uri", BAD)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.depends_on
async def test_bad_uris(api: Api, uri: str) -> None:
    """What is no URI of a server is found by `open`, typed, and no part of it is quoted."""
    cache = configured(uri, api) if uri else new_cache(api)
    with pytest.raises(CacheConfigError) as caught:
        await cache.open("t")
    assert caught.value.code == ("BAD_URI" if uri else "NO_CONNECTION")
    assert caught.value.trace_id == "t"
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "sec" not in f"{caught.value!r} {caught.value}"
    assert isinstance(caught.value, ValueError)
    assert not cache.is_open()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("secret", "must start with one of redis://, rediss://, "),
        ("redis://h#secret", "must not contain '#': write %23"),
        ("unix://secret.sock", "must contain an absolute path"),
        ("fake://secret:1", "must be fake:// alone"),
        ("redis://h:secret", "the port in connection.uri is not a number"),
        ("redis://h:65536", "the port in connection.uri is not between 1 and 65535"),
        ("redis://h/secret", "the database in connection.uri is not a number"),
        ("redis://h?db=secret", "the database in connection.uri is not a number"),
        ("redis://h?password=secret", "has a parameter other than `db`"),
        (
            "redis://h?ttl=secret",
            "has a parameter other than `db`; `timeout` is a keyword of from_url",
        ),
        ("redis://:a?secret@h", "has a parameter other than `db`"),
        ("redis://[::1", "has an IPv6 address without a closing ']'"),
        ("redis://:6379", "has no host"),
    ],
)
def test_message_says_what_is_wrong(uri: str, why: str) -> None:
    """The message names the mistake in the URI without quoting it."""
    with pytest.raises(CacheConfigError) as caught:
        parse_uri(uri)
    assert "connection.uri" in str(caught.value)
    assert why in str(caught.value)


@given(st.text())
def test_any_text(text: str) -> None:
    """Whatever is given: an endpoint, or BAD_URI."""
    for uri in (
        text,
        f"redis://{text}",
        f"unix://{text}",
        f"redis://h/{text}",
        f"redis://h?{text}",
    ):
        try:
            parse_uri(uri)
        except CacheConfigError as error:
            assert error.code == "BAD_URI"  # noqa: PT017  it need not fail


@given(
    username=st.text(min_size=1),
    password=st.text(min_size=1),
    database=st.integers(0, 99999),
    port=st.integers(1, 65535),
)
def test_any_login(username: str, password: str, database: int, port: int) -> None:
    """Percent-encoded, any user and password survive."""
    try:
        login = f"{quote(username, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        return
    found = parse_uri(f"redis://{login}@[::1]:{port}/{database}")
    assert (found.username, found.password) == (username, password)
    assert (found.host, found.port, found.database) == ("::1", port, database)


@by_host_and_port
@pytest.mark.parametrize("api", APIS)
@pytest.mark.depends_on("api", "server")
async def test_every_scheme_connects(server: Server, api: Api) -> None:
    """The two names of a plain connection and the unix socket lead to one server."""
    address = f"{server.host}:{server.port}"
    uris = [
        f"redis://{address}",
        f"valkey://{address}/0",
        f"VALKEY://localhost:{server.port}",
        server.unix_url,
    ]
    for number, uri in enumerate(uris):
        async with configured(uri, api) as cache:
            assert await cache.retrieve(None, "key") == (number - 1 if number else None)
            await cache.store(None, "key", number)


async def test_databases(server: Server) -> None:
    """The database of the URI is used; one that does not exist raises."""
    for database in (0, 3, 15):
        async with configured(server.login_url(*server.login, database=database)) as cache:
            await cache.store(None, "key", database)
    with server.client() as raw:
        assert {name for name in raw.info("keyspace") if raw.info("keyspace")[name]["keys"]} == {
            "db0",
            "db3",
            "db15",
        }
    cache = configured(server.login_url(*server.login, database=99))
    with pytest.raises(CacheConfigError) as caught:
        await cache.open("t")
    assert caught.value.code == "BAD_OPTION"
    assert "database" in str(caught.value)


@pytest.mark.parametrize("tcp", [True, False])
async def test_a_login_in_the_uri(private_server: StartServer, tcp: bool) -> None:
    """User and password of the URI log in, whatever characters they have, over TCP and socket."""
    password = "p:@/?#%[] ž+&=\\\"'"
    server = private_server(password=password, acl={"ann": "on >a/b#c@d ~* +@all"}, tcp=tcp)
    for url in (
        server.url,
        server.login_url("default", password),
        server.login_url("ann", "a/b#c@d"),
    ):
        async with configured(url, key_prefix="p:") as cache:
            await cache.store(None, "key", 1)
            assert await cache.clear(None) == 1
    for url in (server.login_url("", "wrong"), server.login_url("bob", password)):
        with pytest.raises(CacheError) as caught:
            await configured(url).open(None)
        assert caught.value.code == "BAD_CREDENTIALS"
