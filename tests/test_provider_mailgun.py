"""Mailgun's traps: a signature that covers no event, two body formats, fields in odd places."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from receiver.contract import Authentic, Item, UnreadableItem
from receiver.errors import Reason, Refused, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason, event_id
from receiver.signers import in_body
from receiver.signers.credentials import basic
from tests.provider_fixtures import Fixture, fixtures, folder, read_delivery

KEY = "0c6d7e8f90a1b2c3d4e5f60718293a4b"
NOW = folder("mailgun").now
AT = int(NOW.timestamp())
EVENT = {"event": "opened", "id": "e1", "timestamp": AT - 5.25, "recipient": "alice@customer.example"}
JSON = {"content-type": "application/json"}


def delivery(body: bytes, headers: dict[str, str] | None = None, later: timedelta = timedelta()) -> Any:
    fixture = Fixture(folder=folder("mailgun"), name="x", headers=headers or JSON, body=body, expected={})
    return fixture.delivery(later=later)


def signed(event: Any = EVENT, *, at: int = AT, token: str | None = None, **more: Any) -> bytes:
    return json.dumps({"signature": in_body.mailgun(KEY, at, token), "event-data": event, **more}).encode()


async def read(body: bytes, headers: dict[str, str] | None = None, **settings: Any) -> Reading:
    readings, unreadable = await read_delivery(folder("mailgun").provider(**settings), delivery(body, headers))
    assert (len(readings), unreadable) == (1, 0)
    return readings[0]


async def refusal(body: bytes, headers: dict[str, str] | None = None, **settings: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await folder("mailgun").provider(**settings).authenticate(delivery(body, headers))
    return caught.value


def id_of(reading: Reading) -> bytes:
    assert reading.identity is not None
    return event_id("mg", reading.identity, reading.identity_time or reading.occurred_at)


def test_signer_against_the_standard_library() -> None:
    """the simulator's signature is HMAC-SHA256 over timestamp and token, as hexadecimal text"""
    block = in_body.mailgun("key-of-the-test", 1529006854, "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0")
    signed_text = b"1529006854a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"
    assert block["signature"] == hmac.new(b"key-of-the-test", signed_text, "sha256").hexdigest()
    assert len(in_body.mailgun("key", 1)["token"]) == 50


async def test_one_token_brings_one_event() -> None:
    """a leaked signature with another event, type, person and time beside it is the event it was leaked with"""
    token = "a" * 50
    genuine = await read(signed(token=token))
    other = EVENT | {"event": "complained", "id": "e2", "timestamp": 1.5, "recipient": "victim@customer.example"}
    forged = await read(signed(other, token=token))
    assert forged.type is EventType.COMPLAINED
    assert id_of(forged) == id_of(genuine)


async def test_another_token_is_another_event() -> None:
    """two events with the same content but tokens of their own are two"""
    assert id_of(await read(signed())) != id_of(await read(signed()))


@pytest.mark.parametrize("shift", [1, -1, 3])
async def test_the_border_between_timestamp_and_token_can_be_moved(shift: int) -> None:
    """a signature whose border between timestamp and token was moved gives neither a fresh time nor another id"""
    token = "12" * 25
    block = in_body.mailgun(KEY, AT, token)
    joined = f"{AT}{token}"
    moved = {"timestamp": joined[: 10 + shift], "token": joined[10 + shift :], "signature": block["signature"]}
    error = await refusal(json.dumps({"signature": moved, "event-data": EVENT}).encode())
    assert error.authentic
    assert error.reason in {Reason.STALE, Reason.FUTURE}


async def test_moved_border_with_any_tolerance_is_the_same_event() -> None:
    """even where every age is allowed, a moved border gives the same id"""
    token = "12" * 25
    block = in_body.mailgun(KEY, AT, token)
    joined = f"{AT}{token}"
    moved = {"timestamp": joined[:9], "token": joined[9:], "signature": block["signature"]}
    body = json.dumps({"signature": moved, "event-data": EVENT}).encode()
    assert id_of(await read(body, tolerance=1e12)) == id_of(await read(signed(token=token)))


@pytest.mark.parametrize("timestamp", ["", "soon", "1e9", "-5", " 1795176000", "\uff11\uff17\uff19\uff15", "9" * 400])
async def test_signed_time_that_is_no_number(timestamp: str) -> None:
    """a validly signed time that is no number is authentic and not fresh: kept aside, never a crash"""
    signature = hmac.new(KEY.encode(), f"{timestamp}tok".encode(), "sha256").hexdigest()
    block = {"timestamp": timestamp, "token": "tok", "signature": signature}
    error = await refusal(json.dumps({"signature": block, "event-data": EVENT}).encode())
    assert (error.reason, error.authentic) == (Reason.STALE, True)


async def test_timestamp_as_a_number() -> None:
    """a timestamp that is written as a JSON number counts as its digits"""
    block: dict[str, Any] = dict(in_body.mailgun(KEY, AT))
    block["timestamp"] = AT
    assert (await read(json.dumps({"signature": block, "event-data": EVENT}).encode())).type is EventType.OPENED


UNSIGNED: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"{" * 9999,
    b"[" * 100_000,
    b'{"signature":null}',
    b'{"signature":[]}',
    b'{"signature":{}}',
    b'{"signature":' * 9999,
    b'{"signature":{"signature":"a"}',
    b'{"signature":{"timestamp":[],"token":{},"signature":7},"event-data":{}}',
    b'{"signature":{"timestamp":"\\ud800","token":"\\x","signature":"zz"}}',
]


@pytest.mark.parametrize("body", UNSIGNED, ids=lambda body: repr(body[:30]))
async def test_no_signature_at_all(body: bytes) -> None:
    """whatever carries no signature is refused, in JSON and in both kinds of form"""
    for content_type in (
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
    ):
        assert not (await refusal(body, {"content-type": content_type})).authentic


async def test_retry_after_eight_hours() -> None:
    """a retry comes with its first timestamp, eight hours later, and is the same event"""
    body = signed()
    later = timedelta(hours=8, minutes=10)
    provider = folder("mailgun").provider(later=later)
    readings, _ = await read_delivery(provider, delivery(body, later=later))
    assert id_of(readings[0]) == id_of(await read(body))


async def test_signature_does_not_reach_what_is_stored() -> None:
    """what is stored of an event holds neither token nor signature"""
    for fixture in fixtures("mailgun"):
        provider = fixture.folder.provider()
        found = await provider.authenticate(fixture.delivery())
        for item in provider.parse(found.payload):
            assert isinstance(item, Item)
            body = fixture.body.decode()
            if "form" not in fixture.name and "multipart" not in fixture.name:
                signature = json.loads(body.removeprefix("\ufeff"))["signature"]
                assert signature["token"] not in item.text
                assert signature["signature"] not in item.text
            else:
                assert not {"token", "signature"} & set(item.value) or item.value["token"] == "my own"


async def test_raw_is_the_providers_own_text() -> None:
    """the stored text is event-data byte for byte, blanks and escapes included"""
    block = json.dumps(in_body.mailgun(KEY, AT))
    event = '{ "event":"opened",\n "recipient":"a@customer.example", "x": "\\u00e9\\/", "timestamp": 1795175990.10 }'
    provider = folder("mailgun").provider()
    found = await provider.authenticate(delivery(f'{{"event-data": {event} , "signature": {block}}}'.encode()))
    (item,) = provider.parse(found.payload)
    assert isinstance(item, Item)
    assert (item.text, item.altered) == (event, False)


async def test_parent_signature_of_a_subaccount() -> None:
    """a subaccount's event is proven by the parent's signature too, and a wrong one beside a right one does no harm"""
    token = "b" * 50
    own = in_body.mailgun("the subaccount's own key", AT, token)
    parent = in_body.mailgun(KEY, AT, token)["signature"]
    block = own | {"parent-signature": parent}
    assert (await read(json.dumps({"signature": block, "event-data": EVENT}).encode())).type is EventType.OPENED
    block = in_body.mailgun(KEY, AT, token) | {"parent-signature": "no hexadecimal"}
    assert (await read(json.dumps({"signature": block, "event-data": EVENT}).encode())).type is EventType.OPENED
    block = own | {"parent-signature": own["signature"]}
    assert (await refusal(json.dumps({"signature": block, "event-data": EVENT}).encode())).reason is Reason.WRONG_KEY


async def test_basic_credentials_on_top() -> None:
    """with passwords configured the signature alone is not enough; each live password is"""
    live: dict[str, Any] = {"username": "mg", "password": ["first password 123", "second password 12"]}
    assert (await refusal(signed(), **live)).reason is Reason.MISSING_CREDENTIALS
    wrong = JSON | {"authorization": basic("mg", "third password 12")}
    assert (await refusal(signed(), wrong, **live)).reason is Reason.WRONG_CREDENTIALS
    other_user = JSON | {"authorization": basic("gm", "first password 123")}
    assert (await refusal(signed(), other_user, **live)).reason is Reason.WRONG_CREDENTIALS
    for password in ("first password 123", "second password 12"):
        await read(signed(), JSON | {"authorization": basic("mg", password)}, **live)
    unsigned = json.dumps({"event-data": EVENT}).encode()
    await refusal(unsigned, JSON | {"authorization": basic("mg", "first password 123")}, **live)


async def test_event_that_is_json_only_in_part() -> None:
    """a signed event that holds NaN is repaired, one that is 100,000 levels deep is set aside, neither is refused"""
    block = json.dumps(in_body.mailgun(KEY, AT)).encode()
    provider = folder("mailgun").provider()

    async def items(event: bytes) -> list[Item | UnreadableItem]:
        body = b'{"signature":' + block + b',"event-data":' + event + b"}"
        found = await provider.authenticate(delivery(body))
        return list(provider.parse(found.payload))

    (nan,) = await items(b'{"event":"opened","recipient":"a,b}@customer.example","timestamp":NaN}')
    assert isinstance(nan, Item)
    assert nan.altered
    assert provider.read(nan)[0].recipient == "a,b}@customer.example"
    assert isinstance((await items(b"[" * 100_000 + b"]" * 100_000))[0], UnreadableItem)
    assert isinstance((await items(b'{"event":"opened",}'))[0], UnreadableItem)
    assert isinstance((await items(b'{"a":1e999,"b":' + b"9" * 5000 + b',"c":"\\ud800\\u0000"}'))[0], Item)


@pytest.mark.parametrize("event", [None, [], "opened", 7, True])
async def test_event_that_is_no_object(event: Any) -> None:
    """an authentic event that is no object is unreadable, not refused"""
    provider = folder("mailgun").provider()
    found: Authentic = await provider.authenticate(delivery(signed(event)))
    (item,) = provider.parse(found.payload)
    assert isinstance(item, Item)
    with pytest.raises(Unreadable):
        provider.read(item)


async def test_no_event_at_all() -> None:
    """an authentic body without event-data is unreadable"""
    body = json.dumps({"signature": in_body.mailgun(KEY, AT)}).encode()
    provider = folder("mailgun").provider()
    found = await provider.authenticate(delivery(body))
    with pytest.raises(Unreadable):
        provider.parse(found.payload)


@pytest.mark.parametrize(
    ("severity", "reason", "code", "type_", "verdict", "reject_reason"),
    [
        ("temporary", "generic", 451, EventType.DEFERRED, None, None),
        ("temporary", "suppress-bounce", 605, EventType.DEFERRED, None, None),
        ("permanent", "bounce", 550, EventType.BOUNCED, BounceCategory.HARD, None),
        ("permanent", "generic", 550, EventType.BOUNCED, BounceCategory.UNDETERMINED, None),
        ("permanent", "old", 602, EventType.BOUNCED, BounceCategory.SOFT, None),
        ("permanent", "espblock", 550, EventType.BOUNCED, BounceCategory.BLOCK, None),
        ("permanent", "suppress-bounce", 605, EventType.REJECTED, None, RejectReason.BOUNCED),
        ("permanent", "suppress-unsubscribe", None, EventType.REJECTED, None, RejectReason.UNSUBSCRIBED),
        ("permanent", "suppress-complaint", 550, EventType.REJECTED, None, RejectReason.COMPLAINED),
        ("permanent", "generic", "607", EventType.REJECTED, None, RejectReason.COMPLAINED),
        ("permanent", None, 625, EventType.REJECTED, None, RejectReason.POLICY),
        (None, None, None, EventType.BOUNCED, BounceCategory.UNDETERMINED, None),
    ],
)
async def test_failures(severity: Any, reason: Any, code: Any, type_: Any, verdict: Any, reject_reason: Any) -> None:
    """a failure is deferred, bounced or rejected by its severity, reason and Mailgun's own codes"""
    event = EVENT | {"event": "failed", "severity": severity, "reason": reason, "delivery-status": {"code": code}}
    reading = await read(signed(event))
    assert (reading.type, reading.verdict, reading.reject_reason) == (type_, verdict, reject_reason)


@pytest.mark.parametrize(
    ("bot", "actor"), [("apple", Actor.MACHINE), ("gmail", Actor.MACHINE), ("generic", Actor.MACHINE)]
)
async def test_bots(bot: str, actor: Actor) -> None:
    """Mailgun's own word for a machine is taken over, on opens and clicks"""
    for event in ("opened", "clicked"):
        reading = await read(signed(EVENT | {"event": event, "client-info": {"bot": bot}}))
        assert reading.actor is actor
    assert (await read(signed(EVENT | {"client-info": {"bot": ""}}))).actor is None


async def test_form_fields_named_like_mailguns() -> None:
    """in a form the signature is the last of its name and the event the first, so that variables harm neither"""
    block = list(in_body.mailgun(KEY, AT).items())
    fields = [("event", "opened"), ("recipient", "alice@customer.example"), ("event", "x"), ("token", "mine"), *block]
    form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    reading = await read(urlencode(fields).encode(), form)
    assert (reading.type, reading.recipient) == (EventType.OPENED, "alice@customer.example")
    swapped = [*block, ("event", "opened"), ("token", "mine")]
    assert (await refusal(urlencode(swapped).encode(), form)).reason is Reason.WRONG_KEY


async def test_forms_have_bounds() -> None:
    """a form with far too many fields or parts is refused before it is taken apart"""
    block = list(in_body.mailgun(KEY, AT).items())
    many = urlencode([(f"v{n}", "x") for n in range(5000)] + block).encode()
    await refusal(many, {"content-type": "application/x-www-form-urlencoded"})
    part = b'--b\r\nContent-Disposition: form-data; name="v"\r\n\r\nx\r\n'
    proof = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value.encode())
        for name, value in block
    )
    form = {"content-type": 'multipart/form-data; boundary="b"'}
    assert (await read(part * 100 + proof + b"--b--\r\n", form)).type is EventType.UNKNOWN
    await refusal(part * 5000 + proof + b"--b--\r\n", form)
    await refusal(b"--b\r\n" + b"X: y\r\n" * 9999 + b"\r\n\r\nx" + proof, form)
    await refusal(proof, {"content-type": "multipart/form-data"})


async def test_form_text_that_postgres_cannot_hold() -> None:
    """a form's NUL characters and bytes that are no UTF-8 are replaced, and the item says so"""
    fields = urlencode(
        [("event", "opened"), ("recipient", "a\x00b@customer.example"), *in_body.mailgun(KEY, AT).items()]
    )
    provider = folder("mailgun").provider()
    form = {"content-type": "application/x-www-form-urlencoded"}
    found = await provider.authenticate(delivery(fields.encode() + b"&bad=%ff", form))
    (item,) = provider.parse(found.payload)
    assert isinstance(item, Item)
    assert item.altered
    assert "\x00" not in item.text
    assert "\\u0000" not in item.text


async def test_form_headers_that_postgres_cannot_hold() -> None:
    """JSON inside a form's field is cleaned like any other, and what is no JSON is left alone"""
    form = {"content-type": "application/x-www-form-urlencoded"}
    for headers, subject in (('[["Subject","a\\u0000b"],[1],"x"]', "a\ufffdb"), ("[" * 9999, None), ("{}", None)):
        fields = [("event", "opened"), ("message-headers", headers), *in_body.mailgun(KEY, AT).items()]
        assert (await read(urlencode(fields).encode(), form)).subject == subject


async def test_without_a_token() -> None:
    """an event read from the database, where no token is, is identified by its id, word, recipient and time"""
    provider = folder("mailgun").provider()
    item = Item(value=EVENT, text=json.dumps(EVENT))
    (reading,) = provider.read(item)
    assert reading.identity == ("e1", "opened", "alice@customer.example", str(AT - 5.25))
    assert reading.occurred_at == datetime.fromtimestamp(AT - 5.25, UTC)
    (timeless,) = provider.read(Item(value={"event": "opened"}, text="{}"))
    assert timeless.identity is None


@pytest.mark.parametrize(
    ("key", "wrong"),
    [([], "missing"), ("", "empty"), ("short", "5 characters"), ("key-3ax6xnjp29jd6fds4gc373sgvjxteol0", "sample")],
)
def test_problems(key: Any, wrong: str) -> None:
    """a missing, empty, short or published signing key is named, with where to find the right one"""
    kind = folder("mailgun").kind
    settings = kind.Settings.model_validate({"provider": "mailgun", "signing_key": key})
    (problem,) = kind.problems(settings, "sources.mg")
    assert wrong in str(problem)
    assert "webhook signing key" in problem.right
    assert problem.key == "sources.mg.signing_key"
