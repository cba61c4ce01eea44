"""Mandrill's traps: the URL is signed, a key that everybody knows, and signed bodies that are no events."""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus, unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.contract import Authentic, Delivery, Post
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.forms import bytes_of, unescaped
from receiver.providers import providers
from receiver.signatures import any_hmac_sha1
from tests.provider_fixtures import folder, read_delivery
from tests.service import play, running

KEY: Final = "kH9xW2mQv7TzLr4NcYb81g"
URL: Final = "https://hook:a-password@hooks.example.com/webhooks/mandrill/?team=a%20b&x=1"
SEND: Final = [{"event": "send", "_id": "m1", "ts": 1795175970, "msg": {"email": "ada@customer.example"}}]


def sign(url: str, fields: Mapping[str, str], key: str = KEY) -> str:
    text = url + "".join(name + value for name, value in sorted(fields.items()))
    return b64encode(hmac.new(key.encode(), text.encode(), "sha1").digest()).decode()


def request(events: str, *, url: str = URL, key: str = KEY, **more: str) -> Delivery:
    fields = {"mandrill_events": events, **more}
    headers = {"x-mandrill-signature": sign(url, fields, key), "content-type": "application/x-www-form-urlencoded"}
    return Delivery(source="mandrill", headers=headers, body=urlencode(fields).encode())


async def authenticate(delivery: Delivery, url: str | None = URL) -> Authentic:
    return await folder("mandrill").provider(public_url=url).authenticate(delivery)


async def refusal(delivery: Delivery, url: str | None = URL) -> Refused:
    with pytest.raises(Refused) as caught:
        await authenticate(delivery, url)
    assert "a-password" not in caught.value.detail
    return caught.value


async def test_the_url_is_signed_to_the_letter() -> None:
    """the URL counts with user info, path, slash and query, exactly as it was entered"""
    delivery = request(json.dumps(SEND))
    readings, _ = await read_delivery(folder("mandrill").provider(public_url=URL), delivery)
    assert [reading.recipient for reading in readings] == ["ada@customer.example"]
    for other in (
        URL.replace("hook:a-password@", ""),
        URL.partition("?")[0],
        URL.replace("/?", "?"),
        URL.replace("https", "http"),
        URL.replace("%20", " "),
        URL.replace("hooks", "HOOKS"),
        URL + "&",
    ):
        assert (await refusal(delivery, other)).reason is Reason.WRONG_KEY
    assert (await refusal(request(json.dumps(SEND), url=""), None)).again  # not a URL of nothing, either


async def test_form_fields_are_signed_sorted_by_name() -> None:
    """whatever the order of the fields in the body, they are signed by name, and each of them"""
    events = json.dumps(SEND)
    delivery = request(events, zz="last", aa="first")
    assert (await authenticate(delivery)).payload == events.encode()
    less = Delivery(source="mandrill", headers=delivery.headers, body=urlencode({"mandrill_events": events}).encode())
    assert (await refusal(less)).reason is Reason.WRONG_KEY


async def test_one_signature_is_one_proof_however_it_is_written() -> None:
    """other escapes and other borders of the fields have the same proof, under which no second body is kept"""
    delivery = request(json.dumps(SEND), url=URL)
    name, _, value = delivery.body.partition(b"=")
    first = await authenticate(delivery)
    assert first.proof
    for body in (name + b"=" + value.replace(b"%5B", b"%5b"), name[:-1] + b"=s" + value, name + value + b"="):
        other = Delivery(source="mandrill", headers=delivery.headers, body=body)
        assert other.body != delivery.body
        assert (await authenticate(other)).proof == first.proof


async def test_the_well_known_key_is_for_an_empty_list_alone() -> None:
    """the key `test-webhook` brings an empty list, answered 200, and nothing else"""
    answer = (await authenticate(request("[]", key="test-webhook"))).answer
    assert answer is not None
    assert answer.status == 200
    assert (await authenticate(request("[]"))).answer is not None
    for events in (json.dumps(SEND), "null", "{}", "[[]]", "[{}]", "", "[] []", '["[]"]'):
        assert (await refusal(request(events, key="test-webhook"))).reason is Reason.WRONG_KEY
    assert (await refusal(request("[]", key="another"))).reason is Reason.WRONG_KEY
    assert (await refusal(request("[]", key="test-webhook", url=URL + "x"))).reason is Reason.WRONG_KEY


@pytest.mark.parametrize("url", [None, "", "hooks.example.com/webhooks/mandrill", "ftp://hooks.example.com/"])
def test_the_url_must_be_configured(url: str | None) -> None:
    """a source without the URL that is signed does not start, and the problem says which setting it is"""
    kind = providers()["mandrill"]
    settings = kind.Settings.model_validate({"provider": "mandrill", "webhook_key": KEY, "public_url": url})
    assert [problem.key for problem in kind.problems(settings, "sources.m")] == ["sources.m.public_url"]


def test_the_well_known_key_is_no_key_of_a_source() -> None:
    """whoever configures the key that everybody knows is told so"""
    kind = providers()["mandrill"]
    values = {"provider": "mandrill", "webhook_key": "test-webhook", "public_url": URL}
    (problem,) = kind.problems(kind.Settings.model_validate(values), "sources.m")
    assert "everybody knows" in problem.wrong


async def test_signed_bodies_that_are_no_events(database: str, tmp_path: Path) -> None:
    """what is signed and no event is answered 200 and set aside; an empty list leaves nothing; neighbours are stored"""
    mandrill = play("mandrill", tmp_path)
    key, url = mandrill.keys["webhook_key"], mandrill.keys["public_url"]

    async def post(events: Any, key: str = key) -> int:
        delivery = request(json.dumps(events), url=url, key=key)
        answer = await service.post("mandrill", Post(headers=delivery.headers, body=delivery.body))
        return answer.status_code

    async with running(database, mandrill) as service:
        assert (await service.client.head("/webhooks/mandrill")).status_code == 200
        assert [await post([], "test-webhook"), await post([])] == [200, 200]
        assert await service.count("quarantine") == await service.count("events") == 0
        assert [await post(body) for body in (None, 7, "text", ["a", "b"])] == [200] * 4
        assert await service.count("quarantine") == 3 + 1  # the strings of a list together: one signature, one body
        assert await post(["a", *SEND, None]) == 200
        assert [row["recipient"] for row in await service.events()] == ["ada@customer.example"]
        assert await post(SEND, "test-webhook") == 401


async def test_a_sync_event_without_the_key_event() -> None:
    """a change of the deny list has no `event`: its `type` is the word, and it concerns no message"""
    entry = {"type": "blacklist", "action": "add", "ts": 1795175970, "reject": {"email": "ada@customer.example"}}
    provider = folder("mandrill").provider(public_url=URL)
    readings, _ = await read_delivery(provider, request(json.dumps([entry, {**entry, "action": "remove"}])))
    assert [(one.type, one.word, one.recipient) for one in readings] == [
        (EventType.UNKNOWN, "blacklist", "ada@customer.example")
    ] * 2
    assert readings[0].identity != readings[1].identity


def test_hmac_sha1_against_rfc_2202() -> None:
    """test cases 1 and 2 of RFC 2202, and no other signature or key"""
    cases = [
        (b"\x0b" * 20, b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
        (b"Jefe", b"what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ]
    for key, signed, digest in cases:
        assert any_hmac_sha1([b"other", key], signed, bytes.fromhex(digest))
        assert not any_hmac_sha1([b"other"], signed, bytes.fromhex(digest))
        assert not any_hmac_sha1([key], signed + b"x", bytes.fromhex(digest))
        assert not any_hmac_sha1([key], signed, b"")


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=60)), max_size=4),
    st.sampled_from(["", "=/:\r\n\t"]),
)
def test_form_bytes_are_what_was_sent(fields: list[tuple[bytes, bytes]], safe: str) -> None:
    """every byte of names and values comes back, however much of it the sender escaped"""
    body = "&".join(f"{quote_plus(name)}={quote_plus(value, safe=safe)}" for name, value in fields)
    assert bytes_of(body.encode()) == fields


@given(st.text("%+=\n\r\t 4fFgz\u00e4", max_size=30))
def test_escapes_that_are_none(value: str) -> None:
    """what is escaped rightly is as the standard library has it; a percent sign that begins no escape is an error"""
    if re.search("%(?![0-9a-fA-F]{2})", value):
        with pytest.raises(ValueError, match="percent"):
            unescaped(value.encode())
    else:
        assert unescaped(value.encode()) == unquote_to_bytes(value.replace("+", " "))
