"""What is Sweego's alone: a signature without a version. What holds for all is in `test_provider_contract.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pytest

from receiver.contract import Delivery, World
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.providers.standard_webhooks import StandardWebhooks, StandardWebhooksSettings
from receiver.providers.sweego import Sweego, SweegoSettings
from tests.provider_fixtures import _no_fetch, read_delivery

# The request recorded in Symfony's bridge to Sweego (Mailer/Bridge/Sweego/Tests/Webhook), seen 2026-11.
SECRET: Final = "GvLY88Uyj70jQm3fUwYyWmAaiz98wWim"
STAMP: Final = 1723737959
HEADERS: Final = {
    "webhook-id": "9f26b9d0-13d7-410c-ba04-5019cd30e6d0",
    "webhook-timestamp": str(STAMP),
    "webhook-signature": "E1RfmN81xnbXMqDZUD0eJjPQEWmf24ft//gtV29bp18=",
}
BODY: Final = b"""{
    "event_type": "delivered",
    "timestamp": "2024-08-15T16:05:59+00:00",
    "swg_uid": "02-0d4affd0-1183-43b1-a980-ab30b3374dd3",
    "event_id": "9f26b9d0-13d7-410c-ba04-5019cd30e6d0",
    "channel": "email",
    "headers": {
        "x-campaign-type": "default",
        "x-swg-uid": "01-f14sqdf65-fgh9b6-4160-bc45-fliolioa277ca9",
        "x-mailer": "Sweego",
        "x-campaign-id": "default",
        "x-client-id": "0c8cc711c85e4595953862",
        "x-originating-ip": "XXX.XXX.XXX.XX",
        "x-email-id": "23",
        "x-transaction-id": "d4fbec9d-eed9-44d5-af47-c1126467a5ca"
    },
    "campaign_tags": null,
    "campaign_type": "transac",
    "campaign_id": "transac",
    "recipient": "recipient@example.com",
    "domain_from": "example.org"
}
"""
WORLD: Final = World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 3600, UTC))


async def test_the_published_request_is_accepted() -> None:
    """the request that Sweego's integration publishes is authentic, an hour later too, to the last line break"""
    sweego = Sweego(SweegoSettings.model_validate({"provider": "sweego", "signing_secret": SECRET}), WORLD)
    [reading], _ = await read_delivery(sweego, Delivery(source="sweego", headers=HEADERS, body=BODY))
    assert (reading.type, reading.recipient) == (EventType.DELIVERED, "recipient@example.com")
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
