"""What is Event Grid's own: a handshake after the proof, a secret in the query, and refusals that would lose events."""

from __future__ import annotations

import json
from typing import Final

import pytest

from receiver.contract import Delivery
from receiver.errors import Refused
from receiver.providers import providers
from tests.provider_fixtures import Fixture, fixtures, folder, read_delivery

RIGHT: Final = folder("azure").query
WRONG: Final = [
    "",
    "token=",
    "token=another-secret-of-the-url",
    f"code={RIGHT.partition('=')[2]}",
    RIGHT + "x",
    "token",
]


def _fixture(name: str) -> Fixture:
    return next(fixture for fixture in fixtures("azure") if fixture.name == name)


@pytest.mark.parametrize("name", ["handshake", "Delivered__published_sample"])
@pytest.mark.parametrize("query", WRONG)
async def test_the_secret_in_the_query(name: str, query: str) -> None:
    """without the right secret in the query there is neither a handshake nor an event, and Event Grid comes again"""
    with pytest.raises(Refused) as caught:
        await folder("azure").provider().authenticate(_fixture(name).delivery(query=query))
    assert caught.value.again


async def test_the_secret_among_other_parameters() -> None:
    """other parameters of the query do no harm"""
    await folder("azure").provider().authenticate(_fixture("view").delivery(query=f"api-version=2&{RIGHT}"))


async def test_handshake() -> None:
    """a proven validation event is answered with its code as JSON, and nothing is stored"""
    found = await folder("azure").provider().authenticate(_fixture("handshake").delivery())
    assert found.answer is not None
    assert found.answer.status == 200
    assert found.answer.content_type == "application/json"
    assert json.loads(found.answer.body) == {"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}


async def test_no_handshake_swallows_an_event() -> None:
    """a validation event in a batch, or without a code, is an event like others: all are stored"""
    handshake = json.loads(_fixture("handshake").body)[0]
    event = json.loads(_fixture("click").body)[0]
    for items in ([event, handshake], [handshake, event], [handshake | {"data": {}}]):
        delivery = _fixture("handshake").delivery(body=json.dumps(items).encode())
        assert await _stored(delivery) == len(items)


async def _stored(delivery: Delivery) -> int:
    provider = folder("azure").provider()
    found = await provider.authenticate(delivery)
    assert found.answer is None
    readings, _ = await read_delivery(provider, delivery)
    return len(readings)


def test_nothing_is_answered_that_would_lose_an_event() -> None:
    """no code of ours is one after which Event Grid drops what it could deliver later"""
    reply = providers()["azure"].reply
    codes = {reply.refused, reply.again, reply.slow, reply.too_large, reply.bad_encoding}
    assert codes.isdisjoint({400, 401, 403, 413})
    assert not any(reply.repeated(code) for code in (200, 201, 202, 203, 204, 400, 401, 403, 413))
    assert all(reply.repeated(code) for code in (205, 301, 404, 408, 429, 500, 503))


@pytest.mark.parametrize("name", ["Delivered__cloudevents", "Delivered__cloudevents_batch"])
async def test_both_schemas_tell_one_event(name: str) -> None:
    """the same event in Event Grid's schema and as CloudEvents is one event, with one identity"""
    fixture, provider = _fixture(name), folder("azure").provider()
    given = json.loads(fixture.body)
    items = [
        {**{key: value for key, value in item.items() if key not in {"type", "time", "source", "specversion"}}}
        | {"eventType": item["type"], "eventTime": item["time"], "topic": item["source"]}
        for item in (given if isinstance(given, list) else [given])
    ]
    cloud, _ = await read_delivery(provider, fixture.delivery())
    grid, _ = await read_delivery(provider, fixture.delivery(body=json.dumps(items).encode()))
    assert [reading.identity for reading in cloud] == [reading.identity for reading in grid]
