"""What is Resend's alone; what holds for every provider is in `test_provider_contract.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import svix.webhooks

from receiver.contract import Delivery, Item, Occurrence, UnreadableItem, World
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.payload import item_of
from receiver.providers.resend import Resend, ResendSettings
from receiver.signers import standard_webhooks as signer

SECRET: Final = signer.new_secret()
NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)


async def _no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"{url} {max_bytes}")


def resend(*secrets: str, now: datetime = NOW) -> Resend:
    settings = ResendSettings.model_validate({"provider": "resend", "signing_secret": list(secrets or (SECRET,))})
    return Resend(settings, World(fetch=_no_fetch, now=lambda: now))


def signed(body: bytes, *, svix_id: str = "msg_1", at: datetime = NOW, secret: str = SECRET) -> Delivery:
    headers = signer.signed_headers([secret], svix_id, int(at.timestamp()), body, prefix="svix")
    return Delivery(source="resend", headers=headers, body=body)


async def receive(body: bytes, **options: Any) -> list[Item | UnreadableItem]:
    provider = resend(now=options.get("at", NOW))
    found = await provider.authenticate(signed(body, **options))
    return list(provider.parse(found.payload))


def event(word: str = "email.delivered", **data: Any) -> dict[str, Any]:
    mail = {"email_id": "e-1", "to": ["ada@customer.example"], "from": "Shop <news@shop.example>"}
    return {"type": word, "created_at": "2026-11-20T11:59:12.126Z", "data": mail | data}


def read(value: object, *, svix_id: str | None = "msg_1") -> Sequence[Reading]:
    item = item_of(json.dumps(value).encode(), event_id=svix_id)
    assert isinstance(item, Item)
    return resend().read(item)


def read_one(value: object) -> Reading:
    [reading] = read(value)
    return reading


# Proof


async def test_signed_by_svix() -> None:
    """what Svix's own package signs is accepted, and its id becomes the event's provider_event_id"""
    body = json.dumps(event("email.clicked"), ensure_ascii=False, indent=1)
    signature = svix.webhooks.Webhook(SECRET).sign("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", NOW, body)
    headers = {
        "svix-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
        "svix-timestamp": str(int(NOW.timestamp())),
        "svix-signature": f"v1,AAAA {signature}",
    }
    provider = resend(signer.new_secret(), SECRET)
    found = await provider.authenticate(Delivery(source="s", headers=headers, body=body.encode()))
    [item] = provider.parse(found.payload)
    assert isinstance(item, Item)
    [reading] = provider.read(item)
    assert reading.provider_event_id == "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
    assert item.text == body


async def test_another_webhooks_secret() -> None:
    """each webhook of Resend has its own secret: that of another one is refused"""
    with pytest.raises(Refused) as caught:
        await resend().authenticate(signed(b"{}", secret=signer.new_secret()))
    assert caught.value.reason is Reason.WRONG_KEY


@pytest.mark.parametrize(
    ("secrets", "wrong"),
    [
        ([], "is missing"),
        ([""], "is empty"),
        (["   "], "is empty"),
        (["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "published"),
        (["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "published"),
        (["whsec_plJ3nmyCDGBKInavdOK15jsl"], "published"),
        (["whsec_"], "only 0 bytes"),
        (["whsec_c2hvcnQ="], "only 5 bytes"),
        (["re_123456789_not_a_webhook_secret"], "not base64"),
        (["whsec_é" + "A" * 40], "not base64"),
    ],
)
def test_secrets_that_prove_nothing(secrets: list[str], wrong: str) -> None:
    """a secret that is missing, empty, short, published, or an API key by mistake is named, and never shown"""
    settings = ResendSettings.model_validate({"provider": "resend", "signing_secret": secrets})
    [problem] = Resend.problems(settings, "sources.main")
    assert problem.key == "sources.main.signing_secret"
    assert wrong in problem.wrong
    assert "Signing Secret" in problem.right
    assert not any(len(secret) > 6 and secret in str(problem) for secret in secrets)


def test_one_secret_without_a_list() -> None:
    """a single secret needs no list; of several the wrong one is named by its number"""
    one = ResendSettings.model_validate({"provider": "resend", "signing_secret": SECRET})
    assert not Resend.problems(one, "x")
    assert SECRET not in repr(one)
    two = ResendSettings.model_validate({"provider": "resend", "signing_secret": [SECRET, "whsec_c2hvcnQ="]})
    assert [problem.key for problem in Resend.problems(two, "x")] == ["x.signing_secret (number 2)"]


# Items


@pytest.mark.parametrize("body", [b"", b"type=email.sent", b"{", b'{"type":}', b"\xff"])
async def test_bodies_that_are_no_json(body: bytes) -> None:
    """an authentic body that is no JSON is one unreadable item"""
    [item] = await receive(body)
    assert isinstance(item, UnreadableItem)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"7", b"[{}]"])
async def test_bodies_that_are_no_object(body: bytes) -> None:
    """an authentic JSON body that is no object is unreadable"""
    [item] = await receive(body)
    assert isinstance(item, Item)
    with pytest.raises(Unreadable):
        resend().read(item)


async def test_a_signed_empty_object() -> None:
    """a signed {} is stored as an unknown event, each under its own id"""
    readings: list[Reading] = []
    for svix_id in ("msg_1", "msg_2"):
        [item] = await receive(b"{}", svix_id=svix_id)
        assert isinstance(item, Item)
        readings += resend().read(item)
    assert [reading.type for reading in readings] == [EventType.UNKNOWN, EventType.UNKNOWN]
    assert readings[0].identity != readings[1].identity


# Identity


async def test_retries_are_the_same_event() -> None:
    """a retry is signed anew under the same svix-id, and is the same event"""
    body = json.dumps(event("email.opened")).encode()
    identities = []
    for seconds in (0, 5, 36000):
        [item] = await receive(body, at=NOW + timedelta(seconds=seconds))
        assert isinstance(item, Item)
        identities += [reading.identity for reading in resend().read(item)]
    assert len(identities) == 3
    assert len({tuple(identity or ()) for identity in identities}) == 1


def click(**fields: str) -> dict[str, str]:
    return {"link": "https://a.example", "timestamp": "2026-11-20T11:59:10.1Z", "ipAddress": "198.51.100.1"} | fields


@pytest.mark.parametrize(
    "other",
    [
        event("email.opened", click=click()),
        event("email.clicked", email_id="e-2", click=click()),
        event("email.clicked", to=["grace@customer.example"], click=click()),
        event("email.clicked", click=click(link="https://b.example")),
        event("email.clicked", click=click(timestamp="2026-11-20T11:59:10.2Z")),
        event("email.clicked", click=click(ipAddress="198.51.100.2")),
        event("email.clicked", click=click(userAgent="other")),
        event("email.clicked", click=click()) | {"created_at": "2026-11-20T11:59:12.127Z"},
    ],
)
def test_other_events(other: Mapping[str, Any]) -> None:
    """another word, mail, recipient, link, time or client is another event, even under one svix-id"""
    assert read_one(other).identity != read_one(event("email.clicked", click=click())).identity


def test_other_message_of_svix() -> None:
    """the same content in another message of Svix is another event"""
    [one], [two] = (read(event("email.opened"), svix_id=svix_id) for svix_id in ("msg_1", "msg_2"))
    assert one.identity != two.identity


def test_several_recipients_are_several_events() -> None:
    """each recipient of one report is an event with an identity of its own"""
    readings = read(event(to=["ada@customer.example", "grace@customer.example"]))
    assert [reading.recipient for reading in readings] == ["ada@customer.example", "grace@customer.example"]
    assert len({tuple(reading.identity or ()) for reading in readings}) == 2
    assert {reading.attribution for reading in readings} == {None}


@pytest.mark.parametrize("word", ["email.opened", "email.clicked"])
def test_nobody_opened(word: str) -> None:
    """who of several recipients opened or clicked is not guessed"""
    reading = read_one(event(word, to=["ada@customer.example", "grace@customer.example"]))
    assert (reading.recipient, reading.attribution) == (None, "ambiguous")


def test_ambiguous_complaint() -> None:
    """a complaint about a mail to several is one event each, marked so that none suppresses by itself"""
    readings = read(event("email.complained", to=["ada@customer.example", "grace@customer.example"]))
    assert [reading.attribution for reading in readings] == ["ambiguous", "ambiguous"]
    assert read_one(event("email.complained")).attribution is None


# Reading


@pytest.mark.parametrize(
    ("kind", "subtype", "verdict"),
    [
        ("Permanent", "General", BounceCategory.HARD),
        ("Permanent", "NoEmail", BounceCategory.HARD),
        ("Permanent", None, BounceCategory.HARD),
        ("Permanent", "MessageRejected", BounceCategory.BLOCK),
        ("Transient", "General", BounceCategory.UNDETERMINED),
        ("Transient", "MailboxFull", BounceCategory.SOFT),
        ("Transient", "MessageTooLarge", BounceCategory.SOFT),
        ("Transient", "ContentRejected", BounceCategory.BLOCK),
        ("Transient", "AttachmentRejected", BounceCategory.BLOCK),
        ("Temporary", "New", BounceCategory.SOFT),
        ("Undetermined", "Undetermined", BounceCategory.UNDETERMINED),
        (None, None, BounceCategory.UNDETERMINED),
        ("New", "New", BounceCategory.UNDETERMINED),
        (7, ["General"], BounceCategory.UNDETERMINED),
    ],
)
def test_bounce_verdicts(kind: object, subtype: object, verdict: BounceCategory) -> None:
    """Resend's view of a bounce: only Permanent is hard, and not where it was about the message"""
    reading = read_one(event("email.bounced", bounce={"type": kind, "subType": subtype}))
    assert (reading.type, reading.verdict) == (EventType.BOUNCED, verdict)


@pytest.mark.parametrize("subtype", ["Suppressed", "OnAccountSuppressionList"])
def test_held_back_is_no_bounce(subtype: str) -> None:
    """a mail that was never tried because of an earlier bounce is rejected, not bounced again"""
    reading = read_one(event("email.bounced", bounce={"type": "Permanent", "subType": subtype}))
    assert (reading.type, reading.verdict) == (EventType.REJECTED, None)
    assert reading.reject_reason is RejectReason.BOUNCED


@pytest.mark.parametrize(
    ("codes", "diagnostics"),
    [
        (["one", "two"], ["one", "two"]),
        (["for both"], ["for both", "for both"]),
        (["1", "2", "3"], ["the message", "the message"]),
        ([], ["the message", "the message"]),
        (None, ["the message", "the message"]),
        ("as text", ["as text", "as text"]),
        ([None, {"a": 1}], ["the message", "the message"]),
    ],
)
def test_diagnostics_of_several(codes: object, diagnostics: list[str]) -> None:
    """each recipient gets the server's answer to it, and none another's"""
    bounce = {"type": "Permanent", "message": "the message", "diagnosticCode": codes}
    readings = read(event("email.bounced", to=["a@c.example", "b@c.example"], bounce=bounce))
    assert [reading.diagnostic for reading in readings] == diagnostics


@pytest.mark.parametrize(
    ("tags", "metadata"),
    [
        ({"category": "welcome", "n": 1}, {"category": "welcome", "n": 1}),
        ([{"name": "category", "value": "welcome"}, {"name": "n", "value": 1}], {"category": "welcome", "n": 1}),
        ([{"name": None, "value": "x"}, {"value": "y"}, "z", None], None),
        ({}, None),
        ([], None),
        (None, None),
        ("text", None),
    ],
)
def test_tags(tags: object, metadata: object) -> None:
    """Resend's named tags, as an object or as the older list, are metadata"""
    reading = read_one(event(tags=tags))
    assert (reading.metadata, reading.tags) == (metadata, [])


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "", "\ud800", "[" * 500])
def test_metadata_headers_that_are_no_object(text: str) -> None:
    """an X-Metadata header that is no JSON object is left alone"""
    reading = read_one(event(headers=[{"name": "X-Metadata", "value": text}], tags={"a": "b"}))
    assert reading.metadata == {"a": "b"}


def test_time_of_a_click() -> None:
    """a click happened at its own time, another event when the webhook's event was made, never at the mail's time"""
    clicked = read_one(event("email.clicked", click=click(timestamp="2026-11-20T11:00:00Z"), created_at="2020-01-01"))
    assert clicked.occurred_at == datetime(2026, 11, 20, 11, tzinfo=UTC)
    opened = read_one(event("email.opened", created_at="2020-01-01T00:00:00Z"))
    assert opened.occurred_at == datetime(2026, 11, 20, 11, 59, 12, 126000, tzinfo=UTC)
    assert read_one({"data": {"created_at": "2020-01-01T00:00:00Z"}}).occurred_at is None


@pytest.mark.parametrize(
    ("address", "is_test"),
    [
        ("delivered@resend.dev", True),
        ("Bounced+label@Resend.dev", True),
        ("Test <complained@resend.dev>", True),
        ("ada@example.com", False),
        ("ada@notresend.dev", False),
    ],
)
def test_simulator_addresses(address: str, is_test: bool) -> None:  # noqa: FBT001  # a column of the table
    """mail to Resend's simulator is a test; a reserved name alone is none"""
    assert read_one(event(to=[address])).is_test is is_test


# Simulation


def test_simulated_ids() -> None:
    """an item posted twice carries the same svix-id, as a retry does, and another item another one"""
    made = [
        Resend.simulation.sample(
            Occurrence(type=EventType.CLICKED, recipient="a@c.example", at=NOW, run="r", number=number)
        )
        for number in (1, 1, 2)
    ]
    posts = Resend.simulation.post(made, {"signing_secret": SECRET}, NOW)
    first, again, other = (post.headers["svix-id"] for post in posts)
    assert first == again != other
