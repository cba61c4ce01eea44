"""Mailtrap: the signature its clients publish. What holds for every provider is in `test_provider_contract.py`."""

from __future__ import annotations

from typing import Final

import pytest

from receiver.contract import Delivery
from receiver.errors import Refused
from receiver.providers.mailtrap import Mailtrap
from tests.provider_fixtures import folder, readings_of

SECRET: Final = "8d9a3c0e7f5b2d4a6c1e9f8b3a7d5c2e"
SIGNATURE: Final = "6d262e2611cd09be1f948382b5c611d63b0e585c4c9c5e40139d6ac3876d5433"
BODY: Final = (
    b'{"event":"delivery","sending_stream":"transactional","category":"welcome",'
    b'"message_id":"a8b1d8f6-1f8d-4a3c-9b2e-1a2b3c4d5e6f","email":"recipient@example.com",'
    b'"event_id":"f1e2d3c4-b5a6-7890-1234-567890abcdef","timestamp":1716070000}'
)


async def test_the_published_signature() -> None:
    """the payload, secret and signature that all official clients test are accepted, and a changed byte is not"""
    provider = folder("mailtrap").provider(signing_secret=SECRET)
    headers = {"mailtrap-signature": SIGNATURE}
    found = await provider.authenticate(Delivery(source="m", headers=headers, body=BODY))
    ((reading,), unreadable) = readings_of(provider, found)
    assert (reading.word, reading.recipient, unreadable) == ("delivery", "recipient@example.com", 0)
    with pytest.raises(Refused):
        await provider.authenticate(Delivery(source="m", headers=headers, body=BODY.replace(b"welcome", b"Welcome")))


def test_only_200_is_kept() -> None:
    """every code but 200 is one that Mailtrap repeats after, the other 2xx too"""
    assert [code for code in range(200, 600) if not Mailtrap.reply.repeated(code)] == [200]
