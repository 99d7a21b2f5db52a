"""`options.*`: names, units, defaults and bounds; errors quote no value."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheConfigError, RedisCache
from async_redis_cache._common.options import Options
from harness.apis import APIS, Api, configured

URL = "redis://localhost"
NUMBERS = [
    "timeout",
    "retries",
    "max_size",
    "connect_timeout",
    "command_timeout",
    "max_connections",
    "max_value_size",
    "compression_threshold",
    "max_connection_age",
    "max_waiting_calls",
    "max_waiting_bytes",
]
MAY_BE_ZERO = {"retries", "max_size", "max_connection_age", "compression_threshold"}
FLAGS = [
    "foreign_readers",
    "sentinel_tls",
    "tls",
    "tls_check_hostname",
    "tls_verify",
    "require_connection",
]
BAD_NUMBERS: list[Any] = [
    "-1",
    "secret",
    "",
    " ",
    "1.5",
    "1e3",
    "0x10",
    "1_000",
    "\uff11",
    "10 s",
    "true",
    "9" * 30,
    2**62,
    -5,
    1.5,
    True,
    None,
    "inf",
]
BAD_FLAGS: list[Any] = ["maybe", "", "2", "-1", "on/off", "secret", 2, 1.5, None]
NEAREST = {
    "time_out": "timeout",
    "Timeout": "timeout",
    "retry": "retries",
    "maxsize": "max_size",
    "key-prefix": "key_prefix",
    "prefix": "key_prefix",
    "conect_timeout": "connect_timeout",
    "serialiser": "serializer",
    "max_connection": "max_connections",
    "compresion": "compression",
    "ttl": "timeout",
    "namespace": "key_prefix",
    "near_cache_size": "near_cache_max_size",
    "near_cache.size": "near_cache.max_size",
    "near_cache.enable": "near_cache.enabled",
    "near_cache.ttl": "near_cache.timeout",
}


def options_of(**options: Any) -> Options:
    """What a cache makes of these."""
    return AsyncRedisCache.from_url(URL, **options)._lifecycle.settings.options  # pyright: ignore[reportPrivateUsage]


@pytest.mark.usefixtures("default_deadlines")
def test_defaults() -> None:
    """Without options: as `RedisCache.md` and the documentation have them."""
    assert dataclasses.asdict(Options()) == {
        "timeout": 60_000,
        "retries": 3,
        "max_size": 1000,
        "connect_timeout": 2000,
        "command_timeout": 1000,
        "topology": "single",
        "credential_provider": None,
        "sentinel_master": "",
        "sentinel_username": "",
        "sentinel_password": "",
        "sentinel_tls": False,
        "sentinel_tls_ca_file": "",
        "sentinel_tls_certificate_file": "",
        "sentinel_tls_key_file": "",
        "sentinel_tls_key_password": "",
        "sentinel_tls_server_name": "",
        "max_connections": 4,
        "allowed_hosts": "",
        "address_map": "",
        "key_prefix": "",
        "name": "",
        "serializer": "json",
        "max_value_size": 1_048_576,
        "foreign_readers": False,
        "compression": "none",
        "compression_threshold": 1024,
        "signing_key": "",
        "require_connection": True,
        "fail_open": "loading",
        "max_connection_age": 1_800_000,
        "max_waiting_calls": 10_000,
        "max_waiting_bytes": 67_108_864,
        "tls": False,
        "tls_ca_file": "",
        "tls_certificate_file": "",
        "tls_key_file": "",
        "tls_key_password": "",
        "tls_server_name": "",
        "tls_check_hostname": True,
        "tls_verify": True,
        "loading_refresh_at": 0.0,
        "loading_early_refresh": 0.0,
        "loading_stale_timeout": 0,
        "loading_soft_timeout": 0,
        "loading_hard_timeout": 30_000,
        "loading_missing_timeout": 0,
        "loading_jitter": 0.0,
        "loading_lease_timeout": 3000,
        "loading_max_threads": 128,
        "near_cache_enabled": False,
        "near_cache_max_size": 10_000,
        "near_cache_max_bytes": 67_108_864,
        "near_cache_timeout": 60_000,
        "near_cache_heartbeat": 1000,
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    """A number may be one or be written as text, as configuration files have it."""
    for given, read in ((7, 7), ("7", 7), (" 7 ", 7), ("007", 7), (1, 1)):
        assert getattr(options_of(**{name: given}), name) == read
    if name in MAY_BE_ZERO:
        assert getattr(options_of(**{name: 0}), name) == 0


@pytest.mark.parametrize("name", ["refresh_at", "early_refresh", "jitter"])
def test_shares(name: str) -> None:
    """A share may be a number or be written as text; what is none is refused, and not quoted."""
    for given, read in ((0.5, 0.5), ("0.25", 0.25), (1, 1.0), ("0", 0.0), (" 1.0 ", 1.0)):
        assert getattr(options_of(**{f"loading_{name}": given}), f"loading_{name}") == read
    for bad in ("-0.1", "secret", "", "1e1", "nan", "inf", 1e9, True, None, "101"):
        with pytest.raises(CacheConfigError) as caught:
            options_of(**{f"loading_{name}": bad})
        assert caught.value.code == "BAD_OPTION"
        assert f"loading.{name} must be a number" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_bad_numbers(name: str) -> None:
    """Anything else is refused by both APIs, with the option's name and limit."""
    for bad in [*BAD_NUMBERS, *(() if name in MAY_BE_ZERO else (0, "0"))]:
        error = refused({name: bad})
        assert f"options.{name} " in error
        assert "number" in error
        assert "secret" not in error


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str) -> None:
    """True and false, and the words for them, in any case."""
    for given in (True, "true", "True", "TRUE", "yes", "1", 1, " true "):
        assert getattr(options_of(**{name: given}), name) is True
    for given in (False, "false", "no", "0", 0, "No"):
        assert getattr(options_of(**{name: given}), name) is False
    for bad in BAD_FLAGS:
        assert f"options.{name} must be true or false" in refused({name: bad})


@pytest.mark.parametrize("wrong", NEAREST)
def test_unknown_options(wrong: str) -> None:
    """An unknown name is an error that suggests the nearest one; its value is not quoted."""
    error = refused({wrong: "secret"})
    assert f"unknown option `{wrong}`; did you mean `{NEAREST[wrong]}`?" in error
    assert "secret" not in error


def test_options_like_nothing() -> None:
    """Where no name is near none is suggested."""
    for wrong in ("colour", "x", "databases", ""):
        assert "did you mean" not in refused({wrong: "secret"})


BAD_CHOICES: dict[str, list[Any]] = {
    "serializer": ["yaml", "JSON", "", " json", "secret"],
    "compression": ["gzip", "ZLIB", "", "true", "secret"],
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_choices(name: str) -> None:
    """The error of a wrong choice names the choices."""
    for bad in BAD_CHOICES[name]:
        error = refused({name: bad})
        assert "one of" in error
        assert "secret" not in error


@pytest.mark.parametrize(
    "options",
    [
        {"serializer": "pickle"},
        {"signing_key": "secret"},
        {"signing_key": "é" * 15},
        {"key_prefix": "secret\n"},
        {"key_prefix": "\x00"},
        {"key_prefix": "\x7f"},
        {"key_prefix": "\x9f"},
        {"key_prefix": "\ud800"},
        {"key_prefix": "x" * 257},
        {"key_prefix": "é" * 129},
        {"tls_key_file": "/secret"},
        {"sentinel_tls_key_file": "/secret", "tls_certificate_file": "/secret"},
    ],
    ids=repr,
)
def test_combinations(options: dict[str, Any]) -> None:
    """What cannot work is refused when it is configured, and not when it first fails."""
    error = refused(options)
    assert "options." in error
    assert "secret" not in error
    assert "é" not in error


def test_a_prefix_may_be_any_text() -> None:
    """Spaces, letters of all languages, and what means something in a pattern."""
    for prefix in ("a b:", "ž:", "\u00a0", "\u3000x", "\u200d", "*?[]\\^-", "x" * 256, "é" * 128):
        assert options_of(key_prefix=prefix).key_prefix == prefix


def test_a_signing_key_is_not_shown() -> None:
    """The options may be logged."""
    assert "sixteen" not in repr(options_of(signing_key="sixteen letters."))


def test_options_are_frozen() -> None:
    """They are read once."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        options_of().timeout = 5  # type: ignore[misc]


@pytest.mark.parametrize("api", APIS)
def test_a_refused_configuration_changes_nothing(api: Api) -> None:
    """After an error the cache has the configuration that it had before."""
    cache = configured(URL, api, timeout=5_000)
    with pytest.raises(CacheConfigError):
        cache.configure(_bad_configuration())
    inner: Any = getattr(cache, "blocking", None)
    settings = (inner._cache if inner else cache)._lifecycle.settings
    assert settings.options.timeout == 5_000


def _bad_configuration() -> Any:
    from pip_services4_components.config import ConfigParams

    return ConfigParams.from_tuples("host", "elsewhere", "options.timeout", "x")


def refused(options: dict[str, Any]) -> str:
    """What both APIs say to these options."""
    messages: set[str] = set()
    for make in (AsyncRedisCache.from_url, RedisCache.from_url):
        with pytest.raises(CacheConfigError) as caught:
            make(URL, **options)
        assert caught.value.code == "BAD_OPTION"
        assert caught.value.__cause__ is caught.value.__context__ is None
        messages.add(f"{caught.value!r} {caught.value}")
    (message,) = messages
    return message
