"""Unisender Go: what its MD5 proves and what not. The rest is in `test_provider_contract.py`."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from receiver.contract import Authentic, Delivery
from receiver.errors import Reason, Refused
from receiver.providers.unisender_go import UnisenderGo, UnisenderGoSettings
from receiver.signers import in_body
from tests.provider_fixtures import folder, readings_of

KEY: Final = folder("unisender_go").keys["api_key"]


async def post(body: bytes, **settings: Any) -> Authentic:
    provider = folder("unisender_go").provider(**settings)
    return await provider.authenticate(Delivery(source="u", headers={}, body=body))


def event(number: int) -> dict[str, Any]:
    data = {"email": f"person{number}@customer.example", "status": "delivered", "event_time": "2026-11-20 11:59:00"}
    return {"event_name": "transactional_email_status", "event_data": data}


def signed(*parts: str) -> bytes:
    body = '{"auth":"","events_by_user":[{"user_id":1,"events":[' + ",".join(parts) + "]}]}"
    return in_body.unisender_go(KEY, body.encode())


@pytest.mark.parametrize("added", [b"\x80" + b"\0" * 30 + b'{"events_by_user":[]}', b"\0"])
async def test_bytes_added_behind_an_authentic_body(added: bytes) -> None:
    """a body that fits its MD5 but holds the padding without which nobody can extend an MD5 is refused"""
    plain = b'{"auth":"","events_by_user":[]}'
    await post(in_body.unisender_go(KEY, plain))
    with pytest.raises(Refused) as caught:
        await post(in_body.unisender_go(KEY, plain + added))
    assert caught.value.reason is Reason.BODY_CHANGED


async def test_the_bytes_count_and_not_what_they_say() -> None:
    """the same JSON with another order of keys or other escapes has another MD5"""
    body = signed(json.dumps(event(1)))
    await post(body)
    for other in (body.replace(b'"user_id":1', b'"user_id": 1'), body.replace(b"@", b"\\u0040")):
        with pytest.raises(Refused) as caught:
            await post(other)
        assert caught.value.reason is Reason.WRONG_KEY


async def test_a_broken_event_leaves_its_neighbours() -> None:
    """one event whose text is broken is set aside, and the events before and after it are read"""
    provider = folder("unisender_go").provider()
    found = await post(signed(json.dumps(event(1)), '{"event_name":,}', json.dumps(event(2))))
    readings, unreadable = readings_of(provider, found)
    assert [reading.recipient for reading in readings] == ["person1@customer.example", "person2@customer.example"]
    assert unreadable == 1


async def test_a_password_on_top() -> None:
    """a source that sets a password wants it beside a right MD5"""
    with pytest.raises(Refused) as caught:
        await post(signed(), password="a-password-of-twenty")
    assert caught.value.reason is Reason.MISSING_CREDENTIALS


def test_a_source_with_a_password_alone() -> None:
    """a password does not stand for the API key"""
    settings = UnisenderGoSettings.model_validate({"provider": "unisender_go", "password": "a-password-of-twenty"})
    assert [problem.key for problem in UnisenderGo.problems(settings, "sources.u")] == ["sources.u.api_key"]
