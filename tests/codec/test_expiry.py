"""Requests that nobody waits for any more."""

from __future__ import annotations

import time

import pytest

from tests.codec.decoding import decode, refusal
from tests.records import floats, request_bytes
from worker.records import Headers


def in_ms(seconds: float) -> float:
    return (time.time() + seconds) * 1000


@pytest.mark.parametrize("kind", [str, float, int])
def test_an_expired_parameter_is_answered_expired(kind: type) -> None:
    moment = in_ms(-1)
    if kind is str:
        headers: Headers = [("expires_at_ms", str(int(moment)).encode())]
        error = refusal(request_bytes(floats((1, 2)), id="a"), headers=headers)
    else:
        error = refusal(request_bytes(floats((1, 2)), id="a", parameters={"expires_at_ms": kind(moment)}))
    assert (error.code, error.request_id) == ("expired", "a")


def test_a_request_that_is_still_wanted_is_decoded() -> None:
    later = in_ms(60)
    assert decode(request_bytes(floats((1, 2)), parameters={"expires_at_ms": later})).expires_at_ms == later
    header: Headers = [("other", b"1"), ("expires_at_ms", b"4102444800000"), ("expires_at_ms", None)]
    assert decode(request_bytes(floats((1, 2))), headers=header).expires_at_ms == 4102444800000
    assert decode(request_bytes(floats((1, 2)))).expires_at_ms is None


def test_the_earliest_of_header_parameter_and_setting_counts() -> None:
    soon, late = in_ms(30), in_ms(60)
    both = request_bytes(floats((1, 2)), parameters={"expires_at_ms": late})
    assert decode(both, headers=[("expires_at_ms", str(soon).encode())]).expires_at_ms == soon
    now_ms = int(in_ms(0))
    assert decode(both, created_ms=now_ms, request_ttl_ms=10_000).expires_at_ms == now_ms + 10_000


def test_a_record_older_than_the_ttl_has_expired() -> None:
    """request_ttl_ms counts from the record's timestamp; a record without one has no age."""
    value = request_bytes(floats((1, 2)), id="a")
    error = refusal(value, created_ms=int(in_ms(-20)), request_ttl_ms=10_000)
    assert (error.code, error.request_id) == ("expired", "a")
    assert decode(value, request_ttl_ms=1).expires_at_ms is None


@pytest.mark.parametrize("text", [b"soon", b"", b"\xff\xfe", b"1e", "später"])
def test_an_unreadable_expiry_header_is_malformed(text: bytes | str) -> None:
    error = refusal(request_bytes(floats((1, 2)), id="a"), headers=[("expires_at_ms", text)])
    assert (error.code, error.request_id) == ("malformed", "a")
    assert "expires_at_ms" in str(error)


@pytest.mark.parametrize("headers", [[], [("expires_at_ms", b"nan")], [("expires_at_ms", b"4e12")]])
def test_a_nan_expiry_lets_nothing_through(headers: Headers) -> None:
    """nan compares false with everything: as a limit it would switch off the others."""
    value = request_bytes(floats((1, 2)), parameters={"expires_at_ms": float("nan")})
    stale, codes = int(in_ms(-3600)), ("malformed", "expired")
    assert refusal(value, headers=headers).code in codes
    assert refusal(value, headers=headers, created_ms=stale, request_ttl_ms=1000).code in codes
    if headers:
        assert refusal(request_bytes(floats((1, 2))), headers=[("expires_at_ms", b"nan"), *headers]).code in codes


def test_infinite_expiries_are_ordered_like_any_other() -> None:
    never = request_bytes(floats((1, 2)), parameters={"expires_at_ms": float("inf")})
    assert decode(never).shape.rows == 1
    always = request_bytes(floats((1, 2)), parameters={"expires_at_ms": float("-inf")})
    assert refusal(always).code == "expired"
