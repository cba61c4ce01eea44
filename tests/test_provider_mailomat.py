"""What is Mailomat's alone: the body is not covered. What holds for all is in `test_provider_contract.py`."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from receiver.contract import Delivery, World
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.providers.mailomat import Mailomat, MailomatSettings
from tests.provider_fixtures import _no_fetch, read_delivery

SECRET: Final = "mom-3kV8xQ1zB6nW4rT9yL2cF7hJ5dG0sP"
STAMP: Final = 1795176000
ID: Final = "5f0c7d12-8a4e-5b93-9d61-2e7b40c1a8f6"
SIGNED: Final = f"{ID}.delivered.{STAMP}".encode()
HEADERS: Final = {
    "x-mom-webhook-event": "delivered",
    "x-mom-webhook-id": ID,
    "x-mom-webhook-timestamp": str(STAMP),
    "x-mom-webhook-signature": f"sha256={hmac.digest(SECRET.encode(), SIGNED, 'sha256').hex()}",
}
BODY: Final = {
    "id": ID,
    "eventType": "delivered",
    "occurredAt": "2026-11-20T13:00:00+01:00",
    "recipient": "ada@customer.example",
}


def mailomat(**settings: Any) -> Mailomat:
    made = MailomatSettings.model_validate({"provider": "mailomat", "signing_secret": SECRET, **settings})
    return Mailomat(made, World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 60, UTC)))


def delivery(headers: dict[str, str] = HEADERS, **changed: Any) -> Delivery:
    return Delivery(source="mailomat", headers=headers, body=json.dumps(BODY | changed).encode())


async def test_one_signature_brings_one_event() -> None:
    """the signature fits another body too, which is the same event then: a thief gains no second one"""
    [first], _ = await read_delivery(mailomat(), delivery())
    [other], _ = await read_delivery(mailomat(), delivery(recipient="victim@customer.example", id="x", occurredAt=None))
    assert (first.type, first.recipient) == (EventType.DELIVERED, "ada@customer.example")
    assert (first.identity, first.identity_time) == (other.identity, other.identity_time)
    assert first.identity_time == datetime.fromtimestamp(STAMP, UTC)


async def test_a_signature_for_one_event_is_none_for_another() -> None:
    """a body of another type than the one that was signed is set aside, with the signed text as its proof"""
    found = await mailomat().authenticate(delivery(eventType="failure_perm"))
    assert found.proof == SIGNED
    readings, unreadable = await read_delivery(mailomat(), delivery(eventType="failure_perm"))
    assert (readings, unreadable) == ([], 1)


async def test_the_sender_does_not_choose_the_algorithm() -> None:
    """a signature of another algorithm is refused, even though it is right"""
    for name in ("sha1", "md5", "sha512"):
        value = f"{name}={hmac.new(SECRET.encode(), SIGNED, getattr(hashlib, name)).hexdigest()}"
        with pytest.raises(Refused) as caught:
            await mailomat().authenticate(delivery(HEADERS | {"x-mom-webhook-signature": value}))
        assert caught.value.reason is Reason.MALFORMED_HEADER


async def test_credentials_on_top() -> None:
    """credentials that are set are required beside the signature"""
    with pytest.raises(Refused) as caught:
        await mailomat(url_secret="0123456789abcdef").authenticate(delivery())
    assert caught.value.reason is Reason.MISSING_CREDENTIALS
