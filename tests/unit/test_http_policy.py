"""What the HTTP cache may store and reuse: RFC 9111, sections 3 and 4, and RFC 9110, section 13."""

from __future__ import annotations

from email.utils import formatdate
from functools import partial
from typing import Any

import pytest

from async_redis_cache._http.messages import (
    RECORDS,
    Request,
    Response,
    Stored,
    Uncacheable,
    Variants,
)
from async_redis_cache._http.policy import Policy
from async_redis_cache._http.validation import (
    is_not_modified,
    not_modified_fields,
    validating_fields,
)
from harness.header_fields import fields

http_date = partial(formatdate, usegmt=True)
NOW = 1_000_000_000.0
DEFAULT = Policy()
DATE = f"Date: {http_date(NOW)}"


def request(*lines: str, method: str = "GET") -> Request:
    """A request with these lines."""
    return Request(method, "http://example/", fields(*lines))


def response(*lines: str, status: int = 200, body: bytes = b"body") -> Response:
    """A response with these lines."""
    return Response(status, fields(*lines), body)


def stored(*lines: str, policy: Policy = DEFAULT, **options: Any) -> Stored:
    """A response that was stored at NOW."""
    found = policy.stored(request(), response(*lines, **options), NOW, NOW)
    assert found is not None
    return found


def age_of_use(lines: list[str], asked: list[str], after: float, **options: Any) -> str:
    """What becomes of a request for a stored response after some seconds."""
    policy = Policy(**options)
    return policy.judge(request(*asked), stored(*lines, policy=policy), NOW + after)


@pytest.mark.parametrize(
    ("asked", "lines", "status", "is_stored"),
    [
        ([], ["Cache-Control: max-age=60"], 200, True),
        ([], ["Cache-Control: s-maxage=60"], 200, True),
        ([], [f"Expires: {http_date(NOW + 60)}", DATE], 200, True),
        ([], ["Cache-Control: max-age=60"], 404, True),
        ([], ["Cache-Control: max-age=60"], 599, True),
        # Without freshness it would never be reused, unless it can be validated.
        ([], [], 200, False),
        ([], ["ETag: 1"], 200, True),
        ([], ["Cache-Control: max-age=0"], 200, False),
        ([], ["Cache-Control: max-age=60", "Age: 60"], 200, False),
        ([], ["Cache-Control: no-cache", "ETag: 1"], 200, True),
        ([], ["Cache-Control: no-store, max-age=60"], 200, False),
        ([], ["Cache-Control: private, max-age=60"], 200, False),
        ([], ['Cache-Control: private="set-cookie", max-age=60'], 200, False),
        ([], ["Cache-Control: max-age=60", "Set-Cookie: a=1"], 200, False),
        ([], ["Cache-Control: max-age=60", "Set-Cookie2: a=1"], 200, False),
        ([], ["Cache-Control: max-age=60", "Vary: *"], 200, False),
        ([], ["Cache-Control: max-age=60", "Vary: a, *"], 200, False),
        ([], ["Cache-Control: max-age=60"], 206, False),
        ([], ["Cache-Control: max-age=60"], 304, False),
        ([], ["Cache-Control: max-age=60, must-understand, no-store"], 200, True),
        ([], ["Cache-Control: max-age=60, must-understand, no-store"], 599, False),
        (["Cache-Control: no-store"], ["Cache-Control: max-age=60"], 200, False),
        (["Authorization: a"], ["Cache-Control: max-age=60"], 200, False),
        (["Authorization: a"], ["Cache-Control: max-age=60, public"], 200, True),
        (["Authorization: a"], ["Cache-Control: max-age=60, must-revalidate"], 200, True),
        (["Authorization: a"], ["Cache-Control: s-maxage=60"], 200, True),
    ],
)
def test_response_is_stored_if_a_shared_cache_may(
    asked: list[str], lines: list[str], status: int, is_stored: bool
) -> None:
    """RFC 9111, section 3, for a shared cache; and never a cookie."""
    found = Policy().stored(request(*asked), response(*lines, status=status), NOW, NOW)
    assert (found is not None) is is_stored


def test_only_get_is_stored() -> None:
    """The response to another method is not stored, not even to HEAD, which has no body."""
    for method in ("HEAD", "POST", "OPTIONS", "get"):
        asked = request(method=method)
        assert Policy().stored(asked, response("Cache-Control: max-age=60"), NOW, NOW) is None


@pytest.mark.parametrize(
    ("lines", "asked", "after", "action"),
    [
        (["Cache-Control: max-age=60"], [], 59, "serve"),
        (["Cache-Control: max-age=60", "ETag: 1"], [], 60, "forward"),
        (["Cache-Control: max-age=60, s-maxage=10", "ETag: 1"], [], 20, "forward"),
        (["Cache-Control: max-age=1, s-maxage=60"], [], 20, "serve"),
        (["Cache-Control: max-age=60", "Age: 50", "ETag: 1"], [], 10, "forward"),
        (["Cache-Control: max-age=60", "Age: 50, 0", "ETag: 1"], [], 10, "forward"),
        (["Cache-Control: max-age=60", "Age: -50"], [], 10, "serve"),
        (["Cache-Control: max-age=60", "Age: 50.5"], [], 10, "serve"),
        (
            ["Cache-Control: max-age=60", f"Date: {http_date(NOW - 50)}", "ETag: 1"],
            [],
            10,
            "forward",
        ),
        ([f"Expires: {http_date(NOW + 60)}", DATE], [], 59, "serve"),
        ([f"Expires: {http_date(NOW + 60)}", "Date: yesterday"], [], 59, "serve"),
        (
            [f"Expires: {http_date(NOW + 60)}", "Cache-Control: max-age=1", "ETag: 1"],
            [],
            2,
            "forward",
        ),
        (["Expires: 0", "ETag: 1"], [], 0, "forward"),
        ([f"Expires: {http_date(NOW + 60)}"] * 2 + ["ETag: 1"], [], 0, "forward"),
        (["Cache-Control: max-age=60, no-cache", "ETag: 1"], [], 0, "forward"),
        (["Cache-Control: max-age=60, stale-while-revalidate=30"], [], 80, "revalidate"),
        (["Cache-Control: max-age=60, stale-while-revalidate=30", "ETag: 1"], [], 91, "forward"),
        (
            ["Cache-Control: max-age=60, stale-while-revalidate=30, must-revalidate"],
            [],
            80,
            "forward",
        ),
        (
            ["Cache-Control: max-age=60, stale-while-revalidate=30, proxy-revalidate"],
            [],
            80,
            "forward",
        ),
        (
            ["Cache-Control: no-cache, stale-while-revalidate=30", "ETag: 1"],
            [],
            10,
            "forward",
        ),
        # The directives of requests do not apply by default.
        (["Cache-Control: max-age=60"], ["Cache-Control: no-cache"], 1, "serve"),
        (["Cache-Control: max-age=60"], ["Cache-Control: max-age=0"], 1, "serve"),
    ],
)
def test_stored_response_is_served_while_it_is_fresh(
    lines: list[str], asked: list[str], after: float, action: str
) -> None:
    """RFC 9111, sections 4.2 and 5.2.2, and RFC 5861."""
    assert age_of_use(lines, asked, after) == action


@pytest.mark.parametrize(
    ("asked", "after", "action"),
    [
        (["Cache-Control: no-cache"], 1, "forward"),
        (["Pragma: no-cache"], 1, "forward"),
        (["Cache-Control: max-age=10"], 11, "forward"),
        (["Cache-Control: max-age=10"], 9, "serve"),
        (["Cache-Control: min-fresh=30"], 31, "forward"),
        (["Cache-Control: min-fresh=30"], 29, "serve"),
        (["Cache-Control: max-stale"], 600, "serve"),
        (["Cache-Control: max-stale=10"], 65, "serve"),
        (["Cache-Control: max-stale=10"], 75, "forward"),
    ],
)
def test_directives_of_requests_apply_if_they_are_followed(
    asked: list[str], after: float, action: str
) -> None:
    """RFC 9111, section 5.2.1, with `follows_requests`."""
    lines = ["Cache-Control: max-age=60", "ETag: 1"]
    assert age_of_use(lines, asked, after, follows_requests=True) == action


def test_max_stale_does_not_override_must_revalidate() -> None:
    """RFC 9111, section 5.2.2.2: such a response is not served stale, whatever the request accepts."""
    lines, asked = ["Cache-Control: max-age=60, must-revalidate"], ["Cache-Control: max-stale"]
    assert age_of_use(lines, asked, 61, follows_requests=True) == "forward"


def test_age_includes_the_time_that_the_response_took() -> None:
    """RFC 9111, section 4.2.3: an `Age` that was received is as old as the request."""
    received = response("Cache-Control: max-age=60", "Age: 10")
    found = Policy().stored(request(), received, NOW - 5, NOW)
    assert found is not None
    assert found.age_at(NOW + 1) == 16


def test_lifetime_of_the_options_applies_without_a_stated_one() -> None:
    """A default lifetime, and a heuristic one, yield to what the response states."""
    assert age_of_use([], [], 59, default_lifetime=60) == "serve"
    assert (
        age_of_use(["Cache-Control: max-age=1", "ETag: 1"], [], 59, default_lifetime=60)
        == "forward"
    )
    modified = [f"Last-Modified: {http_date(NOW - 1000)}", DATE]
    assert age_of_use(modified, [], 99, heuristic_limit=3600) == "serve"
    assert age_of_use(modified, [], 101, heuristic_limit=3600) == "forward"
    assert age_of_use(modified, [], 51, heuristic_limit=50) == "forward"
    assert age_of_use(modified, [], 1) == "forward"


@pytest.mark.parametrize(
    ("status", "lines", "after", "is_replaced"),
    [
        (503, ["Cache-Control: max-age=1, stale-if-error=60"], 30, True),
        *(
            (status, ["Cache-Control: max-age=1, stale-if-error=60"], 30, True)
            for status in (500, 502, 504)
        ),
        (501, ["Cache-Control: max-age=1, stale-if-error=60"], 30, False),
        (503, ["Cache-Control: max-age=1, stale-if-error=60"], 62, False),
        (404, ["Cache-Control: max-age=1, stale-if-error=60"], 30, False),
        (
            503,
            ["Cache-Control: max-age=1, stale-if-error=60, must-revalidate", "ETag: 1"],
            30,
            False,
        ),
        (503, ["Cache-Control: s-maxage=1, stale-if-error=60", "ETag: 1"], 30, False),
        (503, ["Cache-Control: max-age=1", "ETag: 1"], 30, False),
    ],
)
def test_stale_response_replaces_a_server_error(
    status: int, lines: list[str], after: float, is_replaced: bool
) -> None:
    """RFC 5861, section 4, unless the response forbids to serve it stale (RFC 9111, section 4.2.4)."""
    assert Policy().replaces_error(stored(*lines), NOW + after, status) is is_replaced


@pytest.mark.parametrize(
    ("status", "seconds"), [(200, 60), (301, 60), (404, 5), (410, 5), (302, None), (500, None)]
)
def test_options_say_how_long_a_status_is_fresh(status: int, seconds: float | None) -> None:
    """`missing_ttl` is that of 404 and 410, and no option is that of temporary redirections and errors."""
    policy = Policy(default_lifetime=60, missing_lifetime=5)
    found = policy.stored(request(), response(status=status), NOW, NOW)
    assert (found and found.lifetime) == seconds


def test_statuses_other_than_those_of_the_option_are_not_stored() -> None:
    """`statuses` applies to responses that state their freshness too."""
    policy = Policy(statuses=frozenset({200}))
    for status, is_stored in (200, True), (404, False):
        lines = response("Cache-Control: max-age=60", status=status)
        assert (policy.stored(request(), lines, NOW, NOW) is not None) is is_stored


def test_stale_response_is_served_by_the_options_where_it_does_not_say() -> None:
    """`stale_while_revalidate` and `stale_if_error` apply to a response without the directive of the same name."""
    policy = Policy(default_lifetime=60, stale_while_revalidate=30, stale_if_error=30)
    silent = stored(policy=policy)
    assert policy.judge(request(), silent, NOW + 80) == "revalidate"
    assert policy.replaces_error(silent, NOW + 80, 503)
    stating = stored(
        "Cache-Control: stale-while-revalidate=0, stale-if-error=0", "ETag: 1", policy=policy
    )
    assert policy.judge(request(), stating, NOW + 80) == "forward"
    assert not policy.replaces_error(stating, NOW + 80, 503)


CONDITIONAL = ("Cache-Control: max-age=60", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", DATE)


@pytest.mark.parametrize(
    ("asked", "etag", "not_modified"),
    [
        (['If-None-Match: "a"'], '"a"', True),
        (['If-None-Match: W/"a"'], '"a"', True),
        (['If-None-Match: "a"'], 'W/"a"', True),
        (['If-None-Match: "b" ,W/"x,y", "a"'], '"a"', True),
        (['If-None-Match: "b"', 'If-None-Match: "a"'], '"a"', True),
        (['If-None-Match: "x,y"'], '"x,y"', True),
        (["If-None-Match: *"], '"a"', True),
        (['If-None-Match: "A"'], '"a"', False),
        (["If-None-Match: a"], '"a"', False),
        (['If-None-Match: w/"a"'], '"a"', True),
        (['If-None-Match: "b"', "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], '"a"', False),
        (["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], '"a"', True),
        (["If-Modified-Since: Sunday, 06-Nov-94 08:49:38 GMT"], '"a"', True),
        (["If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"], '"a"', False),
        (["If-Modified-Since: now"], '"a"', False),
        ([], '"a"', False),
    ],
)
def test_condition_is_met_by_the_stored_response(
    asked: list[str], etag: str, not_modified: bool
) -> None:
    """RFC 9110, sections 13.1.2 and 13.1.3: lists, "*", weak comparison, and If-None-Match before the date."""
    found = stored(*CONDITIONAL, f"ETag: {etag}")
    assert is_not_modified(fields(*asked), found, NOW) is not_modified


def test_condition_does_not_apply_to_other_statuses() -> None:
    """RFC 9110, section 13.2.1: conditions are ignored where the response would not be a success."""
    found = stored(*CONDITIONAL, 'ETag: "a"', status=404)
    assert not is_not_modified(fields("If-None-Match: *"), found, NOW)


def test_not_modified_has_the_fields_that_belong_to_it() -> None:
    """RFC 9110, section 15.4.5: what a 200 would have had of these; Last-Modified only without an ETag."""
    received = fields("Vary: a", "Content-Type: text/plain", "Content-Length: 4", *CONDITIONAL)
    assert not_modified_fields(received) == fields("Vary: a", *CONDITIONAL)
    assert fields(CONDITIONAL[1])[0] not in not_modified_fields((*received, (b"etag", b'"a"')))


def test_etag_is_made_from_the_body() -> None:
    """It is weak, equal for equal bodies, differs for others, and is not sent to the application."""
    one, other = (stored("Cache-Control: max-age=60", body=body) for body in (b"1", b"2"))
    assert dict(one.fields)[b"etag"] == dict(stored(*CONDITIONAL[:1], body=b"1").fields)[b"etag"]
    assert dict(one.fields)[b"etag"].startswith(b'W/"')
    assert dict(one.fields)[b"etag"] != dict(other.fields)[b"etag"]
    assert validating_fields((), one) == ()


def test_etag_is_the_same_in_every_process() -> None:
    """A client can validate at another process, and after a restart."""
    tag = b'W/"55c15da3a355d7a5f0b84eae5231fac3"'
    assert dict(stored("Cache-Control: max-age=60", body=b"body1").fields)[b"etag"] == tag


def test_validated_response_has_the_fields_of_the_304() -> None:
    """RFC 9111, section 3.2: fields are replaced, except those that describe the stored content; its date was that of the first response."""
    old = stored(
        "Cache-Control: max-age=1",
        'ETag: "a"',
        "X-Kept: 1",
        "X-New: 1",
        "Age: 5",
        "Content-Length: 4",
        "Content-Encoding: gzip",
        DATE,
    )
    update = response(
        'ETag: "a"',
        "X-New: 2",
        "Cache-Control: max-age=60",
        "Content-Length: 0",
        "Content-Encoding: br",
        status=304,
    )
    new = Policy().freshened(old, update, NOW + 9, NOW + 9)
    assert new is not None
    assert sorted(new.fields) == sorted(
        fields(
            "Cache-Control: max-age=60",
            'ETag: "a"',
            "X-Kept: 1",
            "X-New: 2",
            "Content-Length: 4",
            "Content-Encoding: gzip",
        )
    )
    assert new.received == NOW + 9
    assert validating_fields(fields("If-None-Match: *", "X: 1"), old) == fields(
        "X: 1", 'If-None-Match: "a"'
    )


def test_304_about_another_representation_validates_nothing() -> None:
    """RFC 9111, section 4.3.4: another strong validator is that of another representation."""
    old = stored("Cache-Control: max-age=1", 'ETag: "a"')
    update = response('ETag: "b"', status=304)
    assert Policy().freshened(old, update, NOW, NOW) is None


@pytest.mark.parametrize("record", [Variants((b"accept",), "g"), Uncacheable()])
def test_record_is_read_as_it_was_stored(record: Variants | Uncacheable) -> None:
    """The serializer distinguishes the kinds of records, and keeps the bytes of a body."""
    assert RECORDS.loads(RECORDS.dumps(record)) == record
    found = stored("Cache-Control: max-age=60", "X: \xe4", body=bytes(range(256)))
    assert RECORDS.loads(RECORDS.dumps(found)) == found
