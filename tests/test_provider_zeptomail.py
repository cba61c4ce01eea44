"""ZeptoMail's traps: JSON or form, percent-encoded signature, a time that is not signed, and `Verify`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest

from receiver.contract import Delivery
from receiver.errors import Refused
from receiver.event import EventType
from receiver.signers import hmacs
from tests.provider_fixtures import folder, read_delivery

KEY = "for-tests-only-not-a-secret-4711"
EVENT = {
    "event_name": ["delivered"],
    "event_message": [
        {
            "email_info": {"subject": "100 % für = & + alice", "to": [{"email_address": {"address": "a@x.example"}}]},
            "event_data": [{"details": [{"time": "2026-11-20T11:58:20Z"}], "object": "delivered"}],
            "request_id": "2d6f.1",
        }
    ],
}
JSON = json.dumps(EVENT, ensure_ascii=False).encode()
CREDENTIALS: dict[str, Any] = {
    "authentication_key": [],
    "header_name": "X-Webhook-Key",
    "header_value": "a header of the newer console",
}


def signed(content: bytes, *, ts: int = 1795175902000) -> str:
    return f"ts={ts};s={quote(hmacs.base64(KEY, content), safe='')};s-algorithm=HmacSHA256"


def delivery(body: bytes, **headers: str) -> Delivery:
    return Delivery(source="zeptomail", headers={name.replace("_", "-"): v for name, v in headers.items()}, body=body)


@pytest.mark.parametrize(
    "body",
    [
        JSON,
        b"data=" + quote_plus(JSON).encode(),
        b"data=" + quote(JSON, safe="").encode(),
        b"payload=" + quote_plus(JSON).encode(),
    ],
    ids=["json", "form, plus for blanks", "form, all percent-encoded", "form, another name"],
)
async def test_json_and_forms(body: bytes) -> None:
    """the signature over the JSON holds for a body of JSON and for a form, whatever its only field is called"""
    readings, _ = await read_delivery(folder("zeptomail").provider(), delivery(body, producer_signature=signed(JSON)))
    assert [(one.type, one.recipient, one.subject) for one in readings] == [
        (EventType.DELIVERED, "a@x.example", "100 % für = & + alice")
    ]


async def test_the_header_may_be_encoded_or_not() -> None:
    """the published validator decodes the whole header once, so the signature may stand there either way"""
    plain = unquote(signed(JSON))
    for value in (plain, plain.replace(";", "; "), quote(plain, safe="")):
        await folder("zeptomail").provider().authenticate(delivery(JSON, producer_signature=value))


async def test_the_time_is_not_signed() -> None:
    """the time beside the signature proves nothing: a request with another one is the same request"""
    provider = folder("zeptomail").provider()
    for ts in (0, 4102444800000):
        await provider.authenticate(delivery(JSON, producer_signature=signed(JSON, ts=ts)))
    with pytest.raises(Refused):
        await provider.authenticate(delivery(JSON, producer_signature=signed(b"1795175902000" + JSON)))


async def test_verify() -> None:
    """the console's empty request gets 200 once its proof is right, and never before"""
    provider = folder("zeptomail").provider(**CREDENTIALS)
    found = await provider.authenticate(delivery(b"", x_webhook_key="a header of the newer console"))
    assert found.answer is not None
    assert found.answer.status == 200
    with pytest.raises(Refused):
        await provider.authenticate(delivery(b"", x_webhook_key="another"))
    with pytest.raises(Refused):
        await folder("zeptomail").provider().authenticate(delivery(b""))
