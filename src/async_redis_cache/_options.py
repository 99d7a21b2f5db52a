"""Every option of a cache: its default, its unit, its limits; read and validated once."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from ._errors import CacheConfigError

__all__ = ["CONTROL", "LONGEST", "Options"]

_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
LONGEST: Final = 10 * 365 * 24 * 3600 * 1000
"""Ten years in milliseconds, the longest life of a value. Redis refuses what overflows its clock;
long before, it is a mistake of units."""
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What neither a key nor a prefix may hold: control characters, so that the library's own keys can
hold them, and lone surrogates, which UTF-8 cannot."""
_DIGITS: Final = re.compile(r"[0-9]{1,15}")
_PREFIX_BYTES: Final = 256


def _option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    least: int = 0,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    about = {"doc": doc, "unit": unit, "least": least, "choices": choices}
    return dataclasses.field(default=default, repr=not secret, metadata=about)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one cache. The configuration table of the documentation is made from these."""

    timeout: int = _option(
        60_000, "expiry of a value stored without a timeout of its own", unit="ms", least=1
    )
    retries: int = _option(
        3, "how often a call that may be repeated is tried again, inside its deadline"
    )
    max_size: int = _option(
        1000,
        "most values this cache holds on the server, all its processes together; 0 for no bound",
        unit="values",
    )
    command_timeout: int = _option(
        1000, "the whole budget of a call: waiting, sending and retries", unit="ms", least=1
    )
    connect_timeout: int = _option(
        2000, "budget of one attempt to connect and log in, and of `open`", unit="ms", least=1
    )
    require_connection: bool = _option(
        True, "whether `open` fails when the server is away; otherwise it connects when it can"
    )
    max_connections: int = _option(
        4, "most connections, and so exchanges under way at once", unit="connections", least=1
    )
    max_waiting_calls: int = _option(
        10_000, "most calls that wait for a connection; beyond it OVERLOADED", unit="calls", least=1
    )
    max_waiting_bytes: int = _option(
        64 * 1024 * 1024, "most bytes of waiting calls; beyond it OVERLOADED", unit="bytes", least=1
    )
    key_prefix: str = _option("", "put in front of every key on the server")
    max_value_size: int = _option(
        1024 * 1024, "largest value, serialized and not yet compressed", unit="bytes", least=1
    )
    serializer: str = _option(
        "json",
        "how values become bytes; `pickle` needs `signing_key`",
        choices=("json", "msgpack", "raw", "pickle"),
    )
    compression: str = _option("none", "how large values are compressed", choices=("none", "zlib"))
    compression_threshold: int = _option(
        1024, "smallest serialized value that is compressed", unit="bytes"
    )
    signing_key: str = _option(
        "",
        "secret of at least 16 characters: values are signed (HMAC-SHA256) together with their "
        "keys, and what is not signed so is not read",
        secret=True,
    )
    tls: bool = _option(False, "connect over TLS, as `rediss://` does")
    tls_ca_file: str = _option("", "PEM file of the authorities to trust instead of the system's")
    tls_certificate_file: str = _option("", "PEM file of the client's certificate")
    tls_key_file: str = _option("", "PEM file of the client's private key")
    tls_check_hostname: bool = _option(True, "whether the certificate must bear the host's name")
    tls_verify: bool = _option(
        True, "whether the server's certificate is verified at all; never switched off by a URI"
    )

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work.

        Raises:
            CacheConfigError: BAD_OPTION.
        """
        if self.serializer == "pickle" and not self.signing_key:
            raise _bad(
                "serializer", "is pickle, which is only read when options.signing_key is set"
            )
        if self.signing_key and len(self.signing_key) < 16:
            raise _bad("signing_key", "must have at least 16 characters")
        if CONTROL.search(self.key_prefix):
            raise _bad("key_prefix", "must not hold control characters or surrogates")
        if len(self.key_prefix.encode()) > _PREFIX_BYTES:
            raise _bad("key_prefix", f"must have at most {_PREFIX_BYTES} bytes")
        if self.tls_key_file and not self.tls_certificate_file:
            raise _bad("tls_key_file", "needs options.tls_certificate_file")

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Options:
        """Options from configuration values, which are text when they come from a file.

        Raises:
            CacheConfigError: BAD_OPTION for an unknown name (the message suggests the nearest
                one) or a value that cannot be taken (the message never quotes it).
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in given.keys() - fields.keys():
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean options.{near[0]}?" if near else ""
            raise _bad(name, f"is not an option of this cache{hint}")
        return cls(**{name: _read(fields[name], value) for name, value in given.items()})

    @classmethod
    def names(cls) -> frozenset[str]:
        """The names that `parse` knows."""
        return frozenset(field.name for field in dataclasses.fields(cls))


def _read(field: dataclasses.Field[Any], value: Any) -> Any:
    if isinstance(field.default, bool):
        word = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
        if word is None:
            raise _bad(field.name, "must be true or false")
        return word
    if isinstance(field.default, int):
        return _read_number(field, value)
    text = "" if value is None else str(value)
    choices = field.metadata["choices"]
    if choices and text not in choices:
        raise _bad(field.name, f"must be one of {', '.join(choices)}")
    return text


def _read_number(field: dataclasses.Field[Any], value: Any) -> int:
    least = field.metadata["least"]
    digits = "" if isinstance(value, bool) else str(value).strip()
    number = int(digits) if _DIGITS.fullmatch(digits) else -1
    if not least <= number <= LONGEST:
        unit = field.metadata["unit"]
        raise _bad(
            field.name, f"must be a whole number{f' of {unit}' if unit else ''}, {least} or more"
        )
    return number


def _bad(name: str, problem: str) -> CacheConfigError:
    # No chained cause: the value that could not be read may be a secret in the wrong place.
    return CacheConfigError("BAD_OPTION", f"options.{name} {problem}")
