"""Which URIs a write invalidates (RFC 9111, section 4.4), and the keys under which the responses of a URI are stored.

A response names the URIs that its request has changed in `Location` and `Content-Location`. Only those of the same
origin are invalidated, so that no application can invalidate the responses of another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from .fields import Fields, values, without
from .keys import FORWARDED, METHOD_OVERRIDES, uri_of, without_parameters
from .response_options import queries_of
from .spellings import spellings

__all__ = ["Target", "is_write", "keys_of_url", "keys_of_write"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_SUCCESSES: Final = range(200, 400)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_PORT: Final = re.compile(rb":[0-9]*$")
_IN_URIS: Final = "/?#[]:@!$&'()*+,;=%"


class Target(NamedTuple):
    """What a request is for.

    Attributes:
        scheme: `http` or `https`.
        path: as sent, with its percent-encoding.
        query: as sent, without "?".
        fields: the header fields of the request, `Host` among them.
        root: the path that the application is mounted at, which a proxy may have taken off.
    """

    scheme: str
    path: bytes
    query: bytes
    fields: Fields
    root: str = ""


def is_write(method: str, status: int) -> bool:
    """Return whether a request with this method, and a response with this status code, invalidates responses."""
    return method not in _SAFE and status in _SUCCESSES


def keys_of_write(target: Target, response: Fields) -> set[str]:
    """Return the keys of the URIs that a write invalidates.

    Args:
        target: of the write.
        response: the fields of its response.
    """
    keys = _keys(target)
    for name in (b"location", b"content-location"):
        for reference in values(response, name):
            keys |= _keys_of_reference(target, quote(reference.encode("latin-1"), safe=_IN_URIS))
    return keys


def keys_of_url(
    url: str, headers: Mapping[str, str] | None = None, target: Target | None = None
) -> set[str]:
    """Return the keys of a URL.

    Args:
        url: absolute, or relative to the target.
        headers: what a proxy adds to the requests, such as `X-Forwarded-Prefix`.
        target: of the request that is being handled; None outside of one.

    Raises:
        ValueError: the URL is not one of http or https, or is relative outside of a request, or its host is not one
            that clients send.
    """
    quoted = quote(url, safe=_IN_URIS)
    keys = set[str]() if target is None else _keys_of_reference(target, quoted)
    parts = urlsplit(quoted)
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        if keys:
            return keys
        raise ValueError("the URL must be absolute, and one of http or https")
    path, query = parts.path or "/", parts.query
    added = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    fields = ((b"host", _authority(parts.scheme, parts.netloc).encode()), *added)
    keys |= _keys_of_path(Target(parts.scheme, b"", b"", fields), path, query)
    if parts.scheme == "https":
        # As an application sees it behind a proxy that terminates TLS.
        forwarded = (*fields, (b"x-forwarded-proto", b"https"))
        keys |= _keys_of_path(Target("http", b"", b"", forwarded), path, query)
    if not keys:
        raise ValueError(
            "the URL must have the host that clients send: in ASCII (punycode), with no spaces"
        )
    return keys


def _keys_of_reference(target: Target, reference: str) -> set[str]:
    """Return the keys of a reference (RFC 3986, section 5) to a URI of the same origin; none for that of another."""
    hosts = values(target.fields, b"host")
    if len(hosts) != 1:
        return set()
    base = f"{target.scheme}://{hosts[0]}{target.path.decode('latin-1')}"
    if target.query:
        base += f"?{target.query.decode('latin-1')}"
    try:
        parts = urlsplit(urljoin(base, reference))
    except ValueError:
        # Such as a host with one bracket.
        return set()
    origins = {
        (scheme, _authority(scheme, host))
        for scheme in (target.scheme, *values(target.fields, b"x-forwarded-proto"))
        for host in (*hosts, *values(target.fields, b"x-forwarded-host"))
    }
    if (parts.scheme, _authority(parts.scheme, parts.netloc)) not in origins:
        return set()
    return _keys_of_path(target, parts.path or "/", parts.query)


def _keys_of_path(target: Target, path: str, query: str) -> set[str]:
    """Return the keys of another path of the same host, as clients see it, and as proxies pass it on."""
    keys = set[str]()
    roots = ("", target.root, *values(target.fields, b"x-forwarded-prefix"))
    for root in {root.rstrip("/") for root in roots}:
        if path == root or path.startswith(f"{root}/"):
            inner = (path.removeprefix(root) or "/").encode("latin-1")
            keys |= _keys(target._replace(path=inner, query=query.encode("latin-1")))
    return keys


def _authority(scheme: str, netloc: str) -> str:
    """Return a host and its port as clients send them: without the default port and without credentials."""
    return netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))


def _keys(target: Target) -> set[str]:
    """Return the keys of a URI in all its spellings: with the forwarded fields of the request and without."""
    scheme, path, query, fields, _ = target
    queries = queries_of(query)
    queries.add(without_parameters(query, frozenset(), is_sorted=True))
    spelled = {spelling for each in queries for spelling in spellings(path, each)}
    forms: Iterable[Fields] = (without(fields, METHOD_OVERRIDES), without(fields, FORWARDED))
    hosted = [each for form in forms for each in _with_each_port(scheme, form)]
    found = (uri_of(scheme, *uri, each) for uri in spelled for each in hosted)
    return {key for key in found if key is not None}


def _with_each_port(scheme: str, fields: Fields) -> list[Fields]:
    """Return the fields with the host as it is, and with the default port or without it."""
    sent = [value for name, value in fields if name == b"host"]
    if len(sent) != 1:
        return [fields]
    hosts = {sent[0]}
    for each in (scheme, *values(fields, b"x-forwarded-proto")):
        port = _DEFAULT_PORTS.get(each, "").encode()
        bare = sent[0].removesuffix(port)
        hosts.add(bare)
        if not _PORT.search(bare):
            hosts.add(bare + port)
    # A proxy repeats the host in its own field.
    hosting = {(b"host", sent[0]), (b"x-forwarded-host", sent[0])}
    return [
        tuple((name, host if (name, value) in hosting else value) for name, value in fields)
        for host in hosts
    ]
