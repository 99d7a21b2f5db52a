"""Header fields, dates, directives and keys of the HTTP cache."""

from __future__ import annotations

import sys
from email.utils import formatdate
from typing import Any

import pytest

from async_redis_cache._http.asgi_frameworks import request_in
from async_redis_cache._http.cache_control import request_directives, response_directives
from async_redis_cache._http.cache_status import CacheStatus, cache_identifier
from async_redis_cache._http.dates import parse_http_date
from async_redis_cache._http.fields import end_to_end, members
from async_redis_cache._http.keys import selecting_names, uri_of, variant_key, without_parameters
from async_redis_cache._http.response_options import ResponseOptions, Rule
from harness.header_fields import fields

TARGETED = (b"cdn-cache-control",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("sun, 06 nOV 1994 08:49:37 gmt", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Thu, 29 Feb 2024 23:59:60 GMT", 1709251200),
        ("Tue, 19 Jan 2038 03:14:08 GMT", 2**31),
        ("Thu, 29 Feb 2023 00:00:00 GMT", None),
        ("Sun, 00 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 94 08:49:37 GMT", None),
        ("Sun 06 Nov 1994 08:49:37 GMT", None),
        ("Sun,  06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06-Nov-1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 8:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("0", None),
        ("", None),
    ],
)
def test_date_is_parsed_in_the_three_formats_only(text: str, seconds: int | None) -> None:
    """RFC 9110, section 5.6.7: three formats, letters of either case; any other text is no date."""
    assert parse_http_date(text, this_year=2026) == seconds


@pytest.mark.parametrize(("year", "expected"), [("76", 2076), ("77", 1977), ("26", 2026)])
def test_year_of_two_digits_is_at_most_fifty_years_ahead(year: str, expected: int) -> None:
    """RFC 9110, section 5.6.7: a date that appears to be more than 50 years in the future is in the past."""
    seconds = parse_http_date(f"Monday, 02-Mar-{year} 00:00:00 GMT", this_year=2026)
    assert seconds is not None
    assert formatdate(seconds, usegmt=True)[12:16] == str(expected)


def test_commas_in_quoted_strings_do_not_separate_members() -> None:
    """A member of a list may contain commas and escaped quotes in a quoted string."""
    list_of = fields(r'Cache-Control: a="1, \", 2", , b', "Cache-Control: c")
    assert list(members(list_of, b"cache-control")) == [r'a="1, \", 2"', "b", "c"]


def test_quote_without_an_end_hides_no_directive() -> None:
    """What follows such a quote is read, also after many of them."""
    for value in ('a="1, no-store', '"' * 9_999 + ", no-store", '"' + '\\"' * 9_999 + ", no-store"):
        assert list(members(fields(f"Cache-Control: {value}"), b"cache-control"))[-1] == "no-store"


def test_fields_of_the_connection_are_left_out() -> None:
    """RFC 9111, section 3.1: hop-by-hop fields, and those that `Connection` names, are not stored."""
    received = fields(
        "Connection: close, X-Own", "X-Own: 1", "TE: gzip", "X-Other: 2", "Upgrade: h2c"
    )
    assert end_to_end(received) == fields("X-Other: 2")


@pytest.mark.parametrize(
    ("lines", "name", "seconds"),
    [
        (["max-age=60"], "max-age", 60),
        (["MAX-AGE=60"], "max-age", 60),
        (['max-age="60"'], "max-age", 60),
        (["max-age=0060"], "max-age", 60),
        (["max-age=60, max-age=5"], "max-age", 5),
        (["max-age=5", "max-age=60"], "max-age", 5),
        (["max-age=" + "9" * 5000], "max-age", 2**31),
        (["max-age=-5"], "max-age", 0),
        (["max-age=60.5"], "max-age", 0),
        (["max-age='60'"], "max-age", 0),
        (["max-age"], "max-age", 0),
        (['extension="max-age=60"'], "max-age", None),
        (["s-maxage=60"], "max-age", None),
        (["max-age = 60"], "max-age", None),
    ],
)
def test_seconds_of_a_directive(lines: list[str], name: str, seconds: int | None) -> None:
    """An invalid number makes a response stale, and of several the least applies (RFC 9111, section 4.2.1)."""
    assert (
        response_directives(fields(*(f"Cache-Control: {line}" for line in lines))).seconds(name)
        == seconds
    )


@pytest.mark.parametrize(
    ("text", "is_targeted"),
    [
        ("max-age=60", True),
        ("max-age=60;a=1 , private", True),
        ("no-store", True),
        ("max-age=60, &&&", False),
        ("max-age=60,", False),
        ('max-age="60"', False),
        ("Max-Age=60", False),
        ("max-age=6.5", False),
        ("", False),
    ],
)
def test_targeted_field_applies_if_it_is_a_valid_dictionary(text: str, is_targeted: bool) -> None:
    """RFC 9213, section 2.1: a field that is invalid or empty is ignored, and Cache-Control applies."""
    received = fields(f"CDN-Cache-Control: {text}", "Cache-Control: max-age=1")
    assert response_directives(received, TARGETED).is_targeted is is_targeted
    assert not response_directives(received).is_targeted


def test_pragma_counts_without_cache_control_only() -> None:
    """RFC 9111, section 5.4: `Pragma: no-cache` is `Cache-Control: no-cache` for a request that has no other."""
    assert request_directives(fields("Pragma: no-cache")).has("no-cache")
    assert not request_directives(fields("Pragma: no-cache", "Cache-Control: max-age=1")).has(
        "no-cache"
    )


def test_scheme_and_host_are_parts_of_the_key() -> None:
    """RFC 9111, section 2: a key is a URI. The host is compared without regard to case."""
    keys = [
        uri_of(scheme, b"/a", b"", fields(f"Host: {host}"))
        for scheme in ("http", "https")
        for host in ("a.example", "b.example", "A.example")
    ]
    assert keys[:3] == ["http://a.example/a?", "http://b.example/a?", "http://a.example/a?"]
    assert len(set(keys)) == 4


def key(
    *lines: str, names: tuple[bytes, ...] = (b"accept", b"x-tenant"), identity: str | None = None
) -> str:
    """The key of the variant that these fields select."""
    return variant_key("uri", names, fields(*lines), identity)


def test_names_of_vary_are_in_one_order() -> None:
    """The order, the case and the repetition of names in Vary select nothing."""
    names = [f"x-{letter}" for letter in "abcdefgh"]
    assert selecting_names(fields(f"Vary: {','.join(names[::-1])}", "Vary: X-A")) == tuple(
        name.encode() for name in names
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["Accept: a"], ["Accept: b"]),
        (["Accept: "], []),
        (["Accept: absent"], []),
        (["Accept: a", "X-Tenant: b"], ["Accept: b", "X-Tenant: a"]),
        (["Accept: a,X-Tenant=1"], ["Accept: a", "X-Tenant: 1"]),
        (["Accept: a"], ["Accept: A"]),
    ],
)
def test_requests_that_differ_select_other_variants(one: list[str], other: list[str]) -> None:
    """Absent and empty fields differ, and no value imitates another field."""
    assert key(*one) != key(*other)


def test_identities_select_variants() -> None:
    """No identity, an empty one and each other one are variants of their own, whatever the fields are."""
    keys = {key(identity=identity) for identity in (None, "", "1", "2", "0:accept=1:0:;")}
    assert len(keys) == 5
    assert "secret" not in key(identity="secret")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("X-Tenant", ["X-Tenant: a, b"], ["X-Tenant: a ,b"]),
        ("X-Tenant", ["X-Tenant: a", "X-Tenant: b"], ["X-Tenant: a,b"]),
        ("Accept-Language", ["Accept-Language: de-AT"], ["Accept-Language: de-at"]),
        (
            "Accept-Encoding",
            ["Accept-Encoding: gzip, br;q=0.5"],
            ["Accept-Encoding: BR; q=0.5,gzip"],
        ),
    ],
)
def test_fields_that_mean_the_same_select_one_variant(
    name: str, one: list[str], other: list[str]
) -> None:
    """White space at commas, several lines, and what is without meaning in a field, make no variants."""
    names = (name.lower().encode(),)
    assert key(*one, names=names) == key(*other, names=names)


@pytest.mark.parametrize(
    ("query", "ignored", "is_sorted", "kept"),
    [
        (b"b=1&a=2&b=0", (), False, b"b=1&a=2&b=0"),
        (b"b=1&a=2&b=0", (), True, b"a=2&b=1&b=0"),
        (b"utm_source=x&a=2&utm_source", (b"utm_source",), False, b"a=2"),
        (b"%75tm_source=x", (b"utm_source",), True, b"%75tm_source=x"),
    ],
)
def test_query_keeps_what_may_change_the_response(
    query: bytes, ignored: tuple[bytes, ...], is_sorted: bool, kept: bytes
) -> None:
    """Parameters of one name keep their order; names are compared as they are sent."""
    assert without_parameters(query, frozenset(ignored), is_sorted=is_sorted) == kept


def test_cache_status_is_a_structured_field() -> None:
    """RFC 9211: a token with parameters; a key is a string of ASCII with escapes."""
    status = CacheStatus(forwarded="stale", status=304, stored=True, ttl=60, key='ä"\\')
    assert status.text("c") == r'c; fwd=stale; fwd-status=304; stored; ttl=60; key="\\xe4\"\\"'
    assert CacheStatus(hit=True, ttl=-1).text("c") == "c; hit; ttl=-1"
    # No character ends the string or the field, and no key makes the field too large for clients.
    assert CacheStatus(key='a\r\n\t\x7f"; hit').text("c") == (
        r'c; key="a\\x0d\\x0a\\x09\\x7f\"; hit"'
    )
    assert len(CacheStatus(key='"' * 100_000).text("c")) < 2_100


@pytest.mark.parametrize(
    ("name", "identifier"),
    [("async-redis-cache", "async-redis-cache"), ("my shop", '"my shop"'), ("9", '"9"')],
)
def test_cache_is_identified_by_a_token_or_a_string(name: str, identifier: str) -> None:
    """RFC 9211, section 2: clients discard a field in which the name of the cache is neither."""
    assert CacheStatus(hit=True, ttl=1).text(cache_identifier(name)) == f"{identifier}; hit; ttl=1"


@pytest.mark.parametrize("identity", [7, None])
def test_identity_that_is_not_text_is_refused(identity: Any) -> None:
    """A number, such as the id of a user, and None, which would make the response one for all, raise a TypeError."""
    rule = Rule(ResponseOptions(ttl=60, vary_on=lambda _: identity))
    with pytest.raises(TypeError, match="vary_on must return a str, not"):
        rule.identity({})


def test_request_of_an_application_without_a_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vary_on` gets the scope itself if neither Starlette nor Litestar is imported."""
    for package in ("starlette.requests", "litestar"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    scope: dict[str, Any] = {"type": "http", "headers": []}
    assert request_in(scope) is scope
