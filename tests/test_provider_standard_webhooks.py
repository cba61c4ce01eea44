"""What is the generic provider's alone; what holds for every provider is in `test_provider_contract.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
import standardwebhooks.webhooks

from receiver.contract import Delivery, Item, World
from receiver.errors import Refused, Unavailable, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import item_of
from receiver.providers import standard_webhooks as module
from receiver.providers.standard_webhooks import StandardWebhooks, StandardWebhooksSettings
from receiver.signers import standard_webhooks as signer

SECRET: Final = signer.new_secret()
PRIVATE, PUBLIC = signer.new_key_pair()
NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
AT: Final = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


async def _no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"{url} {max_bytes}")


def settings(**given: object) -> StandardWebhooksSettings:
    return StandardWebhooksSettings.model_validate({"provider": "standard_webhooks", **given})


def source(**given: object) -> StandardWebhooks:
    return StandardWebhooks(settings(**(given or {"secret": SECRET})), World(fetch=_no_fetch, now=lambda: NOW))


def signed(key: str, body: bytes = b"{}") -> Delivery:
    return Delivery(source="s", headers=signer.signed_headers([key], "msg_1", int(NOW.timestamp()), body), body=body)


def event(type_: str = "clicked", **data: Any) -> dict[str, Any]:
    return {"type": type_, "timestamp": AT.isoformat(), "data": {"recipient": "ada@customer.example"} | data}


def read(value: object, *, webhook_id: str | None = "msg_1") -> list[Reading]:
    item = item_of(json.dumps(value).encode(), event_id=webhook_id)
    assert isinstance(item, Item)
    return list(source().read(item))


def read_one(value: object) -> Reading:
    [reading] = read(value)
    return reading


# Proof


async def test_signed_by_the_reference_package() -> None:
    """what the specification's own package signs is accepted"""
    body = json.dumps(event(subject="Grüße"), ensure_ascii=False)
    signature = standardwebhooks.webhooks.Webhook(SECRET).sign("msg_9", NOW, body)
    headers = {
        "webhook-id": "msg_9",
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": signature,
    }
    found = await source().authenticate(Delivery(source="s", headers=headers, body=body.encode()))
    [item] = source().parse(found.payload)
    assert isinstance(item, Item)
    assert (item.event_id, item.text) == ("msg_9", body)


BOTH: Final[Mapping[str, object]] = {"secret": SECRET, "public_key": PUBLIC}
KINDS: Final[Mapping[str, tuple[Mapping[str, object], str, bool]]] = {
    "secret": ({"secret": SECRET}, SECRET, True),
    "public key": ({"public_key": PUBLIC}, PRIVATE, True),
    "both, by the secret": (BOTH, SECRET, True),
    "both, by the private key": (BOTH, PRIVATE, True),
    "second secret": ({"secret": [signer.new_secret(), SECRET]}, SECRET, True),
    "second public key, bare": (
        {"public_key": [signer.new_key_pair()[1], PUBLIC.removeprefix("whpk_")]},
        PRIVATE,
        True,
    ),
    "secret, by a private key": ({"secret": SECRET}, PRIVATE, False),
    "public key, by a secret": ({"public_key": PUBLIC}, SECRET, False),
    "public key used as a secret": ({"public_key": PUBLIC}, "whsec_" + PUBLIC.removeprefix("whpk_"), False),
    "another private key": ({"public_key": PUBLIC}, signer.new_key_pair()[0], False),
}


@pytest.mark.parametrize(("given", "key", "accepted"), KINDS.values(), ids=KINDS.keys())
async def test_kinds_of_keys(given: Mapping[str, object], key: str, accepted: bool) -> None:  # noqa: FBT001  # a column of the table
    """a source accepts what its own keys sign, and a public key is never taken for a secret"""
    if accepted:
        await source(**given).authenticate(signed(key))
        return
    with pytest.raises(Refused):
        await source(**given).authenticate(signed(key))


NEITHER: Final = "neither a secret nor a public key"
NO_KEY: Final = "no Ed25519 public key"
PUBLISHED_KEY: Final = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
BAD: Final[Mapping[str, tuple[Mapping[str, object], str, str]]] = {
    "nothing": ({}, "x", NEITHER),
    "an empty list": ({"secret": []}, "x", NEITHER),
    "an empty secret": ({"secret": ""}, "x.secret", "is empty"),
    "a published secret": ({"secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}, "x.secret", "published"),
    "no base64": ({"secret": "whsec_not!base64" + "A" * 30}, "x.secret", "not base64"),
    "a short second one": ({"secret": [SECRET, "whsec_YWJj"]}, "x.secret (number 2)", "only 3 bytes"),
    "an empty key": ({"public_key": ""}, "x.public_key (number 1)", NO_KEY),
    "a cut key": ({"public_key": PUBLIC[:-8]}, "x.public_key (number 1)", NO_KEY),
    "a private key": ({"public_key": PRIVATE}, "x.public_key (number 1)", NO_KEY),
    "beyond ASCII": ({"public_key": "whpk_é"}, "x.public_key (number 1)", NO_KEY),
    "nothing but A": ({"public_key": "A" * 43 + "="}, "x.public_key (number 1)", NO_KEY),
    "a published key": ({"public_key": PUBLISHED_KEY}, "x.public_key (number 1)", "published"),
}


@pytest.mark.parametrize(("given", "key", "wrong"), BAD.values(), ids=BAD.keys())
def test_keys_that_prove_nothing(given: Mapping[str, object], key: str, wrong: str) -> None:
    """keys that are missing, damaged, short or published are named, with what a right one looks like"""
    [problem] = StandardWebhooks.problems(settings(**given), "x")
    assert problem.key == key
    assert wrong in problem.wrong
    assert PRIVATE not in str(problem)


def test_right_keys() -> None:
    """a secret, a public key, or both are enough"""
    for given in ({"secret": SECRET}, {"public_key": PUBLIC}, {"secret": SECRET, "public_key": [PUBLIC]}):
        assert not StandardWebhooks.problems(settings(**given), "x")


# Reading


def test_the_documented_columns_are_ours() -> None:
    """the fields that the documentation names are columns of a reading, and all that a sender could know are named"""
    fields = {field.name for field in msgspec.structs.fields(Reading)}
    docstring = module.__doc__ or ""
    start, end = docstring.index("Columns:"), docstring.index("is_test;")
    named = set(docstring[start:end].replace("(or from)", "").split()[1:]) | {"is_test"}
    assert named - {"bounce_category"} <= fields
    ours = {"type", "word", "identity", "identity_time", "occurred_at", "provider_event_id", "recipient"}
    assert fields - named == ours | {"verdict", "attribution"}


def test_every_column_is_read() -> None:
    """each documented field lands in its column"""
    texts = {
        name: f"{name} text"
        for name in (
            *("enhanced_code", "diagnostic", "sending_ip", "ip_pool", "remote_mta", "stream", "topic", "campaign"),
            *("template_id", "subject", "url", "user_agent", "client_ip", "country", "sender", "message_id"),
        )
    }
    data = texts | {
        "internet_message_id": " <a@b> ",
        "bounce_category": "soft",
        "smtp_code": 450,
        "reject_reason": "policy",
        "actor": "proxy",
        "attempt": 4,
        "tags": ["a", "b"],
        "metadata": {"k": [1]},
        "echo": True,
        "is_test": True,
    }
    reading = read_one(event("bounced", **data))
    for name, value in texts.items():
        assert getattr(reading, name) == value
    assert reading.internet_message_id == "a@b"
    assert (reading.verdict, reading.smtp_code) == (BounceCategory.SOFT, 450)
    assert (reading.reject_reason, reading.actor, reading.attempt) == (RejectReason.POLICY, Actor.PROXY, 4)
    assert (reading.tags, reading.metadata) == (["a", "b"], {"k": [1]})
    assert (reading.echo, reading.is_test) == (True, True)


@pytest.mark.parametrize("type_", [*EventType])
def test_words(type_: EventType) -> None:
    """each of our types is understood, also with `email.` before it; the word stays as it was sent"""
    for word in (type_.value, f"email.{type_.value}"):
        reading = read_one(event(word))
        assert (reading.type, reading.word) == (type_, word)


@pytest.mark.parametrize("word", ["Clicked", "click", "email.email.clicked", "contact.clicked", "", None, 7, {}, []])
def test_unknown_words(word: object) -> None:
    """any other type is stored as unknown"""
    assert read_one({"type": word, "data": {}}).type is EventType.UNKNOWN


@pytest.mark.parametrize(
    ("when", "moment"),
    [
        ("2026-11-20T09:30:00Z", AT),
        ("2026-11-20T10:30:00+01:00", AT),
        ("2026-11-20T09:30:00", AT),
        (int(AT.timestamp()), AT),
        (str(int(AT.timestamp())), AT),
        ("soon", None),
        (True, None),
        ([], None),
        ({"a": 1}, None),
        (1e300, None),
    ],
)
def test_times(when: object, moment: datetime | None) -> None:
    """a time is ISO 8601 or seconds; anything else is none"""
    assert read_one(event() | {"timestamp": when}).occurred_at == moment


def test_time_in_the_data_wins() -> None:
    """`occurred_at` is the event's own time, `timestamp` perhaps the message's"""
    other = AT - timedelta(hours=1)
    assert read_one(event(occurred_at=other.isoformat())).occurred_at == other


@pytest.mark.parametrize(
    ("data", "recipients"),
    [
        ({"recipient": "a@x.example", "email": "b@x.example", "to": "c@x.example"}, ["a@x.example"]),
        ({"recipient": None, "email": "b@x.example", "to": "c@x.example"}, ["b@x.example"]),
        ({"recipient": [], "to": ["c@x.example", "d@x.example"]}, ["c@x.example", "d@x.example"]),
        ({"recipient": {"a": 1}}, [None]),
    ],
)
def test_recipients(data: Mapping[str, Any], recipients: list[str | None]) -> None:
    """the recipient may be called `email` or `to`, and several are one event each"""
    assert [reading.recipient for reading in read(event("delivered", **data))] == recipients


# Identity


def test_identity() -> None:
    """what a retry keeps makes the identity; another id, address, time, link, attempt or client is another event"""
    first = read_one(event()).identity
    assert read_one(event(subject="corrected", tags=["new"])).identity == first
    for other in (
        event("opened"),
        event(recipient="grace@customer.example"),
        event(message_id="m-2"),
        event(url="https://x.example"),
        event(attempt=2),
        event(client_ip="198.51.100.1"),
        event(user_agent="x"),
        event(occurred_at="2026-11-20T09:30:01Z"),
    ):
        assert read_one(other).identity != first
    [reading] = read(event(), webhook_id="msg_2")
    assert reading.identity != first


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"x"'])
async def test_bodies_that_are_no_object(body: bytes) -> None:
    """an authentic JSON body that is no object is unreadable"""
    found = await source().authenticate(signed(SECRET, body))
    [item] = source().parse(found.payload)
    assert isinstance(item, Item)
    with pytest.raises(Unreadable):
        source().read(item)


def test_keys_for_the_simulator() -> None:
    """the simulator signs with a configured secret; with a public key alone it says what to add"""
    assert StandardWebhooks.simulation.keys(settings(secret=[SECRET])) == {"secret": SECRET}
    assert StandardWebhooks.simulation.keys(settings(public_key=PUBLIC)) is None
    assert StandardWebhooks.simulation.unsignable
