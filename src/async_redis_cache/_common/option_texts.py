"""What the text of an option must be, beyond its type and its choices. Each check returns the problem, or ""."""

from __future__ import annotations

from typing import Final

from .address_map import AddressMap
from .hosts import AllowedHosts, is_host
from .key_rules import CONTROL

__all__ = [
    "problem_of_address_map",
    "problem_of_allowed_hosts",
    "problem_of_cache_name",
    "problem_of_passphrase",
    "problem_of_prefix",
    "problem_of_server_name",
    "problem_of_signing_key",
]

_PREFIX_BYTES: Final = 256
_NAME_CHARACTERS: Final = 64
_PASSPHRASE_BYTES: Final = 1024
"""The limit of OpenSSL."""
_SIGNING_KEY_CHARACTERS: Final = 16


def problem_of_allowed_hosts(text: str) -> str:
    """See `AllowedHosts`."""
    try:
        AllowedHosts.of(text)
    except ValueError:
        return "must list host names, addresses or networks, separated by commas"
    return ""


def problem_of_address_map(text: str) -> str:
    """See `AddressMap`."""
    try:
        AddressMap.of(text)
    except ValueError:
        return (
            "must list pairs of addresses, such as 10.0.0.1:7000=localhost:17000, separated by commas; "
            "each announced address once, and a port to connect to only with an announced port"
        )
    return ""


def problem_of_prefix(text: str) -> str:
    """Check a prefix of keys."""
    if CONTROL.search(text):
        return "must not contain control characters or lone surrogates"
    return _unless(len(text.encode()) <= _PREFIX_BYTES, f"must have at most {_PREFIX_BYTES} bytes")


def problem_of_cache_name(text: str) -> str:
    """Check the name of a cache, which is part of log records."""
    is_valid = len(text) <= _NAME_CHARACTERS and text.isprintable()
    return _unless(is_valid, f"must have at most {_NAME_CHARACTERS} characters, all printable")


def problem_of_signing_key(text: str) -> str:
    """Check a key that is set: a short one can be guessed."""
    is_valid = not text or len(text) >= _SIGNING_KEY_CHARACTERS
    return _unless(is_valid, f"must have at least {_SIGNING_KEY_CHARACTERS} characters")


def problem_of_passphrase(text: str) -> str:
    """Check the passphrase of a private key."""
    is_valid = len(text.encode(errors="replace")) <= _PASSPHRASE_BYTES
    return _unless(is_valid, f"must have at most {_PASSPHRASE_BYTES} bytes")


def problem_of_server_name(text: str) -> str:
    """Check the name in a certificate, if it is set."""
    return _unless(not text or is_host(text), "must be a host name or an IP address")


def _unless(is_valid: object, problem: str) -> str:
    return "" if is_valid else problem
