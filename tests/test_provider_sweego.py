"""What is Sweego's alone: a signature without a version. What holds for all is in `test_provider_contract.py`."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Final

import pytest

from receiver.contract import Delivery, World
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.providers.standard_webhooks import StandardWebhooks, StandardWebhooksSettings
from receiver.providers.sweego import Sweego, SweegoSettings
from tests.provider_fixtures import _no_fetch, read_delivery

SECRET: Final = b64encode(b"a secret of Sweego's for this test").decode()
STAMP: Final = 1795176000
BODY: Final = b'{"event_type": "delivered", "event_id": "e-1", "recipient": "ada@customer.example"}\n'
HEADERS: Final = {
    "webhook-id": "e-1",
    "webhook-timestamp": str(STAMP),
    # by the standard library alone: id, time and body under the decoded secret, as base64 without a version
    "webhook-signature": b64encode(hmac.digest(b64decode(SECRET), b"e-1.%d.%s" % (STAMP, BODY), "sha256")).decode(),
}
WORLD: Final = World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 3600, UTC))


async def test_a_bare_signature_is_accepted() -> None:
    """base64 without a version is authentic, an hour later too, and covers the last line break"""
    sweego = Sweego(SweegoSettings.model_validate({"provider": "sweego", "signing_secret": SECRET}), WORLD)
    [reading], _ = await read_delivery(sweego, Delivery(source="sweego", headers=HEADERS, body=BODY))
    assert (reading.type, reading.recipient) == (EventType.DELIVERED, "ada@customer.example")
    assert reading.provider_event_id == HEADERS["webhook-id"]
    with pytest.raises(Refused):
        await sweego.authenticate(Delivery(source="sweego", headers=HEADERS, body=BODY.rstrip()))


async def test_only_sweego_writes_it_bare() -> None:
    """the same request is no Standard Webhooks one, whose signatures have a version before them"""
    settings = {"provider": "standard_webhooks", "secret": SECRET, "tolerance": 7200}
    generic = StandardWebhooks(StandardWebhooksSettings.model_validate(settings), WORLD)
    with pytest.raises(Refused) as caught:
        await generic.authenticate(Delivery(source="generic", headers=HEADERS, body=BODY))
    assert caught.value.reason is Reason.WRONG_KEY
