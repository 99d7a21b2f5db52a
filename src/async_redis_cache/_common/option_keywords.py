"""The options as keywords of `from_url`, so that type checkers find unknown names and wrong types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, TypedDict

from .durations import Forever
from .logins import CredentialSource

__all__ = ["CacheOptions", "SerializerName"]

SerializerName = Literal["json", "msgpack", "raw", "pickle"]


class CacheOptions(TypedDict, total=False):
    """The keywords of `from_url`: options by name, and those of other sections with the section's name in front.

    The table in `docs/reference/configuration.md` describes them, with their defaults. A duration is an int, in
    milliseconds, or a `timedelta`; a TTL may also be FOREVER.
    """

    timeout: int | timedelta | Forever
    retries: int
    max_size: int
    command_timeout: int | timedelta
    connect_timeout: int | timedelta
    require_connection: bool
    fail_open: Literal["loading", "always", "never"]
    topology: Literal["single", "sentinel", "cluster"]
    credential_provider: CredentialSource | None
    sentinel_master: str
    sentinel_username: str
    sentinel_password: str
    sentinel_tls: bool
    sentinel_tls_ca_file: str
    sentinel_tls_certificate_file: str
    sentinel_tls_key_file: str
    sentinel_tls_key_password: str
    sentinel_tls_server_name: str
    allowed_hosts: str
    address_map: str | Mapping[str, str]
    max_connections: int
    max_connection_age: int | timedelta
    max_waiting_calls: int
    max_waiting_bytes: int
    key_prefix: str
    name: str
    max_value_size: int
    foreign_readers: bool
    compression: Literal["none", "zlib"]
    compression_threshold: int
    signing_key: str
    tls: bool
    tls_ca_file: str
    tls_certificate_file: str
    tls_key_file: str
    tls_key_password: str
    tls_server_name: str
    tls_check_hostname: bool
    tls_verify: bool
    loading_refresh_at: float
    loading_early_refresh: float
    loading_stale_timeout: int | timedelta | Forever
    loading_soft_timeout: int | timedelta
    loading_hard_timeout: int | timedelta
    loading_missing_timeout: int | timedelta | Forever
    loading_jitter: float
    loading_lease_timeout: int | timedelta
    loading_max_threads: int
    near_cache_enabled: bool
    near_cache_max_size: int
    near_cache_max_bytes: int
    near_cache_timeout: int | timedelta | Forever
    near_cache_heartbeat: int | timedelta
