"""Sentinels and clusters with logins and TLS: the documented users can do what is needed, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from async_redis_cache import AsyncRedisCache, CacheConfigError, CacheError, CacheLoginError
from code_blocks import ROOT, blocks_of
from harness import Certificates, Flavour, needs_redis
from harness.choices import says_who_speaks_tls
from harness.clusters import Cluster
from harness.near import trusted
from harness.sentinels import Sentinels
from harness.slots import key_in

if TYPE_CHECKING:
    from pathlib import Path

    from harness import ServerOptions

PAGES = ROOT / "docs"
PLAIN, _, _, NEAR, LOADING, _, _ = (
    block.text.removeprefix("ACL SETUSER shop reset ").strip()
    for block in blocks_of(PAGES / "explanation" / "security.md", "text")
)
SENTINEL, NODE = (
    block.text.removeprefix("ACL SETUSER shop reset ").strip()
    for block in blocks_of(PAGES / "how-to" / "sentinel-and-cluster.md", "text")
)
OPTIONS: dict[str, Any] = {"max_size": 0, "near_cache_enabled": True, "command_timeout": 10_000}
PATIENCE = 10_000
"""Milliseconds to connect on a busy machine."""


async def use(cache: AsyncRedisCache, prefix: str = "") -> None:
    """Everything that a topology has a part in."""
    keys = [f"{prefix}key{number}" for number in range(20)]
    await cache.store_many(None, dict.fromkeys(keys, 1))
    assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, 1)
    assert await cache.retrieve_or_load(None, f"{prefix}new", lambda: 2) == 2
    assert await cache.remove_many(None, keys) == 20
    await trusted(cache)


def missing(rules: str) -> list[str]:
    """Each command that could be left out of these rules."""
    return [f"-{rule[1:]}" for rule in rules.split() if rule.startswith("+")]


async def test_users_behind_sentinels(flavour: Flavour) -> None:
    """As documented, for the servers with the data and for the sentinels."""
    data: ServerOptions = {"acl": {"shop": f"{PLAIN} {LOADING} {NEAR}"}}
    with Sentinels(flavour, data=data, sentinels={"acl": {"shop": SENTINEL}}) as sentinels:
        uri = sentinels.uri.replace("://", "://shop:PASSWORD@")
        options: dict[str, Any] = {
            **OPTIONS,
            "key_prefix": "shop:",
            "sentinel_username": "shop",
            "sentinel_password": "PASSWORD",
            "connect_timeout": PATIENCE,
        }
        async with AsyncRedisCache.from_url(uri, **options) as cache:
            await use(cache)
            old = sentinels.master()
            await asyncio.to_thread(sentinels.fail_over)
            await use(cache)
            assert sentinels.master() is not old
        options["connect_timeout"] = 500
        wrong: dict[str, Any] = options | {"sentinel_password": "x"}
        with pytest.raises(CacheLoginError):
            await AsyncRedisCache.from_url(uri, **wrong).open(None)
        for rule in missing(SENTINEL):
            for sentinel in sentinels.sentinels:
                granted = f"{SENTINEL} {rule}".split()
                sentinels.client(sentinel).execute_command("ACL", "SETUSER", "shop", *granted)
            with pytest.raises(CacheError):
                await AsyncRedisCache.from_url(uri, **options).open(None)


async def test_users_in_a_cluster(flavour: Flavour) -> None:
    """As documented, on every node; while a slot is moving, too."""
    rules = f"{PLAIN} {LOADING} {NEAR} {NODE}"
    with Cluster(flavour, replicas=1, acl={"shop": rules}) as cluster:
        uri = cluster.uri.replace("://", "://shop:PASSWORD@")

        def new(**options: Any) -> AsyncRedisCache:
            return AsyncRedisCache.from_url(uri, key_prefix="shop:", **OPTIONS, **options)

        def deny(rule: str) -> None:
            for node in cluster.nodes:
                granted = f"reset {rules} {rule}".split()
                cluster.client(node).execute_command("ACL", "SETUSER", "shop", *granted)

        source, target = cluster.masters()[:2]
        slot = cluster.slots(source)[0]
        prefix = key_in(slot)
        cluster.moving(target, slot).begin()
        async with new() as cache:
            await use(cache)
            await use(cache, prefix)
        deny("-asking")
        async with new() as cache:
            with pytest.raises(CacheError):
                await use(cache, prefix)
        deny("-cluster|slots")
        with pytest.raises(CacheError):
            await new().open(None)
        with pytest.raises(CacheLoginError):
            await AsyncRedisCache.from_url(uri.replace("PASSWORD", "x"), max_size=0).open(None)


async def test_sentinels_that_refuse_hello(flavour: Flavour) -> None:
    """They are queried over RESP2 after AUTH, and a failover is noticed; a wrong password is BAD_CREDENTIALS."""
    rules = SENTINEL.replace(" &+switch-master &+promoted-slave", "").replace(" +subscribe", "")
    watch: ServerOptions = {"acl": {"shop": rules}, "config": {"rename-command": 'HELLO ""'}}
    with Sentinels(flavour, sentinels=watch) as sentinels:
        options: dict[str, Any] = OPTIONS | {
            "sentinel_username": "shop",
            "sentinel_password": "PASSWORD",
            "connect_timeout": PATIENCE,
        }
        async with AsyncRedisCache.from_url(sentinels.uri, **options) as cache:
            await use(cache)
            old = sentinels.master()
            await asyncio.to_thread(sentinels.fail_over)
            await use(cache)
            assert sentinels.master() is not old
        wrong: dict[str, Any] = options | {"sentinel_password": "x"}
        with pytest.raises(CacheLoginError) as caught:
            await AsyncRedisCache.from_url(sentinels.uri, **wrong).open(None)
        assert caught.value.code == "BAD_CREDENTIALS"


@says_who_speaks_tls
@needs_redis
@pytest.mark.parametrize("encrypted", ["data", "sentinels", "both"])
async def test_tls_behind_sentinels(certificates: Certificates, encrypted: str) -> None:
    """The data, the sentinels, or both: TLS is switched on for each of its own."""
    tls: ServerOptions = {"certificates": certificates}
    plain: ServerOptions = {}
    data = plain if encrypted == "sentinels" else tls
    watch = plain if encrypted == "data" else tls
    with Sentinels("redis", data=data, sentinels=watch) as sentinels:
        uri = sentinels.uri if not data else sentinels.uri.replace("redis+", "rediss+")
        options: dict[str, Any] = {
            **OPTIONS,
            "sentinel_tls": encrypted != "data",
            "tls_ca_file": str(certificates.ca_file),
            "connect_timeout": PATIENCE,
        }
        async with AsyncRedisCache.from_url(uri, **options) as cache:
            await use(cache)
        # What nobody vouches for is refused, whoever shows it.
        untrusting: dict[str, Any] = options | {"tls_ca_file": ""}
        with pytest.raises(CacheError):
            await AsyncRedisCache.from_url(uri, **untrusting).open(None)


@says_who_speaks_tls
@needs_redis
async def test_files_of_the_sentinels(certificates: Certificates, tmp_path: Path) -> None:
    """Sentinels that another authority vouches for, and that want to see another certificate."""
    strangers = Certificates.create(tmp_path)
    watch: ServerOptions = {
        "certificates": certificates,
        "config": {"tls-auth-clients": "optional"},
    }
    server = {
        "tls_ca_file": str(strangers.ca_file),
        "tls_certificate_file": str(strangers.client_certificate_file),
        "tls_key_file": str(strangers.client_key_file),
    }
    trusted = {"sentinel_tls_ca_file": str(certificates.ca_file)}
    shown = {
        "sentinel_tls_certificate_file": str(certificates.client_certificate_file),
        "sentinel_tls_key_file": str(certificates.client_key_file),
    }
    with Sentinels("redis", sentinels=watch) as sentinels:

        def new(**options: Any) -> AsyncRedisCache:
            options |= {"sentinel_tls": True, "connect_timeout": PATIENCE}
            return AsyncRedisCache.from_url(sentinels.uri, **OPTIONS, **options)

        async with new(**server, **trusted, **shown) as cache:
            await use(cache)
        for files in (server, server | trusted, server | shown):
            code = "CONNECT_FAILED"
            while code == "CONNECT_FAILED":
                # Of TLS 1.3: a reset may outrun the reason. Then it is told the next time.
                with pytest.raises(CacheError) as caught:
                    await new(**files).open(None)
                code = caught.value.code
            assert code == "BAD_CERTIFICATE"
        with pytest.raises(CacheConfigError, match=r"sentinel_tls_ca_file cannot be read"):
            await new(sentinel_tls_ca_file="/nowhere").open(None)


@says_who_speaks_tls
@needs_redis
async def test_name_and_passphrase_of_the_sentinels(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Sentinels whose certificate has another name, and that require a certificate with an encrypted key."""
    theirs = Certificates.create(tmp_path, "sentinel.example")
    key = load_pem_private_key(theirs.client_key_file.read_bytes(), None)
    cipher = BestAvailableEncryption(b"hunter2")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher))
    watch: ServerOptions = {"certificates": theirs, "config": {"tls-auth-clients": "yes"}}
    with Sentinels("redis", sentinels=watch) as sentinels:
        right: dict[str, Any] = {
            **OPTIONS,
            "connect_timeout": PATIENCE,
            "tls_ca_file": str(certificates.ca_file),
            "sentinel_tls": True,
            "sentinel_tls_ca_file": str(theirs.ca_file),
            "sentinel_tls_certificate_file": str(theirs.client_certificate_file),
            "sentinel_tls_key_file": str(encrypted),
            "sentinel_tls_key_password": "hunter2",
            "sentinel_tls_server_name": "sentinel.example",
        }
        async with AsyncRedisCache.from_url(sentinels.uri, **right) as cache:
            await use(cache)
        wrong: dict[str, Any] = right | {"sentinel_tls_server_name": ""}
        with pytest.raises(CacheLoginError) as caught:
            await AsyncRedisCache.from_url(sentinels.uri, **wrong).open(None)
        assert caught.value.code == "BAD_CERTIFICATE"
        wrong = right | {"sentinel_tls_key_password": "hunter3"}
        with pytest.raises(CacheConfigError, match=r"sentinel_tls_key_password does not decrypt"):
            await AsyncRedisCache.from_url(sentinels.uri, **wrong).open(None)


@says_who_speaks_tls
@needs_redis
async def test_tls_in_a_cluster(certificates: Certificates) -> None:
    """Every node is verified."""
    with Cluster("redis", certificates=certificates) as cluster:
        uri = cluster.uri.replace("redis+", "rediss+")
        options: dict[str, Any] = {**OPTIONS, "tls_ca_file": str(certificates.ca_file)}
        async with AsyncRedisCache.from_url(uri, **options) as cache:
            await use(cache)
        with pytest.raises(CacheLoginError) as caught:
            await AsyncRedisCache.from_url(uri, **OPTIONS).open(None)
        assert caught.value.code == "BAD_CERTIFICATE"
