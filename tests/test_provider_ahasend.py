"""What is AhaSend's alone: the secret's text is the key. What holds for all is in `test_provider_contract.py`."""

from __future__ import annotations

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

# The request recorded in Symfony's bridge to AhaSend (Mailer/Bridge/AhaSend/Tests/Webhook), seen 2026-11.
SECRET: Final = "nxLe:L:fZLb7J_Wb3uFeWX/&z4Ed#9&DxPL%Ud&:jhpAW1gLaR%AEFwfKnwp60cC"
STAMP: Final = 1730057863
HEADERS: Final = {
    "webhook-id": "ijDIIJKmF2EmV9oZ7B9t5Uwx9rEB0coJAGeVxhJgyU0UBIWeXcyzMgW6KfG3Iwel",
    "webhook-timestamp": str(STAMP),
    "webhook-signature": "v1,eY+xFpew7iX16FK8dPLWepQ9XVpSmzLBlUx7fqLBStw=",
}
BODY: Final = (
    b'{"type":"message.bounced","timestamp":"2024-10-27T19:35:58.267106256Z","data":{"account_id":'
    b'"4cdd7bdd-294e-4762-892f-83d40abf5a87","event":"on_bounced","from":"info@example.com","recipient":'
    b'"someone@example.com","subject":"Sample email for testing webhooks","message_id_header":"message-id-header",'
    b'"user_agent":"","is_bot":"","id":"ahasend-message-id"}}'
)


def ahasend(secret: str) -> AhaSend:
    settings = AhaSendSettings.model_validate({"provider": "ahasend", "signing_secret": secret})
    return AhaSend(settings, World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 5, UTC)))


async def test_the_published_request_is_accepted() -> None:
    """the request that AhaSend's integration publishes is authentic, and its bot flag, an empty text, says nothing"""
    [reading], _ = await read_delivery(ahasend(SECRET), Delivery(source="ahasend", headers=HEADERS, body=BODY))
    assert (reading.type, reading.recipient, reading.actor) == (EventType.BOUNCED, "someone@example.com", None)


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
