"""What is AhaSend's alone: the secret's text is the key. What holds for all is in `test_provider_contract.py`."""

from __future__ import annotations

import hmac
from base64 import b64encode
from datetime import UTC, datetime
from typing import Final

import pytest

from receiver.contract import Delivery, World
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.providers.ahasend import AhaSend, AhaSendSettings
from receiver.signers import standard_webhooks as signer
from tests.provider_fixtures import _no_fetch, read_delivery

SECRET: Final = "aha-whsec-7bQm2Zr9Lx4Tn6Vw1Ks8Hd3Gf5Jc0Yp"
STAMP: Final = 1795176000
BODY: Final = (
    b'{"type":"message.bounced","timestamp":"2026-11-20T12:00:00Z",'
    b'"data":{"recipient":"ada@customer.example","is_bot":""}}'
)


def ahasend(secret: str) -> AhaSend:
    settings = AhaSendSettings.model_validate({"provider": "ahasend", "signing_secret": secret})
    return AhaSend(settings, World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 5, UTC)))


async def test_the_key_is_the_secrets_text() -> None:
    """what anybody's HMAC makes with the secret's text as the key is authentic; an empty bot flag says nothing"""
    signed = hmac.digest(SECRET.encode(), b"msg_1.%d.%s" % (STAMP, BODY), "sha256")
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(STAMP),
        "webhook-signature": f"v1,{b64encode(signed).decode()}",
    }
    [reading], _ = await read_delivery(ahasend(SECRET), Delivery(source="ahasend", headers=headers, body=BODY))
    assert (reading.type, reading.recipient, reading.actor) == (EventType.BOUNCED, "ada@customer.example", None)


async def test_the_secret_is_not_decoded() -> None:
    """a secret that looks like `whsec_` with base64 is still the key as it stands: what it decodes to signs nothing"""
    secret = "whsec_" + b64encode(bytes(range(32))).decode()
    for raw in (True, False):
        headers = signer.signed_headers([secret], "msg_1", STAMP, BODY, raw=raw)
        delivery = Delivery(source="ahasend", headers=headers, body=BODY)
        if raw:
            await ahasend(secret).authenticate(delivery)
        else:
            with pytest.raises(Refused) as caught:
                await ahasend(secret).authenticate(delivery)
            assert caught.value.reason is Reason.WRONG_KEY
