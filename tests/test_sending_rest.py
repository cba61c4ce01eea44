"""The providers' APIs: what goes over the wire, and what each answer means, with a real HTTP server."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import SMTP
from email.utils import getaddresses
from importlib import import_module
from typing import Any

import pytest

from receiver.sending import api, sigv4
from receiver.sending.message import Attachment, Mailbox, Message
from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent, Transport, Unknown
from tests.api_peer import RESET, RUBBISH, ApiPeer, Asked, Said, api_peer
from tests.ports import free_port
from tests.test_sending_smtp import SEND_ID, message

KEYS: Mapping[str, Mapping[str, Any]] = {
    "sendgrid": {"api_key": ["old-key", "new-key"]},
    "mailgun": {"api_key": ["old-key", "new-key"]},
    "postmark": {"server_token": ["old-key", "new-key"]},
    "resend": {"api_key": ["old-key", "new-key"]},
    "ses": {"access_key_id": ["old-key", "new-key"], "secret_access_key": ["a", "b"], "region": "eu-west-1"},
}
NAMES = sorted(KEYS)
TAKEN = {
    "sendgrid": Said(202, "", {"x-message-id": "id-1"}),
    "mailgun": Said(200, '{"id": "<id-1>", "message": "Queued"}'),
    "postmark": Said(200, '{"ErrorCode": 0, "MessageID": "id-1"}'),
    "resend": Said(200, '{"id": "id-1"}'),
    "ses": Said(200, '{"MessageId": "id-1"}'),
}
WHOLE = message(
    html="<p>Hello <img src='cid:logo'></p>",
    cc=[Mailbox("cc@example.com")],
    bcc=[Mailbox("bcc@example.com")],
    reply_to=[Mailbox("help@shop.example", "Help")],
    headers={"X-Order": "17"},
    attachments=[
        Attachment("logo.png", "image/png", b"\x89PNG", "logo"),
        Attachment("a.pdf", "application/pdf", b"%P"),
    ],
    tags=["welcome"],
    metadata={"order": "17"},
    unsubscribe={"List-Unsubscribe": "<https://m.example/u/t>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    feedback_id="welcome:news:marketing:shop",
    stream="marketing",
)


def transport(name: str, url: str) -> Transport:
    module: Any = import_module(f"receiver.sending.{name}")
    settings = {"transport": name, "from": "hello@shop.example", "private": True, "url": url, **KEYS[name]}
    opened: Transport = module.open(module.Settings.model_validate(settings))
    return opened


async def outcome(name: str, peer: ApiPeer, sent: Message | None = None) -> Outcome:
    opened = transport(name, peer.url)
    try:
        return await opened.send(sent or message())
    finally:
        await opened.aclose()


def read_form(asked: Asked) -> dict[str, list[str]]:
    """The fields of a multipart form, by an independent parser: values, and names of files."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    fields: dict[str, list[str]] = {}
    for part in message_from_bytes(head + asked.body, policy=SMTP).iter_parts():
        content: Any = part.get_payload(decode=True)
        name = str(part.get_param("name", header="content-disposition"))
        fields.setdefault(name, []).append(part.get_filename() or content.decode())
    return fields


@pytest.mark.parametrize("name", NAMES)
async def test_the_whole_message_goes_over_the_wire(name: str) -> None:
    """recipients, parts, files, headers, tags and our id are in the request, and the provider's id in the outcome"""
    async with api_peer() as peer:
        peer.says(TAKEN[name])
        assert await outcome(name, peer, WHOLE) == Sent(provider_message_id="id-1")
        (asked,) = peer.asked
    told = json.dumps(read_form(asked)) if name == "mailgun" else asked.body.decode()
    if name == "ses":
        given = json.loads(told)
        assert given["Destination"]["BccAddresses"] == ["bcc@example.com"]
        assert {"Name": "send_id", "Value": str(SEND_ID)} in given["EmailTags"]
        raw = b64decode(given["Content"]["Raw"]["Data"])
        mail = message_from_bytes(raw, policy=SMTP)
        assert (mail["Bcc"], mail["List-Unsubscribe-Post"], mail["X-Order"]) == (
            None,
            "List-Unsubscribe=One-Click",
            "17",
        )
        return
    parts = (
        "ann@example.com",
        "cc@example.com",
        "bcc@example.com",
        "help@shop.example",
        "X-Order",
        "logo.png",
        "a.pdf",
    )
    missing = [one for one in parts if one not in told and (name, one) != ("mailgun", "logo.png")]
    ours = ("List-Unsubscribe-Post", "Auto-Submitted", "welcome", str(SEND_ID), "Feedback-ID")
    assert [*missing, *(one for one in ours if one not in told)] == []


@pytest.mark.parametrize("name", NAMES)
async def test_a_template_that_the_provider_keeps(name: str) -> None:
    """its id and the values for it are in the request, and no content that would take its place"""
    async with api_peer() as peer:
        peer.says(TAKEN[name])
        sent = message(template_id="welcome", data={"NAME": "Annabel"}, text=None)
        assert isinstance(await outcome(name, peer, sent), Sent)
        (asked,) = peer.asked
    told = json.dumps(read_form(asked)) if name == "mailgun" else asked.body.decode()
    assert [one for one in ("welcome", "Annabel", "NAME", str(SEND_ID)) if one not in told] == []
    assert not any(one in told for one in ('"text"', '"Raw"', "TextBody", '"content"'))


@pytest.mark.parametrize("name", NAMES)
async def test_names_and_addresses_of_all_kinds(name: str) -> None:
    """a local part outside of ASCII and a name with quotes arrive as they are, and a domain in ASCII"""
    async with api_peer() as peer:
        peer.says(TAKEN[name])
        sent = message(to=Mailbox("änn@bücher.example", 'Ann "the \\ Great" <x@y>, Dr.'))
        assert isinstance(await outcome(name, peer, sent), Sent)
        (asked,) = peer.asked
    if name == "mailgun":
        (told,) = read_form(asked)["to"]
    else:
        told = json.dumps(json.loads(asked.body), ensure_ascii=False)
    assert "änn@xn--bcher-kva.example" in told
    if name in ("mailgun", "postmark", "resend"):
        address = json.loads(asked.body) if name != "mailgun" else {"to": told}
        (box,) = getaddresses([address["to"][0] if name == "resend" else address.get("To") or address["to"]])
        assert box == ('Ann "the \\ Great" <x@y>, Dr.', "änn@xn--bcher-kva.example")


@pytest.mark.parametrize("field", ["to", "sender", "cc", "bcc", "reply_to"])
def test_an_address_that_cannot_be_written(field: str) -> None:
    """a message with a domain that has no form in ASCII is not made, and the error does not name it"""
    wrong = Mailbox("ann@-bü\u2024cher.example")
    with pytest.raises(ValueError, match="domain") as raised:
        message(**{field: wrong if field in ("to", "sender") else [wrong]})
    assert "cher" not in str(raised.value)


@pytest.mark.parametrize(("name", "field"), [("mailgun", "id"), ("postmark", "MessageID"), ("resend", "id")])
async def test_an_answer_that_cannot_be_kept(name: str, field: str) -> None:
    """a message that a provider took is sent, also where the id it gives is none, or no text that can be stored"""
    async with api_peer() as peer:
        for given, kept in (("m\0", "m\ufffd"), ([], None)):
            peer.says(Said(200, json.dumps({field: given, "ErrorCode": []})))
            assert await outcome(name, peer) == Sent(provider_message_id=kept)


async def test_mailgun_gets_a_form() -> None:
    """Mailgun's fields, of which some are there several times"""
    async with api_peer() as peer:
        peer.says(TAKEN["mailgun"])
        await outcome("mailgun", peer, WHOLE)
        fields = read_form(peer.asked[0])
    assert peer.asked[0].path == "/v3/shop.example/messages"
    assert (fields["attachment"], fields["inline"], fields["o:tag"]) == (["a.pdf"], ["logo"], ["welcome"])
    assert (fields["h:Message-Id"], fields["v:send_id"]) == ([f"<{SEND_ID.hex}@shop.example>"], [str(SEND_ID)])


@pytest.mark.parametrize("name", NAMES)
async def test_what_an_answer_means(name: str) -> None:
    """busy and broken: later; refused: never; no answer after the request: unknown, but where a repetition is known"""
    lost = Retry if name == "resend" else Unknown
    wanted: list[tuple[Said | str, type[Outcome]]] = [
        (Said(429, "{}", {"retry-after": "7"}), Retry),
        (Said(500), Retry),
        (Said(503, "<html>", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}), Retry),
        (Said(504), lost),
        (Said(401), Pause),
        (Said(403), Pause),
        (Said(400), Rejected),
        (Said(413, "[1, 2"), Rejected),
        (RESET, lost),
        (RUBBISH, lost),
    ]
    async with api_peer() as peer:
        for said, meant in wanted:
            peer.says(said)
            found = await outcome(name, peer)
            assert isinstance(found, meant), (said, found)
            if isinstance(said, Said) and said.status == 429:
                assert isinstance(found, Retry)
                assert (found.after, found.account) == (timedelta(seconds=7), True)
    nobody = ApiPeer(port=free_port())
    assert isinstance(await outcome(name, nobody), Retry)


@pytest.mark.parametrize("name", NAMES)
async def test_keys_are_rotated(name: str) -> None:
    """where a key is refused the other one is tried, and used from then on; connections are kept"""
    async with api_peer() as peer:
        peer.says(Said(401), TAKEN[name])
        opened = transport(name, peer.url)
        assert [type(await opened.send(message())) for _ in range(2)] == [Sent, Sent]
        await opened.aclose()
        used = [asked.headers.get("authorization") or asked.headers["x-postmark-server-token"] for asked in peer.asked]
        assert len(used) == 3
        assert peer.connections == 1
    same = [one.partition("Signature")[0] for one in used]
    assert (same[0] != same[1], same[1] == same[2]) == (True, True)


@pytest.mark.parametrize(
    ("name", "said", "meant"),
    [
        ("postmark", Said(422, '{"ErrorCode": 406, "Message": "inactive ann@example.com"}'), Rejected),
        ("postmark", Said(422, '{"ErrorCode": 412, "Message": "pending approval"}'), Pause),
        ("postmark", Said(422, '{"ErrorCode": 300, "Message": "invalid"}'), Rejected),
        ("postmark", Said(429, '{"ErrorCode": 429, "Message": "rate limit"}'), Retry),
        ("postmark", Said(503, '{"ErrorCode": 100, "Message": "maintenance"}'), Retry),
        ("resend", Said(409, '{"name": "concurrent_idempotent_requests"}'), Retry),
        ("resend", Said(409, '{"name": "invalid_idempotent_request"}'), Unknown),
        ("resend", Said(422, '{"name": "invalid_from_address"}'), Pause),
        ("ses", Said(400, "{}", {"x-amzn-errortype": "MailFromDomainNotVerifiedException:http://x/"}), Pause),
        ("ses", Said(400, "{}", {"x-amzn-errortype": "TooManyRequestsException"}), Retry),
        ("ses", Said(400, "{}", {"x-amzn-errortype": "MessageRejected"}), Rejected),
    ],
    ids=str,
)
async def test_what_providers_say_in_their_own_words(name: str, said: Said, meant: type[Outcome]) -> None:
    """a provider's own code tells what a refusal is about, and no answer quotes an address"""
    async with api_peer() as peer:
        peer.says(said)
        found = await outcome(name, peer)
    assert isinstance(found, meant)
    assert "ann@" not in found.detail


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sendgrid", Said(403, '{"errors": [{"message": "not a verified Sender Identity", "field": "from"}]}')),
        ("postmark", Said(422, '{"ErrorCode": 400, "Message": "no sender signature"}')),
        ("postmark", Said(422, '{"ErrorCode": 401, "Message": "not confirmed"}')),
        ("resend", Said(422, '{"name": "invalid_from_address"}')),
        ("resend", Said(403, '{"name": "validation_error"}')),
        ("ses", Said(400, "{}", {"x-amzn-errortype": "MailFromDomainNotVerifiedException"})),
        ("ses", Said(403, "{}", {"x-amzn-errortype": "AccessDeniedException"})),
    ],
    ids=str,
)
async def test_whose_sender_is_refused(name: str, said: Said) -> None:
    """where it is not the account's own the message is refused; for its own, or its key, the account is paused"""
    other = message(sender=Mailbox("boss@other.example"))
    async with api_peer() as peer:
        peer.says(said)
        own = message(sender=Mailbox("Hello@SHOP.example", "Shop"))
        assert [type(await outcome(name, peer, one)) for one in (own, other)] == [Pause, Rejected]
        peer.says(Said(401))
        assert isinstance(await outcome(name, peer, other), Pause)


async def test_a_template_that_is_not_there() -> None:
    """a message by a template that SES does not know has failed; with no configuration set nothing can be sent"""
    async with api_peer() as peer:
        peer.says(Said(404, "{}", {"x-amzn-errortype": "NotFoundException"}))
        found = [type(await outcome("ses", peer, message(template_id=name))) for name in ("welcome", "")]
    assert found == [Rejected, Pause]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "Thu, 26 Nov 2026 12:00:30 GMT"}, 30),
        ({"ratelimit-reset": "2", "retry-after": "1"}, 2),
        ({"x-ratelimit-reset": "1795694420"}, 20),
        ({"x-sib-ratelimit-reset": "600"}, 600),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e9"}, None),
        ({"x-ratelimit-reset": "999999999"}, 3600),
    ],
    ids=str,
)
def test_the_wait_that_a_provider_asks_for(headers: Mapping[str, str], seconds: float | None) -> None:
    """each provider's header is understood, the longest counts, and nonsense does not let us wait for ever"""
    found = api.wait_of(headers, datetime(2026, 11, 26, 12, tzinfo=UTC))
    assert found == (None if seconds is None else timedelta(seconds=seconds))


def test_a_signature_is_amazons() -> None:
    """the signing key that Amazon's document derives for its own example, and a request's signature by it"""
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, key derivation.
    key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    for part in ("20150830", "us-east-1", "iam", "aws4_request"):
        key = sigv4._mac(key, part)
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    credentials = sigv4.Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    now = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
    url = "https://email.us-east-1.amazonaws.com/v2/email/outbound-emails"
    signed = sigv4.sign("POST", url, b"{}", credentials, "us-east-1", "ses", now)
    scope = "Credential=AKIDEXAMPLE/20150830/us-east-1/ses/aws4_request"
    assert scope in signed["authorization"]
    assert "SignedHeaders=content-type;host;x-amz-date" in signed["authorization"]
    other = sigv4.sign("POST", url, b"{ }", credentials, "us-east-1", "ses", now)
    assert other["authorization"] != signed["authorization"]
