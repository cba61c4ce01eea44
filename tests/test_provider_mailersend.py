"""MailerSend: its ping, and its two events for one open. The rest is in `test_provider_contract.py`."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from receiver.contract import Authentic, Delivery
from receiver.errors import Reason, Refused
from receiver.event import Reading
from receiver.payload import item_from_value
from receiver.providers.mailersend import TEST_SECRET, MailerSend, MailerSendSettings
from receiver.signers import hmacs as signer
from tests.provider_fixtures import fixtures, folder

PING: Final = {
    "type": "webhook.test",
    "message": "This is a ping test message",
    "created_at": "2026-03-27T07:24:20.577080Z",
}
PROVIDER: Final = folder("mailersend").provider()
OURS: Final = folder("mailersend").keys["signing_secret"]


async def post(body: bytes, secret: str, **settings: Any) -> Authentic:
    provider = folder("mailersend").provider(**settings) if settings else PROVIDER
    headers = {"signature": signer.hexadecimal(secret, body)}
    return await provider.authenticate(Delivery(source="m", headers=headers, body=body))


async def test_the_ping_is_answered() -> None:
    """the ping, signed with the published secret, is answered 200 and brings nothing to store"""
    found = await post(json.dumps(PING).encode(), TEST_SECRET)
    assert found.answer is not None
    assert found.answer.status == 200
    assert found.payload is None


@pytest.mark.parametrize(
    "body",
    [
        *(fixture.body for fixture in fixtures("mailersend")[:3]),
        b'{"type":"activity.delivered","message":"webhook.test"}',
        b'{"type":"webhook.test","type":"activity.delivered"}',
        b'{"type":["webhook.test"]}',
        b'["webhook.test"]',
        b'"webhook.test"',
        b"webhook.test",
        b'{"type":"webhook.test"' + b" " * 5000 + b"}",
    ],
)
async def test_the_published_secret_proves_the_ping_alone(body: bytes) -> None:
    """whatever else is signed with the secret that everybody knows is refused, also what only names the ping"""
    with pytest.raises(Refused) as caught:
        await post(body, TEST_SECRET)
    assert caught.value.reason is Reason.WRONG_KEY


async def test_the_ping_of_a_source_without_secrets() -> None:
    """a source without secrets does not answer the ping either: nothing would prove what comes after it"""
    with pytest.raises(Refused):
        await post(json.dumps(PING).encode(), TEST_SECRET, signing_secret=[])


def test_the_published_secret_is_none() -> None:
    """the published secret as one's own is a problem of the configuration"""
    settings = MailerSendSettings.model_validate({"provider": "mailersend", "signing_secret": TEST_SECRET})
    (problem,) = MailerSend.problems(settings, "sources.m")
    assert "sample" in problem.wrong


def _opened(word: str, activity: str) -> Reading:
    data = {"id": activity, "type": "opened", "message_id": "m1", "recipient": "one@customer.example", "meta": []}
    value = {"type": word, "created_at": "2026-11-20T11:59:00.000000Z", "data": data}
    (reading,) = PROVIDER.read(item_from_value(value))
    return reading


def test_the_first_open_is_one_event() -> None:
    """an open and the second event that MailerSend sends for a first open are one event, whatever their ids"""
    first, unique = _opened("activity.opened", "a1"), _opened("activity.opened_unique", "a2")
    assert first.identity == unique.identity
    assert first.identity != _opened("activity.survey_opened", "a1").identity
