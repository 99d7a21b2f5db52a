"""Keys of URIs and of their variants (RFC 9111, sections 2 and 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from .fields import Fields, token_members, values
from .messages import Request
from .validation import CONDITIONS

__all__ = [
    "FORWARDED",
    "METHOD_OVERRIDES",
    "parameters_of",
    "request_of",
    "selecting_names",
    "uri_of",
    "variant_key",
    "without_parameters",
]

_HOST: Final = re.compile(rb"[A-Za-z0-9._\-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
METHOD_OVERRIDES: Final = frozenset(
    {b"x-http-method-override", b"x-http-method", b"x-method-override"}
)
FORWARDED: Final = METHOD_OVERRIDES | frozenset(
    {
        *(b"forwarded", b"x-forwarded-host", b"x-forwarded-server", b"x-host", b"x-original-host"),
        *(b"x-forwarded-prefix", b"x-forwarded-path", b"x-original-url", b"x-rewrite-url"),
        *(b"x-forwarded-proto", b"x-forwarded-scheme", b"x-forwarded-port"),
    }
)
"""Fields that some frameworks take the method, the host or the path of a request from."""
_NOTED: Final = (
    FORWARDED | CONDITIONS | {b"host", b"range", b"content-length", b"transfer-encoding"}
)
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
_NOT_IN_URIS: Final = re.compile(rb"[\x00-\x20\x7f]")
_DIGEST_BYTES: Final = 16
_OPTIONAL_SPACE: Final = re.compile(r"[ \t]*,[ \t]*")
_CASELESS: Final = frozenset({b"accept-encoding", b"accept-language", b"accept-charset"})
_UNORDERED: Final = frozenset({b"accept-encoding"})
"""The order of codings means nothing (RFC 9110, section 12.5.3); that of languages does to some applications."""


def selecting_names(response: Fields) -> tuple[bytes, ...]:
    """Return the request fields that `Vary` names, in lower case and in order."""
    return tuple(sorted(name.encode("latin-1") for name in token_members(response, b"vary")))


def variant_key(key: str, names: Iterable[bytes], request: Fields, identity: str | None) -> str:
    """Return the key of the variant that a request selects.

    Args:
        key: of the URI.
        names: the request fields that select the variant. One that is absent differs from one that is empty.
        request: the fields of the request.
        identity: for which client the response is; None for any. Only its hash is in the key.
    """
    digest = blake2b(digest_size=_DIGEST_BYTES)
    if identity is not None:
        text = identity.encode(errors="surrogatepass")
        digest.update(b"%d:%s," % (len(text), text))
    for name in names:
        selected = _normalized(name, values(request, name))
        # Lengths, so that no value can imitate another name.
        text = b"absent" if selected is None else selected.encode("latin-1")
        digest.update(b"%d:%s=%d:%d:%s;" % (len(name), name, selected is None, len(text), text))
    return f"{key} {digest.hexdigest()}"


def uri_of(
    scheme: str, path: bytes, query: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> str | None:
    """Return the URI of a request as it was sent; None if its host could be taken for a part of the path.

    A proxy may send the host and path that clients use in other fields, which applications make links with, and some
    frameworks take the method from a field. They are part of the URI then, since any client may send them.

    Args:
        scheme: `http` or `https`.
        path: as sent, with its percent-encoding.
        query: as sent, or without what does not change the response.
        fields: of the request.
    """
    hosts = [value for name, value in fields if name == b"host"]
    host = _host(hosts[0]) if hosts else ""
    if host is None or len(hosts) > 1 or _NOT_IN_URIS.search(path):
        return None
    if query and _NOT_IN_URIS.search(query):
        # It would be taken for what follows the URI in keys.
        return None
    added = [field for field in fields if field[0] in FORWARDED]
    forwarded = _forwarded(scheme, hosts, added).decode("latin-1") if added else ""
    return f"{scheme}://{host}{path.decode('latin-1')}?{query.decode('latin-1')}{forwarded}"


@lru_cache
def _host(value: bytes) -> str | None:
    """Return a host as it is in keys; None if it could be taken for a part of the path."""
    return value.decode().lower() if _HOST.fullmatch(value) else None


def _forwarded(scheme: str, hosts: list[bytes], added: list[tuple[bytes, bytes]]) -> bytes:
    """Return what keys have of the fields that a proxy has added: those that differ from the request itself."""
    host = hosts[0] if hosts else b""
    implied = {b"x-forwarded-proto": scheme.encode(), b"x-forwarded-host": host}
    if host and b":" not in host:
        client_scheme = {**implied, **dict(added)}[b"x-forwarded-proto"]
        implied[b"x-forwarded-port"] = _DEFAULT_PORTS.get(client_scheme, b"")
    return b"".join(
        b" %s=%d:%s" % (name, len(value), value)
        for name, value in added
        if value != implied.get(name)
    )


def request_of(
    method: str, scheme: str, path: bytes, query: bytes, fields: Fields
) -> Request | None:
    """Return a request with its URI; None where `uri_of` does. See there."""
    noted = [field for field in fields if field[0] in _NOTED]
    uri = uri_of(scheme, path, query, noted)
    if uri is None:
        return None
    # Almost every request has only this one of these fields, and is then not looked through again.
    is_plain = len(noted) == 1 and noted[0][0] == b"host"
    return Request(method, uri, fields, is_plain, query)


def without_parameters(query: bytes, ignored: frozenset[bytes], *, is_sorted: bool) -> bytes:
    """Return a query without some parameters.

    Args:
        query: as sent, with "&" between its parameters.
        ignored: names of parameters, as they are sent.
        is_sorted: whether to sort the parameters by their names; those of the same name keep their order.
    """
    parts = [part for part in query.split(b"&") if _name_of(part) not in ignored]
    if is_sorted:
        parts.sort(key=_name_of)
    return b"&".join(parts)


def parameters_of(query: bytes) -> set[bytes]:
    """Return the names of the parameters of a query, as they are sent."""
    return {_name_of(part) for part in query.split(b"&")} if query else set()


def _name_of(parameter: bytes) -> bytes:
    return parameter.partition(b"=")[0]


def _normalized(name: bytes, lines: list[str]) -> str | None:
    """Return the value of a field, in the same form for values that mean the same; None if it is absent."""
    if not lines:
        return None
    text = _OPTIONAL_SPACE.sub(",", ", ".join(lines))
    if name in _CASELESS:
        text = text.lower()
    if name in _UNORDERED:
        text = ",".join(sorted(text.replace(" ", "").split(",")))
    return text
