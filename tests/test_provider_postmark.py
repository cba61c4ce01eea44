"""Postmark's traps: no signature, codes that drop events, echoes of what was said before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receiver.contract import Item
from receiver.errors import Reason, Refused, Unreadable
from receiver.event import EventType, Reading
from receiver.signers.credentials import basic
from tests.provider_fixtures import Fixture, folder, read_delivery

PASSWORD = "correct horse battery staple"
SECRET = "Zm9yIHRlc3RzIG9ubHkgLSBub3Qgc2VjcmV0"
BASIC = {"authorization": basic("postmark", PASSWORD)}
BOTH = BASIC | {"x-webhook-secret": SECRET}
DELIVERY = {
    "RecordType": "Delivery",
    "MessageID": "883953f4-6105-42a2-a16a-77a8eac79483",
    "Recipient": "margareth@customer.example",
    "DeliveredAt": "2026-11-20T11:58:54.9070259Z",
}
ONLY_BASIC: dict[str, Any] = {"header_name": None, "header_value": []}
ONLY_HEADER: dict[str, Any] = {"password": []}


def delivery(value: Any, headers: dict[str, str]) -> Any:
    body = json.dumps(value).encode()
    return Fixture(folder=folder("postmark"), name="x", headers=headers, body=body, expected={}).delivery()


async def read(value: Any, headers: dict[str, str] | None = None, **settings: Any) -> Reading:
    found, _ = await read_delivery(folder("postmark").provider(**settings), delivery(value, BOTH | (headers or {})))
    (reading,) = found
    return reading


async def refusal(headers: dict[str, str], **settings: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await folder("postmark").provider(**settings).authenticate(delivery(DELIVERY, headers))
    return caught.value


@pytest.mark.parametrize(
    ("headers", "settings", "reason"),
    [
        ({}, ONLY_BASIC, Reason.MISSING_CREDENTIALS),
        ({"x-webhook-secret": SECRET}, ONLY_BASIC, Reason.MISSING_CREDENTIALS),
        ({"authorization": "Bearer x"}, ONLY_BASIC, Reason.MALFORMED_HEADER),
        ({"authorization": "Basic"}, ONLY_BASIC, Reason.MALFORMED_HEADER),
        ({"authorization": "Basic ☃"}, ONLY_BASIC, Reason.MALFORMED_HEADER),
        ({"authorization": basic("postmark", "wrong")}, ONLY_BASIC, Reason.WRONG_CREDENTIALS),
        ({"authorization": basic("postmark", "")}, ONLY_BASIC, Reason.WRONG_CREDENTIALS),
        ({"authorization": basic("", PASSWORD)}, ONLY_BASIC, Reason.WRONG_CREDENTIALS),
        ({"authorization": basic("Postmark", PASSWORD)}, ONLY_BASIC, Reason.WRONG_CREDENTIALS),
        (BASIC, ONLY_HEADER, Reason.MISSING_HEADER),
        ({"x-webhook-secret": ""}, ONLY_HEADER, Reason.MISSING_HEADER),
        ({"x-webhook-secret": SECRET + ", " + SECRET}, ONLY_HEADER, Reason.WRONG_CREDENTIALS),
        ({"x-webhook-secret": "☃"}, ONLY_HEADER, Reason.MALFORMED_HEADER),
        (BASIC, {}, Reason.MISSING_HEADER),
        ({"x-webhook-secret": SECRET}, {}, Reason.MISSING_CREDENTIALS),
    ],
)
async def test_refusals(headers: dict[str, str], settings: dict[str, Any], reason: Reason) -> None:
    """what is configured is required, as a whole, and each mistake has its own reason"""
    assert (await refusal(headers, **settings)).reason is reason


@pytest.mark.parametrize("password", ["an older password 4711", PASSWORD])
async def test_every_live_password(password: str) -> None:
    """while a password is replaced both open the door, also written in another way that means the same"""
    provider = folder("postmark").provider(**ONLY_BASIC)
    value = basic("postmark", password)
    for header in (value, value.replace("Basic", "basic"), value.replace("Basic ", "BASIC  ")):
        await provider.authenticate(delivery(DELIVERY, {"authorization": header}))


async def test_password_with_colon_and_umlauts() -> None:
    """a password may hold colons and letters beyond ASCII"""
    password = "pass:wörter:sind lang"
    settings = ONLY_BASIC | {"password": password}
    await read(DELIVERY, {"authorization": basic("postmark", password)}, **settings)


async def test_header_secret_beyond_ascii() -> None:
    """a secret beyond ASCII fits as its UTF-8 bytes, which is how servers hand header bytes on"""
    secret = "geheimnisträger in spé"
    sent = secret.encode().decode("latin-1")
    await read(DELIVERY, {"x-webhook-secret": sent}, header_value=secret)


def test_refusals_are_repeated() -> None:
    """no code of a refusal is one that makes Postmark drop the event: no 4xx but 408 and 429"""
    reply = folder("postmark").kind.reply
    assert (reply.stored, reply.refused, reply.again) == (200, 503, 503)


def identity(reading: Reading) -> Any:
    return (reading.identity, reading.occurred_at)


async def test_trace_header_is_not_part_of_the_identity() -> None:
    """one event with and without its trace header, or posted to two webhooks, is one"""
    first = await read(DELIVERY, {"x-pm-webhook-trace-id": "t-1"})
    second = await read(DELIVERY, {"x-pm-webhook-trace-id": "t-2"})
    assert (first.provider_event_id, second.provider_event_id) == ("t-1", "t-2")
    assert identity(first) == identity(second) == identity(await read(DELIVERY))


async def test_every_open_and_click_counts() -> None:
    """two opens of one message are two events, told apart by the seventh digit of their time; so are two links"""
    open_ = {"RecordType": "Open", "MessageID": "m", "Recipient": "a@customer.example"}
    one = await read(open_ | {"ReceivedAt": "2026-11-20T11:59:54.9070251Z"})
    two = await read(open_ | {"ReceivedAt": "2026-11-20T11:59:54.9070252Z"})
    assert one.occurred_at == two.occurred_at
    assert one.identity != two.identity
    click = {"RecordType": "Click", "MessageID": "m", "ReceivedAt": "2026-11-20T11:59:54Z"}
    left = await read(click | {"OriginalLink": "https://a.example"})
    assert left.identity != (await read(click | {"OriginalLink": "https://b.example"})).identity


async def test_same_message_to_two_people() -> None:
    """two recipients of one message are two events"""
    other = DELIVERY | {"Recipient": "other@customer.example"}
    assert (await read(DELIVERY)).identity != (await read(other)).identity


async def test_late_state_is_no_other_event() -> None:
    """a bounce whose state has changed until the retry is the same, also where it has no time"""
    bounce: dict[str, Any] = {"RecordType": "Bounce", "Type": "HardBounce", "ID": 42, "Email": "a@customer.example"}
    for time in ({"BouncedAt": "2026-11-20T11:59:54Z"}, {}):
        before = await read(bounce | time | {"Inactive": True, "CanActivate": True, "Content": "dump"})
        after = await read(bounce | time | {"Inactive": False, "CanActivate": False})
        assert before.identity == after.identity is not None


@pytest.mark.parametrize(
    ("suppress", "reason", "origin", "type_", "echo"),
    [
        (True, "HardBounce", "Recipient", EventType.BOUNCED, True),
        (True, "SpamComplaint", "Recipient", EventType.COMPLAINED, True),
        (True, "ManualSuppression", "Recipient", EventType.UNSUBSCRIBED, False),
        (True, "ManualSuppression", "Customer", EventType.UNSUBSCRIBED, False),
        (True, None, "Recipient", EventType.UNKNOWN, False),
        ("true", "ManualSuppression", "Recipient", EventType.UNSUBSCRIBED, False),
        (False, None, "Recipient", EventType.SUBSCRIBED, False),
        (False, "ManualSuppression", "Admin", EventType.UNKNOWN, False),
        (False, None, "Customer", EventType.UNKNOWN, False),
        (None, "HardBounce", "Recipient", EventType.UNKNOWN, False),
        ([], {}, 7, EventType.UNKNOWN, False),
    ],
)
async def test_subscription_changes(suppress: Any, reason: Any, origin: Any, type_: EventType, *, echo: bool) -> None:
    """a suppression is what caused it, an echo where that was reported before; only people subscribe themselves"""
    value = {"RecordType": "SubscriptionChange", "Recipient": "a@customer.example", "ChangedAt": "2026-11-20T11:59:54Z"}
    reading = await read(value | {"SuppressSending": suppress, "SuppressionReason": reason, "Origin": origin})
    assert (reading.type, reading.echo) == (type_, echo)


@pytest.mark.parametrize(
    ("recipient", "is_test"),
    [
        ("john@example.com", True),
        ("John@Example.com", True),
        ("hardbounce@bounce-testing.postmarkapp.com", True),
        ("jane@example.com", False),
        (None, False),
    ],
)
async def test_samples_of_the_console(recipient: str | None, *, is_test: bool) -> None:
    """the console's sample recipient and faked bounces are tests, other documentation names are not"""
    assert (await read(DELIVERY | {"Recipient": recipient})).is_test is is_test


@pytest.mark.parametrize("value", [None, [], "Delivery", 7, [DELIVERY]])
async def test_what_is_no_object(value: Any) -> None:
    """an authentic body that is no object is unreadable, not refused"""
    provider = folder("postmark").provider()
    found = await provider.authenticate(delivery(value, BOTH))
    (item,) = provider.parse(found.payload)
    assert isinstance(item, Item)
    with pytest.raises(Unreadable):
        provider.read(item)


async def test_inbound_by_its_shape() -> None:
    """an inbound message is known by its shape; its Date is the sender's claim and not taken as a time"""
    value = {"FromFull": {"Email": "a@partner.example"}, "MessageID": "m1", "Date": "Thu, 5 Apr 2012 16:59:01 +0200"}
    reading = await read(value | {"ToFull": [{"Email": "team@shop.example"}]})
    assert (reading.type, reading.sender, reading.recipient) == (
        EventType.INBOUND,
        "a@partner.example",
        "team@shop.example",
    )
    assert reading.occurred_at is None
    assert (await read({"RecordType": "Inbound", "MessageID": "m1"})).type is EventType.INBOUND


@pytest.mark.parametrize(
    ("settings", "key", "wrong"),
    [
        ({}, "sources.pm", "nothing would prove"),
        ({"password": ""}, "sources.pm.password", "empty"),
        ({"password": ["a long enough password", "short"]}, "sources.pm.password (number 2)", "5 characters"),
        ({"password": "your-secret-password"}, "sources.pm.password", "sample"),
        ({"password": "a long enough password", "username": ""}, "sources.pm.username", "empty"),
        ({"header_value": "a long enough secret"}, "sources.pm.header_name", "together"),
        ({"password": "a long enough password", "header_name": "X-Secret"}, "sources.pm.header_name", "together"),
    ],
)
def test_problems(settings: dict[str, Any], key: str, wrong: str) -> None:
    """no, an empty, short or published secret is named with its key, and so is half a header"""
    kind = folder("postmark").kind
    (problem,) = kind.problems(kind.Settings.model_validate({"provider": "postmark", **settings}), "sources.pm")
    assert problem.key == key
    assert wrong in problem.wrong
    assert problem.right
