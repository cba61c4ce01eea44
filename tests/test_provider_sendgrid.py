"""What is SendGrid's alone; what holds for every provider is in `test_provider_contract.py`."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from receiver.contract import Delivery, Item, Occurrence, World
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.event import EventType, Reading
from receiver.payload import item_of
from receiver.providers.sendgrid import BATCH, SIGNATURE, TIMESTAMP, SendGrid, SendGridSettings
from receiver.signers import ecdsa

# SendGrid's libraries: https://github.com/sendgrid/sendgrid-nodejs and, with three events, .../sendgrid-java.
PUBLISHED_KEY: Final = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcw"
    "HBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA=="
)
JAVA_KEY: Final = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0wuSSQf427N670xAsZ5vKZcyA0d9+/YyGnLDN4mv11ik"
    "ucYzBOSyPQlfKkWSD1mS7zYzljgt9iWw7jUFVrwFjg=="
)
JAVA_BODY: Final = (
    b'[{"email":"example@test.com","timestamp":1581532164,"smtp-id":"<14c5d75ce93.dfd.64b469@ismtpd-555>",'
    b'"event":"processed","category":"cat facts","sg_event_id":"sg_event_id","sg_message_id":"sg_message_id"},\n'
    b'{"email":"example@test.com","timestamp":1581532164,"smtp-id":"<14c5d75ce93.dfd.64b469@ismtpd-555>",'
    b'"event":"deferred","category":"cat facts","sg_event_id":"sg_event_id","sg_message_id":"sg_message_id",'
    b'"response":"400 try again later","attempt":"5"},\n'
    b'{"email":"example@test.com","timestamp":1581532164,"smtp-id":"<14c5d75ce93.dfd.64b469@ismtpd-555>",'
    b'"event":"delivered","category":"cat facts","sg_event_id":"sg_event_id","sg_message_id":"sg_message_id",'
    b'"response":"250 OK"}]\n'
)
PRIVATE, PUBLIC = ecdsa.new_key_pair()
NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)


async def _no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"{url} {max_bytes}")


def sendgrid(*keys: str, now: datetime = NOW, **settings: Any) -> SendGrid:
    given = SendGridSettings(provider="sendgrid", public_key=list(keys or (PUBLIC,)), **settings)
    return SendGrid(given, World(fetch=_no_fetch, now=lambda: now))


def signed(body: bytes, *, at: datetime = NOW, private: str = PRIVATE) -> Delivery:
    stamp = str(int(at.timestamp()))
    headers = {SIGNATURE: ecdsa.sign(private, stamp.encode() + body), TIMESTAMP: stamp}
    return Delivery(source="sendgrid", headers=headers, body=body)


def event(**fields: Any) -> dict[str, Any]:
    return {
        "email": "ada@customer.example",
        "timestamp": 1795175943,
        "event": "open",
        "sg_event_id": "first",
        "sg_message_id": "abc.filter0001.16648.5515E0B88.0",
        **fields,
    }


def read(value: object) -> Reading:
    item = item_of(json.dumps(value).encode())
    assert isinstance(item, Item)
    [reading] = sendgrid().read(item)
    return reading


@pytest.mark.parametrize(
    ("key", "stamp", "signature", "body", "count"),
    [
        (
            PUBLISHED_KEY,
            "1588788367",
            "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH2j/0=",
            b'{"category":"example_payload","event":"test_event","message_id":"message_id"}',
            1,
        ),
        (
            JAVA_KEY,
            "1587162873",
            "MEUCIQDrZLnEUsPfG6x2GLo7W6V8CJVqnQKs6PEfHKF4k8/rhQIgNmInuCti7RtcJMASqxHKnhNzPAmdIYCwJNTEk7E/nlY=",
            JAVA_BODY,
            3,
        ),
    ],
)
async def test_published_vectors(key: str, stamp: str, signature: str, body: bytes, count: int) -> None:
    """SendGrid's own examples are accepted and read, and their keys are refused at start"""
    provider = sendgrid(key, now=datetime.fromtimestamp(int(stamp), UTC))
    delivery = Delivery(source="s", headers={SIGNATURE: signature, TIMESTAMP: stamp}, body=body)
    found = await provider.authenticate(delivery)
    items = list(provider.parse(found.payload))
    assert len(items) == count
    assert all(len(provider.read(item)) == 1 for item in items if isinstance(item, Item))
    [problem] = SendGrid.problems(SendGridSettings(provider="sendgrid", public_key=[key]), "sources.x")
    assert problem.key == "sources.x.public_key"
    assert "published" in problem.wrong


@pytest.mark.parametrize("body", [JAVA_BODY.rstrip(), b"\xef\xbb\xbf" + JAVA_BODY, JAVA_BODY.replace(b"},\n", b"},")])
async def test_raw_bytes_are_signed(body: bytes) -> None:
    """a line break less between items, at the end, or a byte order mark more is another body"""
    delivery = signed(JAVA_BODY)
    with pytest.raises(Refused) as caught:
        await sendgrid().authenticate(Delivery(source="s", headers=delivery.headers, body=body))
    assert caught.value.reason is Reason.WRONG_KEY


@pytest.mark.parametrize(
    ("age", "tolerance", "reason"),
    [
        (timedelta(hours=24, minutes=59), None, None),
        (timedelta(hours=25, seconds=1), None, Reason.STALE),
        (timedelta(seconds=601), 600.0, Reason.STALE),
        (timedelta(days=3), 7 * 86400.0, None),
        (timedelta(seconds=-301), None, Reason.FUTURE),
    ],
)
async def test_late_retries(age: timedelta, tolerance: float | None, reason: Reason | None) -> None:
    """a retry with its first timestamp is accepted for as long as SendGrid retries"""
    provider = sendgrid(now=NOW + age, tolerance=tolerance)
    if reason is None:
        await provider.authenticate(signed(b"[]"))
        return
    with pytest.raises(Refused) as caught:
        await provider.authenticate(signed(b"[]"))
    assert (caught.value.reason, caught.value.authentic) == (reason, True)


# Keys


def pem(key: str, line: str = "\n") -> str:
    return line.join(["-----BEGIN PUBLIC KEY-----", key[:64], key[64:], "-----END PUBLIC KEY-----", ""])


WRITTEN: Final[Mapping[str, str]] = {
    "base64": PUBLIC,
    "blanks around": f"  {PUBLIC}\n",
    "PEM": pem(PUBLIC),
    "PEM of another system": pem(PUBLIC, "\r\n"),
    "PEM escaped": pem(PUBLIC, "\\n"),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN.keys())
async def test_ways_to_write_a_key(written: str) -> None:
    """a key may be base64 alone, PEM, or PEM with escaped line breaks as environment files have it"""
    assert not SendGrid.problems(SendGridSettings(provider="sendgrid", public_key=[written]), "x")
    await sendgrid(written).authenticate(signed(b"[]"))


def spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    return b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


BAD_KEYS: Final[Mapping[str, str]] = {
    "empty": " ",
    "text": "SG.not-a-public-key",
    "cut": PUBLIC[:-8],
    "beyond ASCII": "é" + PUBLIC,
    "a private key": PRIVATE,
    "another curve": spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "another kind": spki(ed25519.Ed25519PrivateKey.generate().public_key()),
    "a published one in PEM": pem(PUBLISHED_KEY),
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_bad_keys(key: str) -> None:
    """a key that could never verify, or that everybody could sign for, is named with its place in the list"""
    settings = SendGridSettings(provider="sendgrid", public_key=[PUBLIC, key])
    [problem] = SendGrid.problems(settings, "sources.main")
    assert problem.key == "sources.main.public_key (number 2)"
    assert "Public Key" in problem.right
    assert PRIVATE not in str(problem)


def test_no_key() -> None:
    """a source without a key is a problem, and one key may be written without a list"""
    assert SendGrid.problems(SendGridSettings(provider="sendgrid"), "x")
    one = SendGridSettings.model_validate({"provider": "sendgrid", "public_key": PUBLIC})
    assert not SendGrid.problems(one, "x")


# Identity


def test_retries_are_the_same_event() -> None:
    """a retry under another sg_event_id, its time perhaps as text, is the same event"""
    first = read(event()).identity
    assert read(event(sg_event_id="second")).identity == first
    assert read(event(timestamp="1795175943")).identity == first
    assert read(dict(reversed(event().items()))).identity == first


@pytest.mark.parametrize(
    "fields",
    [
        {"email": "grace@customer.example"},
        {"timestamp": 1795175944},
        {"event": "click"},
        {"sg_message_id": "abc.filter0001.16648.5515E0B88.1"},
        {"url": "https://shop.example/"},
        {"url_offset": {"index": 1, "type": "html"}},
        {"attempt": "2"},
        {"asm_group_id": 11},
        {"ip": "198.51.100.24"},
        {"useragent": "other"},
        {"type": "blocked"},
    ],
)
def test_other_events(fields: Mapping[str, Any]) -> None:
    """another address, time, word, message, link, place, attempt, group, client or kind is another event"""
    assert read(event(**fields)).identity != read(event()).identity


def test_identity_without_message_id() -> None:
    """an asynchronous bounce without sg_message_id is told from another by its smtp-id"""
    one, two = (read(event(sg_message_id=None, **{"smtp-id": f"<{number}@x>"})) for number in (1, 2))
    assert one.identity != two.identity
    assert (one.message_id, one.internet_message_id) == (None, "1@x")


@pytest.mark.parametrize("time", [None, "soon", {}, [], True, "", 1e300, -1e300])
def test_identity_without_time(time: object) -> None:
    """without a usable time the whole item counts, but for sg_event_id"""
    first = read(event(timestamp=time, custom=1))
    assert first.occurred_at is None
    assert read(event(timestamp=time, custom=1, sg_event_id="second")).identity == first.identity
    assert read(event(timestamp=time, custom=2)).identity != first.identity


# Reading


@pytest.mark.parametrize(
    ("raw", "message_id"),
    [
        ("14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0", "14c5d75ce93.dfd.64b469"),
        ("cVtO1zAoTTeWBJ3p2TzfQw.recvd-7bd9484584-qt86v-1-698B2E9F-D.0", "cVtO1zAoTTeWBJ3p2TzfQw"),
        ("rPDmsGbYSe.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0", "rPDmsGbYSe"),
        ("5lFl7Fr1Rjme_EyzNNB_5A.stfilter-015.5185.55F883172.0", "5lFl7Fr1Rjme_EyzNNB_5A"),
        (" 14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0", "14c5d75ce93.dfd.64b469"),
        ("abc", "abc"),
        ("abc.def", "abc"),
        (".filter", None),
        ("", None),
        (None, None),
        (["abc"], None),
    ],
)
def test_message_id(raw: object, message_id: str | None) -> None:
    """message_id is what the send call returned, whichever of SendGrid's servers wrote the rest"""
    assert read(event(sg_message_id=raw)).message_id == message_id


@pytest.mark.parametrize("word", ["open", "click", "unsubscribe", "group_unsubscribe", "group_resubscribe"])
def test_ip_of_a_person(word: str) -> None:
    """where a person acted `ip` is that person's"""
    found = read(event(event=word, ip="198.51.100.23"))
    assert (found.client_ip, found.sending_ip) == ("198.51.100.23", None)


@pytest.mark.parametrize("word", ["processed", "dropped", "delivered", "deferred", "bounce", "unheard_of"])
def test_ip_of_sendgrid(word: str) -> None:
    """elsewhere `ip` is the address that SendGrid sent from"""
    found = read(event(event=word, ip="192.0.2.40"))
    assert (found.client_ip, found.sending_ip) == (None, "192.0.2.40")


def test_custom_arguments_never_become_columns() -> None:
    """a custom argument with the name of one of our columns, or of a marketing field, is metadata"""
    mine = {"recipient": "x@y.example", "topic": "t", "template_id": "mine", "mc_auto_id": 1, "is_test": True}
    found = read(event(**mine))
    assert found.metadata == mine
    assert (found.recipient, found.topic, found.template_id, found.is_test) == (
        "ada@customer.example",
        None,
        None,
        False,
    )


def test_only_sample_messages_are_tests() -> None:
    """the console's sample is a test event; reserved names and a like address alone make none"""
    assert read(event(sg_message_id="14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0")).is_test
    assert read(event(sg_message_id=None, **{"smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>"})).is_test
    assert not read(event(email="example@test.com")).is_test
    assert not read(event(email="ada@example.org")).is_test
    assert not read(event(sg_message_id=None)).is_test


@pytest.mark.parametrize("flag", [False, None, "true", 1])
def test_only_sendgrids_true_is_a_machine(flag: object) -> None:
    """`sg_machine_open` other than true says nothing: the user agent decides"""
    assert read(event(sg_machine_open=flag)).actor is None


@pytest.mark.parametrize("body", ["null", "1", '"text"', "[1]", "true"])
async def test_items_that_are_no_objects(body: str) -> None:
    """an item that is no object is unreadable, and its neighbours are read"""
    provider = sendgrid()
    found = await provider.authenticate(signed(f"[{json.dumps(event())},{body},{json.dumps(event())}]".encode()))
    items = [item for item in provider.parse(found.payload) if isinstance(item, Item)]
    assert [len(provider.read(item)) for item in (items[0], items[2])] == [1, 1]
    with pytest.raises(Unreadable):
        provider.read(items[1])


@pytest.mark.parametrize("body", [b"", b"null", b"7", b'"text"', b"\xff\xfe", b"event=open"])
async def test_bodies_that_are_no_batch(body: bytes) -> None:
    """an authentic body that is neither array nor object is unreadable, or one unreadable item"""
    provider = sendgrid()
    found = await provider.authenticate(signed(body))
    with pytest.raises(Unreadable):
        list(provider.parse(found.payload))


# Simulation


def occurrence(number: int) -> Occurrence:
    return Occurrence(type=EventType.CLICKED, recipient=f"u{number}@customer.example", at=NOW, run="r", number=number)


async def test_simulated_batches() -> None:
    """the simulator posts as SendGrid does: line breaks between items, and bodies of at most 768 KB"""
    items = [SendGrid.simulation.sample(occurrence(number)) for number in range(3000)]
    posts = SendGrid.simulation.post(items, {"private_key": PRIVATE}, NOW)
    assert len(posts) > 1
    provider, count = sendgrid(), 0
    for post in posts:
        assert len(post.body) <= BATCH
        assert post.body.startswith(b"[{")
        assert post.body.endswith(b"}]\r\n")
        assert b"},\r\n{" in post.body
        delivery = Delivery(source="s", headers=post.headers, body=post.body)
        found = await provider.authenticate(delivery)
        count += len(list(provider.parse(found.payload)))
    assert count == 3000
