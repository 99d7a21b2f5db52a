"""TLS: chain and host name are verified unless an explicit option disables that."""

from __future__ import annotations

import asyncio
import gc
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from async_redis_cache import AsyncRedisCache, CacheAuthError, CacheConfigError, CacheError
from harness import Certificates, needs_redis
from harness.apis import APIS, Api, configured
from harness.choices import says_who_speaks_tls
from harness.leaks import open_descriptors
from harness.run_length import scaled
from harness.virtual_time import turns

if TYPE_CHECKING:
    from harness import Proxy, Server, StartProxy, StartServer

pytestmark = pytest.mark.depends_on("api")

FOREIGN_NAME = "elsewhere.example"


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs verify alike."""
    chosen: Api = request.param
    return chosen


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of another authority, for another host."""
    return Certificates.create(tmp_path_factory.mktemp("strangers"), FOREIGN_NAME)


@pytest.fixture
def network(server: Server, proxy: StartProxy, certificates: Certificates) -> Proxy:
    """Either flavour behind TLS."""
    return proxy(server, tls=certificates.server_context())


async def _opens(url: str, api: Api, **options: object) -> None:
    async with configured(url, api, **options) as cache:
        # Small, since the proxy's own TLS may stall on what its buffers cannot take at once.
        await cache.store(None, "key", "value")
        assert await cache.retrieve(None, "key") == "value"


async def _refused(url: str, api: Api, **options: object) -> CacheError:
    cache = configured(url, api, **options)
    with pytest.raises(CacheError) as caught:
        await cache.open("t")
    assert caught.value.trace_id == "t"
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not cache.is_open()
    return caught.value


def _sockets() -> list[str]:
    return sorted(what for what in open_descriptors().values() if what.startswith("socket"))


async def test_a_known_authority(network: Proxy, certificates: Certificates, api: Api) -> None:
    """A server with a known authority is trusted: by scheme or option, by address or name."""
    ca = str(certificates.ca_file)
    plain = network.url.replace("rediss", "redis")
    await _opens(network.url, api, tls_ca_file=ca)
    await _opens(network.url.replace("rediss", "valkeys"), api, tls_ca_file=ca)
    await _opens(plain, api, tls="true", tls_ca_file=ca)
    await _opens(network.url.replace("127.0.0.1", "localhost"), api, tls_ca_file=ca)


@says_who_speaks_tls
async def test_an_unknown_authority(network: Proxy, certificates: Certificates, api: Api) -> None:
    """14. A certificate of an unknown authority is rejected, with and without `require_connection`."""
    for options in (
        {},
        {"tls_ca_file": str(certificates.stranger_ca_file)},
        {"tls_check_hostname": "false"},
        {"require_connection": "false"},
    ):
        error = await _refused(network.url, api, retries=5, **options)
        assert isinstance(error, CacheAuthError)
        assert error.code == "BAD_CERTIFICATE"


async def test_another_hosts_certificate(
    server: Server, proxy: StartProxy, strangers: Certificates, api: Api
) -> None:
    """A good certificate for another name is refused, unless the name is not to be checked."""
    network = proxy(server, tls=strangers.server_context())
    ca = str(strangers.ca_file)
    error = await _refused(network.url, api, tls_ca_file=ca)
    assert error.code == "BAD_CERTIFICATE"
    await _opens(network.url, api, tls_ca_file=ca, tls_check_hostname=False)


async def test_name_in_the_certificate_is_configured(
    server: Server, proxy: StartProxy, strangers: Certificates
) -> None:
    """`tls_server_name` is sent and verified instead of the host; what is no name is BAD_OPTION."""
    context, names = strangers.server_context(), list[str | None]()
    context.sni_callback = lambda _, name, __: names.append(name)
    network = proxy(server, tls=context)
    ca = str(strangers.ca_file)
    await _opens(network.url, "async", tls_ca_file=ca, tls_server_name=FOREIGN_NAME)
    assert set(names) == {FOREIGN_NAME}
    error = await _refused(network.url, "async", tls_ca_file=ca, tls_server_name="other.example")
    assert error.code == "BAD_CERTIFICATE"
    with pytest.raises(CacheConfigError, match=r"tls_server_name must be a host name"):
        configured(network.url, tls_server_name="https://a b")


async def test_passphrase_of_the_key(
    server: Server, proxy: StartProxy, certificates: Certificates, tmp_path: Path
) -> None:
    """An encrypted key is shown with `tls_key_password`; a wrong or missing one is BAD_OPTION, which names it."""
    network = proxy(server, tls=certificates.server_context(require_client=True))
    key = load_pem_private_key(certificates.client_key_file.read_bytes(), None)
    files = _client(certificates) | {"tls_ca_file": str(certificates.ca_file)}
    for number, encoding in enumerate((PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)):
        encrypted = tmp_path / f"key-{number}.pem"
        cipher = BestAvailableEncryption(b"hunter2")
        encrypted.write_bytes(key.private_bytes(Encoding.PEM, encoding, cipher))
        files["tls_key_file"] = str(encrypted)
        await _opens(network.url, "async", tls_key_password="hunter2", **files)
        opened = network.opened
        for wrong in ("hunter3", ""):
            error = await _refused(network.url, "async", tls_key_password=wrong, **files)
            assert isinstance(error, CacheConfigError)
            assert error.code == "BAD_OPTION"
            assert "options.tls_key_password does not decrypt the private key" in str(error)
            assert "hunter" not in f"{error} {error!r}"
        assert network.opened == opened
    with pytest.raises(CacheConfigError, match=r"options\.tls_key_password must have at most 1024"):
        configured(network.url, tls_key_password="x" * 1025, **files)
    cache = configured(network.url, tls_key_password="hunter2", **files)
    assert "hunter2" not in f"{cache!r} {cache._lifecycle.settings.options!r}"  # pyright: ignore[reportPrivateUsage]


async def test_verification_switched_off(network: Proxy, api: Api) -> None:
    """Only `tls_verify` does it; no URI can."""
    await _opens(network.url, api, tls_verify=False)
    for query in ("?ssl_cert_reqs=none", "?ssl_check_hostname=false", "?tls_verify=false"):
        assert (await _refused(network.url + query, api)).code == "BAD_URI"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate(
    server: Server,
    proxy: StartProxy,
    certificates: Certificates,
    strangers: Certificates,
    version: ssl.TLSVersion,
) -> None:
    """A server that asks for one: ours is shown; none or a stranger's is refused."""
    context = certificates.server_context(require_client=True)
    context.minimum_version = context.maximum_version = version
    network = proxy(server, tls=context)
    ca = str(certificates.ca_file)
    await _opens(network.url, "async", tls_ca_file=ca, **_client(certificates))
    for options in ({}, _client(strangers)):
        error = await _refused(network.url, "async", tls_ca_file=ca, **options)
        # A proxy that resets at once may outrun its own alert.
        assert error.code in {"BAD_CERTIFICATE", "CONNECT_FAILED", "CONNECTION_LOST"}


@says_who_speaks_tls
@needs_redis
async def test_a_servers_own_tls(
    private_server: StartServer,
    proxy: StartProxy,
    certificates: Certificates,
    strangers: Certificates,
) -> None:
    """14. With mutual TLS and a password, each rejection is a typed error after one attempt."""
    config: dict[str, str | int] = {"tls-auth-clients": "yes"}
    server = private_server("redis", certificates=certificates, password="right", config=config)
    network = proxy(server)  # It carries what it cannot read.
    ours = {"tls_ca_file": str(certificates.ca_file)} | _client(certificates)
    for api in APIS:
        await _opens(network.url, api, **ours)
    async with configured(server.url, **ours) as cache:
        await cache.store(None, "key", "x" * 500_000)
        assert await cache.retrieve(None, "key") == "x" * 500_000
    refusals: list[tuple[dict[str, str], str, str]] = [
        (ours | {"tls_ca_file": str(strangers.ca_file)}, network.url, "BAD_CERTIFICATE"),
        (ours | {"tls_ca_file": ""}, network.url, "BAD_CERTIFICATE"),
        (ours, network.login_url("", "wrong"), "BAD_CREDENTIALS"),
    ]
    for options, url, code in refusals:
        for required in (True, False):
            opened = network.opened
            error = await _refused(url, "async", require_connection=required, retries=5, **options)
            assert isinstance(error, CacheAuthError)
            assert error.code == code
            assert network.opened == opened + 1
    # Of TLS 1.3 a client is told only after it has begun to speak, and a reset may outrun that.
    for options in ({"tls_ca_file": ours["tls_ca_file"]}, ours | _client(strangers)):
        opened = network.opened
        error = await _refused(network.url, "async", retries=5, **options)
        assert error.code in {"BAD_CERTIFICATE", "CONNECT_FAILED"}
        assert network.opened == opened + 1


async def test_named_authorities_stand_instead_of_the_systems(
    network: Proxy,
    certificates: Certificates,
    strangers: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    api: Api,
) -> None:
    """The system's authorities are trusted only if no authority is named."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    await _opens(network.url, api)
    error = await _refused(network.url, api, tls_ca_file=str(strangers.ca_file))
    assert error.code == "BAD_CERTIFICATE"


@needs_redis
async def test_closing_while_it_connects_leaves_nothing(
    private_server: StartServer, certificates: Certificates
) -> None:
    """Wherever the TLS handshake is interrupted, no socket is open when `close` has returned."""
    server = private_server("redis", certificates=certificates)
    await _opens(server.url, "async", tls_ca_file=str(certificates.ca_file))
    cache = configured(server.url, tls_ca_file=str(certificates.ca_file))
    sockets = _sockets()
    for number in range(scaled(50, 2_000)):
        await cache.open(None)
        # The second call does not wait for the first: another connection is begun for it.
        calls = [asyncio.create_task(cache.contains(None, "key")) for _ in range(2)]
        await turns(number % 25)
        await cache.close(None)
        await asyncio.gather(*calls, return_exceptions=True)
        assert _sockets() == sockets


@needs_redis
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Deserved: nobody closed.
def test_loops_that_end_without_close_leave_nothing(
    private_server: StartServer, certificates: Certificates
) -> None:
    """Opening the cache on a new loop closes what the old loop left, with TLS or not."""
    server = private_server("redis", certificates=certificates)
    ca_file = str(certificates.ca_file)
    cache = AsyncRedisCache.from_url(server.url, tls_ca_file=ca_file, max_connections=1)
    sockets = _sockets()

    async def use() -> list[str]:
        await cache.open(None)
        await cache.store(None, "key", 1)
        return _sockets()

    most = max(len(asyncio.run(use())) for _ in range(5))
    asyncio.run(cache.close(None))
    gc.collect()
    # The loop's own are two.
    assert most <= len(sockets) + 3
    assert _sockets() == sockets


async def test_files_that_cannot_be_used(
    network: Proxy, certificates: Certificates, strangers: Certificates, tmp_path: Path, api: Api
) -> None:
    """A missing file, one that holds something else, or a key of another certificate: BAD_OPTION."""
    nonsense = tmp_path / "secret.pem"
    nonsense.write_text("secret")
    ca = {"tls_ca_file": str(certificates.ca_file)}
    bad: list[dict[str, Any]] = [
        {"tls_ca_file": str(tmp_path / "secret-missing")},
        {"tls_ca_file": str(nonsense)},
        {"tls_ca_file": str(tmp_path)},
        ca | {"tls_certificate_file": str(tmp_path / "secret-missing")},
        ca | {"tls_certificate_file": str(nonsense), "tls_key_file": str(nonsense)},
        ca | {"tls_certificate_file": str(certificates.client_certificate_file)},
        ca | _client(certificates) | {"tls_key_file": str(strangers.client_key_file)},
    ]
    for options in bad:
        for required in (True, False):
            error = await _refused(network.url, api, require_connection=required, **options)
            assert isinstance(error, CacheConfigError)
            assert error.code == "BAD_OPTION"
            assert "options.tls_" in str(error)
            assert "secret" not in str(error)
    assert network.opened == 0


@says_who_speaks_tls
async def test_plain_where_tls_is_spoken(network: Proxy, server: Server, api: Api) -> None:
    """The wrong scheme either way ends typed and in time."""
    plain = network.url.replace("rediss", "redis")
    for url in (plain, server.url.replace("redis://", "rediss://")):
        error = await _refused(url, api, connect_timeout=300)
        assert error.code in {"CONNECT_FAILED", "CONNECTION_LOST", "TIMEOUT"}


async def test_tls_without_a_network(api: Api) -> None:
    """Connections that stay on the machine have no TLS; requesting it raises."""
    for url in ("unix:///run/s", "embedded://", "fake://"):
        assert (await _refused(url, api, tls=True)).code == "BAD_OPTION"


def _client(certificates: Certificates) -> dict[str, str]:
    return {
        "tls_certificate_file": str(certificates.client_certificate_file),
        "tls_key_file": str(certificates.client_key_file),
    }
