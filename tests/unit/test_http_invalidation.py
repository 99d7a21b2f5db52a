"""Which responses a write invalidates, and which a URL: RFC 9111, section 4.4."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_redis_cache._http.invalidation import Target, is_write, keys_of_url, keys_of_write
from async_redis_cache._http.keys import uri_of
from async_redis_cache._http.response_options import ResponseOptions, Rule
from harness.header_fields import fields


def target(path: str, *lines: str, scheme: str = "http") -> Target:
    """A request for a path, with a query or without, and with these header lines."""
    path, _, query = path.partition("?")
    return Target(scheme, path.encode(), query.encode(), fields(*(lines or ("Host: shop",))))


def key_of(read: Target) -> str:
    """The key under which the response to a request is stored."""
    key = uri_of(*read[:4])
    assert key is not None
    return key


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        *((method, 200, True) for method in ("POST", "PUT", "DELETE", "PATCH", "LOCK")),
        *((method, 200, False) for method in ("GET", "HEAD", "OPTIONS", "TRACE")),
        *(("POST", status, True) for status in (201, 204, 303, 399)),
        *(("POST", status, False) for status in (100, 199, 400, 404, 500)),
    ],
)
def test_unsafe_methods_invalidate_with_success(method: str, status: int, expected: bool) -> None:
    """A successful request with a method that is not safe invalidates; an unknown method is not safe."""
    assert is_write(method, status) is expected


@pytest.mark.parametrize(
    ("written", "lines", "read"),
    [
        ("/a/b?x=1", [], "/a/b?x=1"),
        ("/a/b", ["Location: /c"], "/a/b"),
        ("/a/b", ["Location: /c"], "/c"),
        ("/a/b", ["Location: /c?x=1#top"], "/c?x=1"),
        ("/a/b", ["Location: c"], "/a/c"),
        ("/a/b", ["Location: ../c"], "/c"),
        ("/a/b", ["Location: ?x=1"], "/a/b?x=1"),
        ("/a/b", ["Location: http://shop/c"], "/c"),
        ("/a/b", ["Location: HTTP://SHOP:80/c"], "/c"),
        ("/a/b", ["Location: //shop/c"], "/c"),
        ("/a/b", ["Location: http://shop"], "/"),
        ("/a/b", ["Content-Location: /c"], "/c"),
        ("/a/b", ["Content-Location: /c", "Location: /d"], "/d"),
        ("/a/b", ["Location: /caf\u00c3\u00a9"], "/caf%C3%A9"),
    ],
)
def test_write_invalidates_its_uri_and_those_that_its_response_names(
    written: str, lines: list[str], read: str
) -> None:
    """Besides the URI of the write, those of `Location` and `Content-Location`, relative to it, are invalidated."""
    assert key_of(target(read)) in keys_of_write(target(written), fields(*lines))


@pytest.mark.parametrize(
    "reference",
    [
        *(
            "http://other/c",
            "https://shop/c",
            "http://shop:8080/c",
            "//other/c",
            "http://shop@other/c",
        ),
        *("mailto:shop", "http://[/c", "http://shop:x/c", "http:", "data:,"),
    ],
)
def test_reference_to_another_origin_invalidates_nothing(reference: str) -> None:
    """An application cannot invalidate the responses of another origin, and an invalid URI names none."""
    written = target("/a/b")
    found = keys_of_write(written, fields(f"Location: {reference}"))
    assert found == keys_of_write(written, ())


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=20),
        st.from_regex(r"[a-z]{0,5}:?/{0,3}[a-z@:\\[\\].]{0,12}(shop|other)?[/?#@:.]?.{0,9}"),
    )
)
def test_no_reference_leaves_the_origin(reference: str) -> None:
    """Whatever a response names, its own URI is invalidated, and nothing of another host or scheme."""
    reference = reference.encode("latin-1", "replace").decode("latin-1")
    found = keys_of_write(target("/a/b"), fields(f"Location: {reference}"))
    assert key_of(target("/a/b")) in found
    origins = {key.partition("/")[0] for key in (key.removeprefix("http://") for key in found)}
    assert origins == {"shop", "shop:80"}


@pytest.mark.parametrize(
    ("lines", "reference"),
    [
        (["X-Forwarded-Proto: https"], "https://shop/c"),
        (["X-Forwarded-Proto: https", "X-Forwarded-Host: public"], "https://public/c"),
        (["X-Forwarded-Prefix: /api"], "/c"),
        (["X-HTTP-Method-Override: PUT"], "/c"),
    ],
)
def test_write_behind_a_proxy_invalidates_what_was_read_behind_it(
    lines: list[str], reference: str
) -> None:
    """Responses are stored by what the proxy adds. A write invalidates those, and those that were read without it."""
    lines = ["Host: shop", *lines]
    found = keys_of_write(target("/a/b", *lines), fields(f"Location: {reference}"))
    read = [line for line in lines if "Method" not in line]
    assert {key_of(target("/c", *read)), key_of(target("/c"))} <= found


@pytest.mark.parametrize(
    ("lines", "root"),
    [(["X-Forwarded-Prefix: /api"], ""), (["X-Forwarded-Prefix: /api/"], ""), ([], "/api")],
)
def test_prefix_that_a_proxy_takes_off_is_no_part_of_the_path(lines: list[str], root: str) -> None:
    """URLs that the application makes have the path that it is mounted at. Its requests may have it, or not."""
    lines = ["Host: shop", *lines]
    written = target("/a", *lines)._replace(root=root)
    for read in ("/c", "/api/c"):
        key = key_of(target(read, *lines))
        assert key in keys_of_write(written, fields("Location: /api/c"))
        assert key in keys_of_url("http://shop/api/c", target=written)
    assert key_of(target("/", *lines)) in keys_of_url("/api", target=written)
    assert key_of(target("/c", *lines)) not in keys_of_url("/apis/c", target=written)
    added = {"X-Forwarded-Prefix": "/api"}
    behind = target("/c", "Host: shop", "X-Forwarded-Prefix: /api")
    assert key_of(behind) in keys_of_url("http://shop/api/c", added)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://shop/c", target("/c")),
        ("http://SHOP:80/c", target("/c")),
        ("http://user:secret@shop/c#top", target("/c")),
        ("http://shop", target("/")),
        ("http://shop/caf\u00e9?q=\u00e9", target("/caf%C3%A9?q=%C3%A9")),
        ("http://shop/c?b=1&a=2", target("/c?b=1&a=2")),
        ("http://shop/c?b=1&a=2", target("/c?a=2&b=1")),
        ("http://shop:8080/c", target("/c", "Host: shop:8080")),
        ("http://[::1]/c", target("/c", "Host: [::1]")),
        ("https://shop/c", target("/c", scheme="https")),
        ("https://shop/c", target("/c", "Host: shop", "X-Forwarded-Proto: https")),
        (
            "https://shop/c",
            target("/c", "Host: shop", "X-Forwarded-Port: 443", "X-Forwarded-Proto: https"),
        ),
        (
            "https://shop/c",
            target("/c", "Host: shop", "X-Forwarded-Port: 443", scheme="https"),
        ),
    ],
)
def test_url_is_that_of_stored_responses(url: str, read: Target) -> None:
    """A URL, as a job of another process has it, invalidates what was stored for requests to it."""
    assert key_of(read) in keys_of_url(url)


def test_url_takes_what_a_proxy_adds() -> None:
    """Behind a proxy that adds further fields, they are passed with the URL; in a handler, those of its request are."""
    read = target("/c", "Host: shop", "X-Forwarded-Server: edge")
    assert key_of(read) not in keys_of_url("http://shop/c")
    assert key_of(read) in keys_of_url("http://shop/c", {"X-Forwarded-Server": "edge"})
    assert key_of(read) in keys_of_url("http://shop/c", target=read)
    assert key_of(read) in keys_of_url("/c", target=read)


@pytest.mark.parametrize("url", ["/c", "c", "", "ftp://shop/c", "http:///c", "//shop/c"])
def test_url_outside_of_a_request_must_be_absolute(url: str) -> None:
    """A relative URL would be that of no response."""
    with pytest.raises(ValueError, match="absolute"):
        keys_of_url(url)


@pytest.mark.parametrize(
    "spellings",
    [
        ["/o'neil", "/o%27neil"],
        ["/a(b),c:d", "/a%28b%29%2Cc%3Ad", "/a(b)%2Cc%3Ad"],
        ["/caf%C3%A9", "/caf%c3%a9"],
        ["/tea~1", "/%74ea%7E1"],
        ["/a%2Fb", "/a%2fb"],
        ["/c?q=green+tea", "/c?q=green%20tea"],
        ["/c?q=a/b:c&r=!", "/c?q=a%2Fb%3Ac&r=%21", "/c?q=a%2Fb%3Ac&r=!"],
    ],
)
def test_spelling_of_a_uri_does_not_matter(spellings: list[str]) -> None:
    """Clients encode different characters: what is read in one spelling is invalidated in any."""
    for written, read in permutations(spellings, 2):
        if read == "/%74ea%7E1":
            # No client encodes letters that need not be.
            continue
        assert key_of(target(read)) in keys_of_write(target(written), ())
        assert key_of(target(read)) in keys_of_url(f"http://shop{written}")
    other = target("/a/b")
    assert key_of(other) not in keys_of_url("http://shop/a%2Fb")


@pytest.mark.parametrize("length", [40, 4000, 60_000])
def test_number_of_spellings_is_bounded(length: int) -> None:
    """A URI made for it causes no more than a few hundred keys, and less than 4 MB of them."""
    text = "'($&:,;@= /" * (length // 11)
    keys = keys_of_url(f"http://shop/{text}?q={text}")
    assert len(keys) < 500
    assert sum(map(len, keys)) < 4_000_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["Host: shop"], ["Host: shop:80"]),
        (["Host: [::1]"], ["Host: [::1]:80"]),
        (
            ["Host: shop", "X-Forwarded-Host: shop", "X-Forwarded-Proto: https"],
            ["Host: shop:443", "X-Forwarded-Host: shop:443", "X-Forwarded-Proto: https"],
        ),
    ],
)
def test_default_port_of_the_host_does_not_matter(one: list[str], other: list[str]) -> None:
    """A client may send the default port with the host, and is at the same URI."""
    for written, read in permutations([target("/c", *one), target("/c", *other)]):
        assert key_of(read) in keys_of_write(written, ())


@pytest.mark.parametrize("host", ["sh op", "shop:x", "b\u00fccher.example", "shop\n"])
def test_url_with_a_host_that_no_client_sends_is_refused(host: str) -> None:
    """It would silently invalidate nothing."""
    with pytest.raises(ValueError, match="host that clients send"):
        keys_of_url(f"http://{host}/c")


def test_query_is_invalidated_as_rules_normalise_it() -> None:
    """A URL with a parameter that a rule ignores invalidates the response that is stored without it."""
    rule = Rule(ResponseOptions(ignored_parameters=["utm_source"]))
    read = target("/c?a=1&utm_source=x")
    stored = read._replace(query=rule.query(read.query))
    assert key_of(stored) in keys_of_url("http://shop/c?a=1&utm_source=x")
    assert key_of(stored) in keys_of_write(target("/d"), fields("Location: /c?a=1&utm_source=x"))


@pytest.mark.parametrize(
    ("lines", "is_implied"),
    [
        (["X-Forwarded-Port: 80"], True),
        (["X-Forwarded-Port: 443"], False),
        (["X-Forwarded-Port: 8080"], False),
        (["X-Forwarded-Port: 443", "X-Forwarded-Proto: https"], True),
        (["X-Forwarded-Port: 80", "X-Forwarded-Proto: https"], False),
    ],
)
def test_default_port_is_no_part_of_the_key(lines: list[str], is_implied: bool) -> None:
    """A forwarded port makes a difference where it is not that of the scheme, as clients see it."""
    others = [line for line in lines if "Port" not in line]
    with_port = key_of(target("/c", "Host: shop", *lines))
    assert (with_port == key_of(target("/c", "Host: shop", *others))) is is_implied
    assert key_of(target("/c", "Host: shop:81", *lines)) != key_of(
        target("/c", "Host: shop:81", *others)
    )
