"""The options of a cache, with their defaults, units and limits. They are read and validated once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from .durations import HOUR, LONGEST, SECOND
from .errors import CacheConfigError
from .logins import CredentialSource
from .option_suggestions import nearest_option
from .option_texts import (
    problem_of_address_map,
    problem_of_allowed_hosts,
    problem_of_cache_name,
    problem_of_passphrase,
    problem_of_prefix,
    problem_of_server_name,
    problem_of_signing_key,
)
from .option_values import bad_option, path_of, read_option

__all__ = ["SECTIONS", "Options", "path_of"]

_LARGEST: Final = 2**53 - 1
"""The maximum of options that count values, bytes and the like: the largest integer that Lua represents exactly."""
SECTIONS: Final = ("loading", "near_cache")
"""The sections of a configuration besides `options`."""


def _option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    least: int = 0,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    problem_of: Callable[[str], str] | None = None,
    secret: bool = False,
    is_map: bool = False,
    is_object: bool = False,
    may_be_forever: bool = False,
    section: str = "options",
) -> Any:
    if most is None:
        most = LONGEST if unit == "ms" else _LARGEST
    about = {
        "doc": doc,
        "unit": unit,
        "least": least,
        "most": most,
        "choices": choices,
        "problem_of": problem_of,
        "section": section,
        "is_map": is_map,
        "is_object": is_object,
        "may_be_forever": may_be_forever,
    }
    return dataclasses.field(default=default, repr=not secret, metadata=about)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one cache. The table in `docs/reference/configuration.md` is generated from them."""

    timeout: int = _option(
        60_000,
        "TTL of a value that is stored without a timeout of its own",
        unit="ms",
        least=1,
        may_be_forever=True,
    )
    retries: int = _option(
        3, "how often a call that is safe to repeat is retried, within its deadline"
    )
    max_size: int = _option(
        1000,
        "maximum number of values on the server, of all processes together; 0 for no limit, which"
        " is the default of `from_url`",
        unit="values",
    )
    command_timeout: int = _option(
        1000, "total time of a call: waiting, sending and retries", unit="ms", least=1
    )
    connect_timeout: int = _option(
        2000, "time for one attempt to connect and log in, and for `open`", unit="ms", least=1
    )
    require_connection: bool = _option(
        True, "whether `open` fails while the server is unreachable, or connects later"
    )
    fail_open: str = _option(
        "loading",
        "behaviour while the server is unreachable: `loading`: loading methods call the loader, "
        "other methods raise; `always`: these behave as on an empty cache; `never`: all methods "
        "raise",
        choices=("loading", "always", "never"),
    )
    topology: str = _option(
        "single",
        "what `connection` names: a server, sentinels, or nodes of a cluster. A URI such as "
        "`redis+sentinel://` sets it too",
        choices=("single", "sentinel", "cluster"),
    )
    credential_provider: CredentialSource | None = _option(  # noqa: RUF009  a field
        None,
        "asked for the login of every connection, instead of a login in `connection` or `credential`: a function or "
        "coroutine function that returns user and password, or a `CredentialProvider` of redis-py. An object, so it "
        "cannot come from a file",
        secret=True,
        is_object=True,
    )
    sentinel_master: str = _option("", "name of the master, as configured in the sentinels")
    sentinel_username: str = _option("", "user for the login at the sentinels")
    sentinel_password: str = _option("", "password for the login at the sentinels", secret=True)
    sentinel_tls: bool = _option(
        False, "whether to connect to the sentinels over TLS; the options `tls_*` apply to them too"
    )
    sentinel_tls_ca_file: str = _option(
        "", "PEM file of trusted authorities for the sentinels, instead of `tls_ca_file`"
    )
    sentinel_tls_certificate_file: str = _option(
        "",
        "PEM file of the client certificate for the sentinels, instead of `tls_certificate_file`",
    )
    sentinel_tls_key_file: str = _option("", "PEM file of the private key of that certificate")
    sentinel_tls_key_password: str = _option(
        "", "passphrase of that private key", secret=True, problem_of=problem_of_passphrase
    )
    sentinel_tls_server_name: str = _option(
        "",
        "name in the certificates of the sentinels, instead of `tls_server_name`",
        problem_of=problem_of_server_name,
    )
    allowed_hosts: str = _option(
        "",
        "hosts to which MOVED, ASK, CLUSTER SLOTS and sentinels may redirect the cache, and so "
        "its login: names, `*.example.com`, addresses, and networks such as `10.0.0.0/8`, "
        "separated by commas or spaces; empty for all. The hosts of `connection` are always "
        "allowed",
        problem_of=problem_of_allowed_hosts,
    )
    address_map: str = _option(
        "",
        "for a cluster, or servers that Sentinel monitors, behind network address translation: announced "
        "addresses and those to connect to instead, such as `10.0.0.1:7000=localhost:17000, "
        "10.0.0.2=203.0.113.7`; in `from_url` also a mapping. The addresses to connect to are always allowed",
        is_map=True,
        problem_of=problem_of_address_map,
    )
    max_connections: int = _option(
        4,
        "maximum number of connections, and so of pipelines in flight; in a cluster, per node",
        unit="connections",
        least=1,
    )
    max_connection_age: int = _option(
        1_800_000,
        "age at which a connection is replaced by a new one, for which the host name is resolved "
        "again; reduced at random by up to a tenth. 0 for no limit",
        unit="ms",
    )
    max_waiting_calls: int = _option(
        10_000,
        "maximum number of calls waiting for a connection; further ones raise OVERLOADED",
        unit="calls",
        least=1,
    )
    max_waiting_bytes: int = _option(
        64 * 1024 * 1024,
        "maximum size of calls waiting for a connection; further ones raise OVERLOADED",
        unit="bytes",
        least=1,
    )
    key_prefix: str = _option("", "prefix of every key on the server", problem_of=problem_of_prefix)
    name: str = _option(
        "",
        "name of this cache in log records, spans and metrics; by default its `key_prefix`",
        problem_of=problem_of_cache_name,
    )
    max_value_size: int = _option(
        1024 * 1024,
        "maximum size of a value, serialized, before compression",
        unit="bytes",
        least=1,
    )
    serializer: str = _option(
        "json",
        "format of stored values; `pickle` requires `signing_key`",
        choices=("json", "msgpack", "raw", "pickle"),
    )
    foreign_readers: bool = _option(
        False,
        "whether other programs, such as the Node.js implementation, read the values as plain "
        "JSON. Then only plain JSON is written: loading methods and tags raise UNSUPPORTED; "
        "compression, signing and other serializers are refused",
    )
    compression: str = _option("none", "compression of large values", choices=("none", "zlib"))
    compression_threshold: int = _option(
        1024, "minimum size of a serialized value to be compressed", unit="bytes"
    )
    signing_key: str = _option(
        "",
        "secret of at least 16 characters. Values are signed (HMAC-SHA256) together with their "
        "keys; values without a valid signature are misses",
        secret=True,
        problem_of=problem_of_signing_key,
    )
    tls: bool = _option(False, "whether to connect over TLS, as `rediss://` does")
    tls_ca_file: str = _option(
        "", "PEM file of the trusted certificate authorities, instead of those of the system"
    )
    tls_certificate_file: str = _option("", "PEM file of the client certificate")
    tls_key_file: str = _option("", "PEM file of the private key of the client certificate")
    tls_key_password: str = _option(
        "",
        "passphrase of the private key, if it is encrypted",
        secret=True,
        problem_of=problem_of_passphrase,
    )
    tls_server_name: str = _option(
        "",
        "name that is sent to the server (SNI) and must match its certificate, instead of the host; in a cluster, "
        "for all nodes",
        problem_of=problem_of_server_name,
    )
    tls_check_hostname: bool = _option(True, "whether the certificate must match the host name")
    tls_verify: bool = _option(
        True, "whether the certificate of the server is verified; a URI cannot disable it"
    )

    loading_refresh_at: float = _option(
        0.0,
        "refresh-ahead: share of the TTL after which a read value is reloaded in the background; "
        "0 for never",
        most=1,
        section="loading",
    )
    loading_early_refresh: float = _option(
        0.0,
        "probabilistic early refresh: `beta` of XFetch. A refresh becomes more likely towards the"
        " end of the TTL and with the duration of the load; 0 for never, 1 as in the paper",
        most=100,
        section="loading",
    )
    loading_stale_timeout: int = _option(
        0,
        "stale-while-revalidate and stale-if-error: how long after its TTL a value may still be "
        "returned, while it is reloaded or because loading fails",
        unit="ms",
        may_be_forever=True,
        section="loading",
    )
    loading_soft_timeout: int = _option(
        0,
        "how long a caller that may receive a stale value waits for the load; 0 to return the "
        "stale value at once",
        unit="ms",
        section="loading",
    )
    loading_hard_timeout: int = _option(
        30_000,
        "maximum duration of a load, and maximum time that a caller waits for one",
        unit="ms",
        least=1,
        most=HOUR,
        section="loading",
    )
    loading_missing_timeout: int = _option(
        0,
        "negative caching: how long a result of `None` is cached; 0 for not at all",
        unit="ms",
        may_be_forever=True,
        section="loading",
    )
    loading_jitter: float = _option(
        0.0,
        "maximum share by which a TTL is shortened at random, so that values do not expire "
        "together",
        most=1,
        section="loading",
    )
    loading_lease_timeout: int = _option(
        3000,
        "how long a load lease is valid without a renewal: other processes wait that long for a "
        "process that died during a load",
        unit="ms",
        least=100,
        most=HOUR,
        section="loading",
    )

    loading_max_threads: int = _option(
        128,
        "maximum number of worker threads that run loaders, including threads whose load has "
        "ended; further loads that need a thread raise TOO_MANY_THREADS",
        unit="threads",
        least=1,
        section="loading",
    )

    near_cache_enabled: bool = _option(
        False,
        "client-side caching: whether values are also kept in the process, until the server "
        "invalidates them",
        section="near_cache",
    )
    near_cache_max_size: int = _option(
        10_000, "maximum number of local entries", unit="values", least=1, section="near_cache"
    )
    near_cache_max_bytes: int = _option(
        64 * 1024 * 1024,
        "maximum memory of local entries, including the overhead of Python objects",
        unit="bytes",
        least=1,
        section="near_cache",
    )
    near_cache_timeout: int = _option(
        60_000,
        "maximum time that an entry is kept locally; never longer than its TTL on the server",
        unit="ms",
        least=1,
        may_be_forever=True,
        section="near_cache",
    )
    near_cache_heartbeat: int = _option(
        1000,
        "interval of PINGs on the invalidation channel; after two intervals without a reply, "
        "local entries are not served",
        unit="ms",
        least=20,
        section="near_cache",
    )

    def __post_init__(self) -> None:
        """Validate the content of texts, and combinations of options.

        Raises:
            CacheConfigError: BAD_OPTION.
        """
        for field in dataclasses.fields(self):
            problem_of = field.metadata["problem_of"]
            if problem_of is not None and (problem := problem_of(getattr(self, field.name))):
                raise bad_option(field, problem)
        self._validate_serialization()
        self._validate_tls()

    def _validate_serialization(self) -> None:
        if self.serializer == "pickle" and not self.signing_key:
            problem = "is pickle, which requires options.signing_key"
            raise bad_option(_FIELDS["serializer"], problem)
        if self.foreign_readers and (
            self.serializer != "json" or self.compression != "none" or self.signing_key
        ):
            problem = "requires options.serializer json, without compression and signing_key"
            raise bad_option(_FIELDS["foreign_readers"], problem)

    def _validate_tls(self) -> None:
        for prefix in ("", "sentinel_"):
            certificate = f"{prefix}tls_certificate_file"
            for key in (f"{prefix}tls_key_file", f"{prefix}tls_key_password"):
                if getattr(self, key) and not getattr(self, certificate):
                    raise bad_option(_FIELDS[key], f"requires options.{certificate}")

    @property
    def command_seconds(self) -> float:
        """`command_timeout` in seconds."""
        return self.command_timeout / SECOND

    @property
    def connect_seconds(self) -> float:
        """`connect_timeout` in seconds."""
        return self.connect_timeout / SECOND

    @property
    def connection_age_seconds(self) -> float:
        """`max_connection_age` in seconds; infinity for no limit."""
        return self.max_connection_age / SECOND or math.inf

    @property
    def near_cache_seconds(self) -> float:
        """`near_cache_timeout` in seconds."""
        return self.near_cache_timeout / SECOND

    @property
    def heartbeat_seconds(self) -> float:
        """`near_cache_heartbeat` in seconds."""
        return self.near_cache_heartbeat / SECOND

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Options:
        """Create options from configuration values, which are text if they come from a file.

        Args:
            given: the values, by the names of `names`.

        Raises:
            CacheConfigError: BAD_OPTION, for an unknown name (the message suggests the nearest one) or an invalid
                value (the message never contains it).
        """
        fields = _FIELDS
        for name in given:
            if name not in fields:
                nearest = nearest_option(name, fields)
                hint = f"; did you mean `{nearest}`?" if nearest else ""
                raise CacheConfigError("BAD_OPTION", f"unknown option `{name}`{hint}")
        return cls(
            **{fields[name].name: read_option(fields[name], value) for name, value in given.items()}
        )

    @classmethod
    def names(cls) -> frozenset[str]:
        """The names that `parse` accepts; in a section both `near_cache.timeout` and `near_cache_timeout`."""
        return frozenset(_FIELDS)


_FIELDS: Final = {
    name: field
    for field in dataclasses.fields(Options)
    # By its path in a section, and by its keyword of `from_url`.
    for name in (field.name, path_of(field).removeprefix("options."))
}
