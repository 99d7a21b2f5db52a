"""What is a valid key or tag, and what becomes of keys that are not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Literal

from .errors import CacheInputError

__all__ = [
    "CONTROL",
    "KEY_BYTES",
    "MOST_TAGS",
    "SHORT_KEY",
    "LongKeys",
    "check_key",
    "check_keys",
    "distinct_tags",
    "encode_name",
    "hashed_key",
]

LongKeys = Literal["raise", "hash"]
"""What becomes of keys that are too long, empty or contain control characters: BAD_KEY, or their hash is the key."""
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that neither a key nor a prefix may contain: control characters, which are reserved for the library's own
keys, and lone surrogates, which have no UTF-8 encoding."""
MOST_TAGS: Final = 64
KEY_BYTES: Final = 512
"""The longest key, and the longest tag, in UTF-8."""
SHORT_KEY: Final = KEY_BYTES // 4
"""Characters that never exceed the limit: UTF-8 needs at most four bytes for each."""
_HASH_BYTES: Final = 129
"""Of "#" and a SHA-512 hash in hexadecimal digits: longer than a short key, of which nothing is checked but letters."""


def check_key(key: str, long_keys: LongKeys) -> None:
    """Refuse a key that would not be valid.

    Raises:
        CacheInputError: BAD_KEY.
    """
    hashed_key(key) if long_keys == "hash" else encode_name(key, "key")


def check_keys(keys: Iterable[str]) -> Iterable[str]:
    """Return the keys, unless they are a single str, which is an iterable too.

    Raises:
        CacheInputError: BAD_KEY.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        problem = f"expected a list or another iterable of keys, got `{type(keys).__name__}`"
        raise CacheInputError("BAD_KEY", problem)
    return keys


def hashed_key(key: str) -> bytes:
    """Encode a key, or its hash if the key is too long, empty or contains control characters.

    A key that looks like a hash is hashed too, since a caller may imitate one.

    Raises:
        CacheInputError: BAD_KEY, if it is not a str.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _bad("key", f"must be a str, not {type(key).__name__}")
    encoded = key.encode(errors="surrogatepass")
    is_like_hash = key.startswith("#") and len(encoded) == _HASH_BYTES
    if 0 < len(encoded) <= KEY_BYTES and key.isprintable() and not is_like_hash:
        return encoded
    return b"#" + hashlib.sha512(encoded).hexdigest().encode()


def encode_name(name: str, what: str) -> bytes:
    """Validate a key or a tag, and encode it.

    Raises:
        CacheInputError: BAD_KEY or BAD_TAG, as `what` is "key" or "tag".
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _bad(what, f"must be a str, not {type(name).__name__}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded:
        raise _bad(what, "must not be empty, or contain lone surrogates")
    if not name.isprintable() and CONTROL.search(name):
        raise _bad(what, "must not contain control characters")
    if len(encoded) > KEY_BYTES:
        raise _bad(
            what,
            f"must not exceed {KEY_BYTES} bytes in UTF-8, and this one has {len(encoded)}: use a hash of it, "
            'as `long_keys="hash"` of a namespace or of `cached` does',
        )
    return encoded


def distinct_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags without duplicates.

    Raises:
        CacheInputError: BAD_TAG.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        problem = f"tags must be a collection of str, such as a tuple, not {type(tags).__name__}"
        raise CacheInputError("BAD_TAG", problem)
    distinct: dict[str, None] = {}
    for tag in tags:
        # The common case without a call, as in `Codec.wire_key`.
        if not (type(tag) is str and tag.isprintable() and 0 < len(tag) <= SHORT_KEY):
            encode_name(tag, "tag")
        distinct[tag] = None
    if len(distinct) > MOST_TAGS:
        problem = f"at most {MOST_TAGS} tags are allowed, not {len(distinct)}"
        raise CacheInputError("BAD_TAG", problem)
    return tuple(distinct)


def _bad(what: str, problem: str) -> CacheInputError:
    return CacheInputError(f"BAD_{what.upper()}", f"a {what} {problem}")
