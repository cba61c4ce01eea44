"""What is Klaviyo's own: the timestamp is signed behind the body, and its form is not documented."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta
from typing import Final

import pytest

from receiver.errors import Reason, Refused, Unreadable
from tests.provider_fixtures import Fixture, fixtures, folder, read_delivery

FORMS: Final = ["Fri, 20 Nov 2026 11:59:58 GMT", "2026-11-20T11:59:58.123+00:00", "1795175998"]


def _signed(fixture: Fixture, signed: bytes, stamp: str) -> dict[str, str]:
    key = folder("klaviyo").keys["secret_key"].encode()
    signature = hmac.new(key, signed, hashlib.sha256).hexdigest()
    return {**fixture.headers, "klaviyo-timestamp": stamp, "klaviyo-signature": signature}


@pytest.mark.parametrize("stamp", FORMS)
async def test_body_then_timestamp(stamp: str) -> None:
    """the body with the timestamp behind it is signed, in whatever form; any other order is refused"""
    fixture, provider = fixtures("klaviyo")[0], folder("klaviyo").provider()
    body, time = fixture.body, stamp.encode()
    await read_delivery(provider, fixture.delivery(headers=_signed(fixture, body + time, stamp)))
    for other in (time + body, body + b"." + time, body):
        with pytest.raises(Refused) as caught:
            await provider.authenticate(fixture.delivery(headers=_signed(fixture, other, stamp)))
        assert caught.value.reason is Reason.WRONG_KEY


@pytest.mark.parametrize("stamp", FORMS)
async def test_every_form_ages(stamp: str) -> None:
    """whatever its form, a time beyond the window is stale"""
    fixture = fixtures("klaviyo")[0]
    headers = _signed(fixture, fixture.body + stamp.encode(), stamp)
    with pytest.raises(Refused) as caught:
        await folder("klaviyo").provider(later=timedelta(hours=50)).authenticate(fixture.delivery(headers=headers))
    assert caught.value.reason is Reason.STALE


async def test_the_end_of_a_body_is_no_time() -> None:
    """who has one signature cannot move what stands at the body's end into the header, and have us keep many bodies"""
    fixture, stamp = fixtures("klaviyo")[0], FORMS[0]
    headers = _signed(fixture, fixture.body + stamp.encode(), stamp)
    for moved in (1, 2, 300):
        body, tail = fixture.body[:-moved], fixture.body[-moved:].decode()
        delivery = fixture.delivery(headers=headers | {"klaviyo-timestamp": tail + stamp}, body=body)
        with pytest.raises(Refused) as caught:
            await folder("klaviyo").provider().authenticate(delivery)
        assert caught.value.reason is Reason.MALFORMED_HEADER


async def test_a_signed_time_that_nobody_can_read() -> None:
    """a signed request whose time is in a form of tomorrow is authentic, and kept for a person to look at"""
    fixture = fixtures("klaviyo")[0]
    headers = _signed(fixture, fixture.body + b"the day after", "the day after")
    with pytest.raises(Unreadable):
        await folder("klaviyo").provider().authenticate(fixture.delivery(headers=headers))
