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

# The secret and the headers recorded in Symfony's bridge to Mailomat (Mailer/Bridge/Mailomat/Tests/Webhook), seen
# 2026-11. They fit any body.
SECRET: Final = "NgD3IyUA0oLfkM5IyL8tdMNJeIYeBXOpAcnulN1du1aqh3jFbo766lKdJvMePUy5"
STAMP: Final = 1718004211
HEADERS: Final = {
    "x-mom-webhook-event": "delivered",
    "x-mom-webhook-id": "1d958822-0934-4c6a-abc8-5defec4baa64",
    "x-mom-webhook-timestamp": str(STAMP),
    "x-mom-webhook-signature": "sha256=1a1e3be272212aefe668db51231f54ba66759d6d4b9c5e03d4aa6825f8eb157c",
}
BODY: Final = {
    "id": "1d958822-0934-4c6a-abc8-5defec4baa64",
    "eventType": "delivered",
    "occurredAt": "2024-06-10T09:23:31+02:00",
    "messageUuid": "1684f904-596e-4d9f-ba16-ead5c4d27957",
    "recipient": "to@mailomat.swiss",
}


def mailomat(**settings: Any) -> Mailomat:
    made = MailomatSettings.model_validate({"provider": "mailomat", "signing_secret": SECRET, **settings})
    return Mailomat(made, World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 60, UTC)))


def delivery(headers: dict[str, str] = HEADERS, **changed: Any) -> Delivery:
    return Delivery(source="mailomat", headers=headers, body=json.dumps(BODY | changed).encode())


async def test_one_signature_brings_one_event() -> None:
    """the published signature fits another body too, which is the same event then: a thief gains no second one"""
    [first], _ = await read_delivery(mailomat(), delivery())
    [other], _ = await read_delivery(mailomat(), delivery(recipient="victim@customer.example", id="x", occurredAt=None))
    assert (first.type, first.recipient) == (EventType.DELIVERED, "to@mailomat.swiss")
    assert (first.identity, first.identity_time) == (other.identity, other.identity_time)
    assert first.identity_time == datetime.fromtimestamp(STAMP, UTC)


async def test_a_signature_for_one_event_is_none_for_another() -> None:
    """a body of another type than the one that was signed is set aside, with the signed text as its proof"""
    found = await mailomat().authenticate(delivery(eventType="failure_perm"))
    assert found.proof == f"{HEADERS['x-mom-webhook-id']}.delivered.{STAMP}".encode()
    readings, unreadable = await read_delivery(mailomat(), delivery(eventType="failure_perm"))
    assert (readings, unreadable) == ([], 1)


async def test_the_sender_does_not_choose_the_algorithm() -> None:
    """a signature of another algorithm is refused, even though it is right"""
    signed = f"{HEADERS['x-mom-webhook-id']}.delivered.{STAMP}".encode()
    for name in ("sha1", "md5", "sha512"):
        value = f"{name}={hmac.new(SECRET.encode(), signed, getattr(hashlib, name)).hexdigest()}"
        with pytest.raises(Refused) as caught:
            await mailomat().authenticate(delivery(HEADERS | {"x-mom-webhook-signature": value}))
        assert caught.value.reason is Reason.MALFORMED_HEADER


async def test_credentials_on_top() -> None:
    """credentials that are set are required beside the signature"""
    with pytest.raises(Refused) as caught:
        await mailomat(url_secret="0123456789abcdef").authenticate(delivery())
    assert caught.value.reason is Reason.MISSING_CREDENTIALS
