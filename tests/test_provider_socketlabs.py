"""SocketLabs's traps: the secret lies in the body, must not be stored, and is echoed to `Validate`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receiver.contract import Delivery
from receiver.errors import Refused
from receiver.event import EventType
from tests.provider_fixtures import folder, read_delivery

KEY = "ForTestsOnly0NotASecret4"


def event(key: str | None = KEY, **fields: Any) -> dict[str, Any]:
    return {"Type": "Delivered", "DateTime": "2026-11-20T11:58:20Z", "ServerId": 1, "SecretKey": key, **fields}


def delivery(value: Any, query: str = "") -> Delivery:
    return Delivery(source="socketlabs", headers={}, body=json.dumps(value).encode(), query=query)


async def refused(value: Any, **settings: Any) -> None:
    with pytest.raises(Refused) as caught:
        await folder("socketlabs").provider(**settings).authenticate(delivery(value))
    assert KEY not in str(caught.value)


async def test_the_secret_is_not_stored() -> None:
    """neither the value nor the text of what is stored holds the secret, which would lie open in the database"""
    provider = folder("socketlabs").provider()
    found = await provider.authenticate(delivery([event(Address="a@x.example"), event(Data={"Tags": ["a"]})]))
    items = list(provider.parse(found.payload))
    assert len(items) == 2
    assert KEY not in repr([(item, getattr(item, "text", ""), getattr(item, "value", "")) for item in items])


async def test_an_array_is_taken_whole_or_not_at_all() -> None:
    """each event of an array must carry the secret: one without it is no event of SocketLabs's"""
    readings, _ = await read_delivery(
        folder("socketlabs").provider(), delivery([event(Address="a@x.example"), event(Type="Queued")])
    )
    assert [one.type for one in readings] == [EventType.DELIVERED, EventType.QUEUED]
    for value in ([event(), event("another key")], [event(), 7], [event(), event(None)], [], [[event()]], "x", None):
        await refused(value)


async def test_an_event_under_data_as_in_the_published_example() -> None:
    """an event that is the member `data` of the body counts, if the secret stands in it"""
    readings, _ = await read_delivery(folder("socketlabs").provider(), delivery({"data": event(Address="a@x.example")}))
    assert [one.recipient for one in readings] == ["a@x.example"]
    await refused({"data": event("another key")})
    await refused({"SecretKey": "another key", "data": event()})


async def test_an_array_of_a_stranger_is_bounded() -> None:
    """the secret stands in the body, so that what is not proven yet is looked through only so far"""
    readings, _ = await read_delivery(folder("socketlabs").provider(), delivery([event()] * 1000))
    assert len(readings) == 1000
    await refused([event()] * 1001)


@pytest.mark.parametrize(("settings", "answer"), [({}, KEY), ({"validation_key": "VK-4711"}, "VK-4711")])
async def test_validate_is_answered_with_the_key(settings: dict[str, Any], answer: str) -> None:
    """Validate gets the validation key, or the secret key where there is none, but only with the right secret"""
    found = await folder("socketlabs").provider(**settings).authenticate(delivery(event(Type="Validation")))
    assert found.answer is not None
    assert (found.answer.status, found.answer.body) == (200, answer.encode())
    await refused(event("another key", Type="Validation"), **settings)


async def test_servers_and_url_secret() -> None:
    """a source may take the events of its servers alone, and ask for a secret in the URL besides"""
    await folder("socketlabs").provider(server_id=[1, 2]).authenticate(delivery(event()))
    await refused(event(), server_id=[2])
    await refused(event(ServerId=None), server_id=[2])
    secret = "another-secret-in-the-url"
    provider = folder("socketlabs").provider(url_secret=secret)
    await provider.authenticate(delivery(event(), query=f"token={secret}"))
    await refused(event(), url_secret=secret)
