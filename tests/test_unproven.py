"""What reading an unproven body costs, counted in steps of the interpreter, not in seconds.

A body of sixteen times the size must not cost more steps: what is left to its length is done outside the interpreter,
in one pass.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import pytest

from receiver.contract import Authentic, Item, UnreadableItem
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.signers import in_body
from tests.provider_fixtures import Fixture, folder, read_delivery

KEY: Final = "0c6d7e8f90a1b2c3d4e5f60718293a4b"
AT: Final = int(folder("mailgun").now.timestamp())
SMALL: Final = 256 * 1024
LARGE: Final = 4 << 20
MOST: Final = 600_000  # some lines for each bracket of 64 kB that are searched in the interpreter

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data; boundary=x"


def steps(run: Callable[[], object]) -> int:
    """How many lines the interpreter executes; each turn of a loop counts, the work of compiled code does not."""
    count = 0

    def line(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def authenticated(fixture: Fixture) -> Authentic | Refused:
    """What the provider says; it waits for nothing here."""
    waiting = fixture.folder.provider().authenticate(fixture.delivery()).__await__()
    try:
        next(waiting)
    except StopIteration as stop:
        found: Authentic = stop.value
        return found
    except Refused as refusal:
        return refusal
    raise AssertionError("it waits for something")


def parts(head: bytes, size: int) -> bytes:
    part = b"\r\n--x\r\n" + head + b"\r\n\r\n"
    return part * min(size // len(part), 999)


def filled(text: bytes, size: int) -> bytes:
    return text * (size // len(text))


# Each makes a body of about so many bytes.
BODIES: Final[dict[str, tuple[str, Callable[[int], bytes]]]] = {
    "members": (JSON, lambda size: b"{" + filled(b'"k":0,', size) + b'"z":0}'),
    "members, no JSON": (JSON, lambda size: b"{" + filled(b'"k":0,', size) + b"}"),
    "many signatures": (JSON, lambda size: b"{" + filled(b'"signature":{},', size) + b'"z":0}'),
    "many signatures, no JSON": (JSON, lambda size: b"{" + filled(b'"signature":{},', size) + b"}"),
    "deep arrays": (JSON, lambda size: b"[" * size),
    "deep objects": (JSON, lambda size: filled(b'{"signature":', size)),
    "many arrays, no JSON": (JSON, lambda size: b'{"event-data":' + filled(b"[],", size)),
    "one string": (JSON, lambda size: b'{"event-data":"' + b"a" * size),
    "escapes": (JSON, lambda size: b'{"event-data":"' + filled(rb"\\", size)),
    "many strings, no JSON": (JSON, lambda size: b"{" + filled(b'"",', size)),
    "one number": (JSON, lambda size: b'{"event-data":' + b"9" * size + b"}"),
    "a huge token": (JSON, lambda size: b'{"signature":{"token":"%s","signature":"ab"}}' % (b"a" * size)),
    "distinct members": (JSON, lambda size: b"{%s}" % b",".join(b'"%06d":""' % number for number in range(size // 12))),
    "NUL characters": (JSON, lambda size: b'{"event-data":[' + filled(rb'"\u0000",', size) + b"0]}"),
    "NaN": (JSON, lambda size: b'{"event-data":[' + filled(b"NaN,", size) + b"0]}"),
    "fields": (FORM, lambda size: filled(b"a=b&", size)),
    "escaped field": (FORM, lambda size: b"token=" + filled(b"%41", size)),
    "escaped name": (FORM, lambda size: filled(b"%41", size) + b"=1"),
    "tokens": (FORM, lambda size: filled(b"token=%s&" % (b"%41" * (size // 3000)), size - 9)),
    "parts": (MULTIPART, lambda size: filled(b"\r\n--x", size)),
    "part with a huge value": (MULTIPART, lambda size: parts(b'A: ;name="token"', 1) + b"a" * size),
    "parts with huge names": (MULTIPART, lambda size: parts(b'A: ;name="' + b"a" * (size // 1100) + b'"', size)),
    "parts with odd headers": (MULTIPART, lambda size: parts(b"A:" + b"; " * (size // 2200), size)),
    "line ends": (MULTIPART, lambda size: filled(b"\r\n--", size)),
}


def mailgun(body: bytes, content_type: str = JSON) -> Fixture:
    return Fixture(folder=folder("mailgun"), name="x", headers={"content-type": content_type}, body=body, expected={})


def ses(body: bytes) -> Fixture:
    return Fixture(folder=folder("ses"), name="x", headers={"content-type": "text/plain"}, body=body, expected={})


def cost(fixture: Fixture) -> int:
    found: list[object] = []
    count = steps(lambda: found.append(authenticated(fixture)))
    assert isinstance(found[0], Refused)
    return count


@pytest.mark.parametrize("name", BODIES)
def test_an_unsigned_body_costs_no_more_steps_for_being_large(name: str) -> None:
    """an adversary's body of 4 MB is refused after no more steps than one of 256 kB"""
    content_type, body = BODIES[name]
    small, large = (cost(mailgun(body(size), content_type)) for size in (SMALL, LARGE))
    assert large <= small * 1.05 + 6000  # lines for the 1000 fields that a form may have
    assert large < MOST


@pytest.mark.parametrize("name", [name for name in BODIES if BODIES[name][0] == JSON])
def test_an_unsigned_sns_message_costs_no_more_steps_for_being_large(name: str) -> None:
    """the same holds for what claims to be a message of Amazon SNS"""
    _, body = BODIES[name]
    assert cost(ses(body(LARGE))) < 1000


@pytest.mark.parametrize(("name", "content_type"), [("zeptomail", JSON), ("socketlabs", FORM)])
@pytest.mark.parametrize("escape", [b"%41", b"%zz", b"%\n"])
def test_an_unsigned_form_costs_no_more_steps_for_its_escapes(name: str, content_type: str, escape: bytes) -> None:
    """a stranger's escapes, right or wrong, are undone outside the interpreter"""

    def form(size: int) -> Fixture:
        here = folder(name)
        signature = {"producer-signature": "ts=1;s=AAAA;s-algorithm=HmacSHA256", "content-type": content_type}
        return Fixture(folder=here, name="x", headers=signature, body=b"a=" + filled(escape, size), expected={})

    cost(form(SMALL))  # what is made once, when first needed, is not the body's cost
    assert cost(form(LARGE)) < 1000


@pytest.mark.parametrize("name", [name for name in BODIES if BODIES[name][0] == JSON])
def test_a_captured_signature_makes_a_large_body_no_dearer(name: str) -> None:
    """Mailgun's signature covers no body: with a captured one, an adversary's JSON costs no steps for its size"""
    _, body = BODIES[name]

    def signed(size: int) -> Fixture:
        return mailgun(b'{"signature":%s,"event-data":%s}' % (block(), body(size)))

    bodies = signed(SMALL), signed(LARGE)
    small, large = steps(lambda: read(bodies[0])), steps(lambda: read(bodies[1]))
    assert large <= small * 1.05 + 100
    assert large < MOST


def block() -> bytes:
    return json.dumps(in_body.mailgun(KEY, AT)).encode()


def read(fixture: Fixture) -> list[Item | UnreadableItem]:
    """The items of a signed body, each read."""
    provider = fixture.folder.provider()
    found = authenticated(fixture)
    assert isinstance(found, Authentic)
    items = list(provider.parse(found.payload))
    for item in items:
        if isinstance(item, Item) and isinstance(item.value, dict):
            provider.read(item)
    return items


# What is documented, or merely odd, is taken whatever its size. ----------------------------------------------------


async def test_a_large_event_is_an_event() -> None:
    """an event of 3 MB, with its signature before it or behind it, is read"""
    event = {"event": "opened", "timestamp": AT, "recipient": "ann@one.test", "user-variables": {"v": "é" * 1_500_000}}
    text = json.dumps(event, ensure_ascii=False).encode()
    first, last = b'{"signature":%s,"event-data":%s}', b'{"event-data":%s,"signature":%s}'
    for body in (first % (block(), text), last % (text, block())):
        readings, unreadable = await read_delivery(folder("mailgun").provider(), mailgun(body).delivery())
        assert ([one.type for one in readings], unreadable) == ([EventType.OPENED], 0)


async def test_a_forwarded_message_of_three_megabytes_is_read() -> None:
    """a forwarded message with 300 headers and 3 MB of text and attachments is read, from both kinds of form"""
    signature = in_body.mailgun(KEY, AT)
    headers = {f"X-Header-{number}": "v" * 50 for number in range(300)}
    fields = {"recipient": "ann@one.test", "sender": "bob@two.test", "body-plain": "ü " * 500_000} | headers | signature
    head = '\r\n--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}'
    text = "".join(head.format(key, value) for key, value in fields.items())
    file = head.format('attachment-1"; filename="a.bin', "").encode() + bytes(1_500_000)
    multipart = text.encode() + file + b"\r\n--x--\r\n"
    plain = "&".join(f"{key}={value.replace(' ', '+')}" for key, value in fields.items()).encode()
    for content_type, body in ((MULTIPART, multipart), (FORM, plain)):
        readings, _ = await read_delivery(folder("mailgun").provider(), mailgun(body, content_type).delivery())
        assert [(one.type, one.recipient) for one in readings] == [(EventType.INBOUND, "ann@one.test")]


def test_a_large_signed_body_that_is_no_json_is_set_aside_whole() -> None:
    """signed, but no JSON, and too large to be cut apart: not refused, kept as it is"""
    body = b'{"signature":%s,"event-data":{"x":%s}}' % (block(), b"NaN," * 100_000)
    (item,) = read(mailgun(body))
    assert isinstance(item, UnreadableItem)
    assert item.body == body


def test_a_form_of_too_many_fields_is_refused() -> None:
    """a form has at most 1000 fields, and one at the limit is read"""
    rest = "&".join(f"{key}={value}" for key, value in in_body.mailgun(KEY, AT).items())
    assert read(mailgun(("a=b&" * 997 + rest).encode(), FORM))
    found = authenticated(mailgun(("a=b&" * 998 + rest).encode(), FORM))
    assert isinstance(found, Refused)
    assert found.reason is Reason.MISSING_FIELD


def test_parts_of_a_form_are_bounded() -> None:
    """a multipart form has at most 1000 parts with headers of at most 4096 bytes; one at the limits is read."""

    def form(others: int, head: int) -> Fixture:
        name = b'Content-Disposition: form-data; name="%s"'
        fields = in_body.mailgun(KEY, AT) | {"event": "opened"}
        body = [(name % key.encode(), value.encode()) for key, value in fields.items()]
        body += [((name % b"a").ljust(head), b"")] * others
        return mailgun(b"".join(b"\r\n--x\r\n%s\r\n\r\n%s" % part for part in body) + b"\r\n--x--\r\n", MULTIPART)

    assert read(form(996, 100))
    assert read(form(1, 4094))  # with the line end before it
    for too_much in (form(997, 100), form(1, 4095)):
        found = authenticated(too_much)
        assert isinstance(found, Refused)
        assert found.reason is Reason.MISSING_FIELD
