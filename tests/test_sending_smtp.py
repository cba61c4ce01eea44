"""SMTP with a real server: what each reply means, and the message as it arrives."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from receiver.sending.message import Attachment, Mailbox, Message
from receiver.sending.smtp import Settings, Smtp
from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent, Unknown
from tests.api_peer import RESET, Said, api_peer
from tests.ports import free_port
from tests.smtp_peer import DROP, Peer, smtp_peer
from tests.workers import true

SEND_ID = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")


def message(**changes: Any) -> Message:
    values: dict[str, Any] = {
        "send_id": SEND_ID,
        "message_id": f"{SEND_ID.hex}@shop.example",
        "sender": Mailbox("hello@shop.example", "Shöp"),
        "to": Mailbox("ann@example.com", "Ann"),
        "subject": "Grüße, and more",
        "text": "Hello.\n.\nA line with a dot stood alone.\n",
    }
    return Message(**values | changes)


def smtp(peer: Peer, **changes: Any) -> Smtp:
    values = {"transport": "smtp", "from": "hello@shop.example", "host": "127.0.0.1", "port": peer.port, "tls": "none"}
    return Smtp(Settings(**values | changes), command=5, final_dot=2)


async def outcome(peer: Peer, sent: Message | None = None, **changes: Any) -> Outcome:
    transport = smtp(peer, **changes)
    try:
        return await transport.send(sent or message())
    finally:
        await transport.aclose()


async def test_the_message_arrives_whole() -> None:
    """every part of a message arrives as it was given, Bcc in the envelope alone, and ids to come back by"""
    sent = message(
        html="<p>Hello <img src='cid:logo'></p>",
        cc=[Mailbox("cc@example.com")],
        bcc=[Mailbox("bcc@bücher.example")],
        reply_to=[Mailbox("help@shop.example")],
        headers={"X-Order": "17"},
        attachments=[
            Attachment("logo.png", "image/png", b"\x89PNG", "logo"),
            Attachment("a.pdf", "application/pdf", b"%P"),
        ],
        unsubscribe={
            "List-Unsubscribe": "<https://m.example/u/t>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
        feedback_id="welcome:news:marketing:shop",
    )
    async with smtp_peer() as peer:
        assert isinstance(await outcome(peer, sent), Sent)
        (mail,), (envelope,) = peer.taken, peer.envelopes
    assert envelope.rcpt_tos == ["ann@example.com", "cc@example.com", "bcc@xn--bcher-kva.example"]
    assert (mail["Subject"], str(mail["From"])) == ("Grüße, and more", "Shöp <hello@shop.example>")
    assert mail["Message-ID"] == f"<{SEND_ID.hex}@shop.example>"
    assert (mail["X-Send-Id"], mail["Auto-Submitted"], mail["X-Order"]) == (str(SEND_ID), "auto-generated", "17")
    assert (mail["List-Unsubscribe-Post"], mail["Bcc"]) == ("List-Unsubscribe=One-Click", None)
    parts = {part.get_content_type(): part for part in mail.walk()}
    assert parts["text/plain"].get_payload(decode=True) == b"Hello.\r\n.\r\nA line with a dot stood alone.\r\n"
    assert parts["image/png"]["Content-ID"] == "<logo>"
    assert parts["application/pdf"].get_payload(decode=True) == b"%P"
    assert [part.get_content_type() for part in mail.walk()][:3] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"rcpt": "550 5.1.1 <ann@example.com> no such user"}, (Rejected, True, 550, "5.1.1")),
        ({"rcpt": "450 4.2.1 try later"}, (Retry, "recipient")),
        ({"rcpt": "421 4.7.0 too much of it"}, (Retry, "account")),
        ({"mail": "550 5.7.1 sender not allowed"}, (Pause,)),
        ({"mail": "421 4.7.0 too many connections"}, (Retry, "account")),
        ({"mail": "451 4.3.0 local trouble"}, (Retry, "account")),
        ({"data": "552 5.3.4 too large"}, (Rejected, False, 552, None)),
        ({"data": "452 4.3.1 full"}, (Retry, "message")),
        ({"data": "421 closing"}, (Retry, "account")),
        ({"rcpt": DROP}, (Retry, "message")),
        ({"data": DROP}, (Unknown,)),
        ({"data": "OK, taken"}, (Unknown,)),
        ({"data": "252 2.0.0 perhaps"}, (Unknown,)),
    ],
    ids=str,
)
async def test_what_a_reply_means(script: dict[str, str], expected: tuple[Any, ...]) -> None:
    """a refusal concerns us, the recipient or the message, by the command it answers; none after the dot: unknown"""
    told: Any = {name: deque([said]) for name, said in script.items()}
    async with smtp_peer(Peer(**told)) as peer:
        found = await outcome(peer)
    match found:
        case Rejected():
            meant: tuple[Any, ...] = (Rejected, found.recipient, found.smtp_code, found.enhanced_code)
        case Retry():
            meant = (Retry, "account" if found.account else "recipient" if found.recipient else "message")
        case _:
            meant = (type(found),)
    assert meant == expected
    assert "ann@example.com" not in found.detail


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("550 5.7.1 sender not allowed", (Rejected, None)),
        ("451 4.1.8 domain not found", (Retry, False)),
        ("421 4.7.0 too many connections", (Retry, True)),
        ("530 5.7.0 authentication required", (Pause, None)),
    ],
)
async def test_a_sender_that_is_not_the_accounts(said: str, meant: tuple[type[Outcome], bool | None]) -> None:
    """a server that refuses a sender which a message brings along refuses that message, and not the account"""
    async with smtp_peer(Peer(mail=deque([said]))) as peer:
        found = await outcome(peer, message(sender=Mailbox("boss@other.example")))
    assert (type(found), getattr(found, "account", None)) == meant


async def test_a_server_that_closes_at_a_copy() -> None:
    """a 421 to a copy is about us, not about the copy: the message goes later, to all of them"""
    async with smtp_peer(Peer(rcpt=deque(["250 OK", "421 4.7.0 closing"]))) as peer:
        found = await outcome(peer, message(cc=[Mailbox("cc@example.com")]))
    assert isinstance(found, Retry)
    assert (found.account, peer.taken) == (True, [])


async def test_no_reply_in_time_is_unknown() -> None:
    """a server that takes the message and does not answer leaves the outcome unknown"""
    async with smtp_peer(Peer(hold=asyncio.Event())) as peer:
        assert isinstance(await outcome(peer), Unknown)


async def test_no_server_is_tried_again() -> None:
    """where nobody listens nothing was sent, so it is tried again"""
    assert isinstance(await outcome(Peer(port=free_port())), Retry)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("closes", [False, True])
async def test_a_password_is_rotated(closes: bool) -> None:  # noqa: FBT001 - pytest's
    """of two passwords the one that the server takes is used, also where it closes after the other; none: a pause"""
    async with smtp_peer(Peer(passwords={"the new one"}, closes=closes), authenticated=True) as peer:
        given: Any = {"username": "shop", "private": True}
        assert isinstance(await outcome(peer, password=["the old one", "the new one"], **given), Sent)
        assert isinstance(await outcome(peer, password=["the old one"], **given), Pause)
        assert isinstance(await outcome(peer, password=["an old one", "the old one"], **given), Pause)
    assert peer.logins == 5


@dataclass
class TokenPeer(Peer):
    """Takes these access tokens, and refuses others as Microsoft 365 does, after a challenge."""

    tokens: set[str] = field(default_factory=set)
    given: list[str] = field(default_factory=list)

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802 - aiosmtpd's
        name, token, *rest = b64decode(args[1]).decode().split("\1")
        assert (name, rest) == ("user=shop@contoso.example", ["", ""])
        self.given.append(token.removeprefix("auth=Bearer "))
        if self.given[-1] in self.tokens:
            return AuthResult(success=True)
        await server.challenge_auth('{"status": "401"}')
        return AuthResult(success=False, handled=False)


def token(name: str, seconds: float = 3600) -> Said:
    return Said(200, json.dumps({"token_type": "Bearer", "access_token": name, "expires_in": seconds}))


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_logging_in_with_an_access_token() -> None:
    """a token is fetched once and used until it nearly runs out; one that is refused is replaced once; then: pause"""
    peer = TokenPeer(tokens={"t1"})
    async with api_peer() as issuer, smtp_peer(peer, authenticated=True):
        oauth = {
            "private": True,
            "username": "shop@contoso.example",
            "token_url": f"{issuer.url}/t/oauth2/v2.0/token",
            "client_id": "c-1",
            "client_secret": ["old", "new"],
            "scope": "https://outlook.office365.com/.default",
        }
        transport = smtp(peer, connections=1, **oauth)

        async def again() -> Outcome:
            """On a new connection."""
            for kept in transport._idle:
                kept.client.close()
            return await transport.send(message())

        issuer.says(Said(401, '{"error": "invalid_client"}'), token("t1"))
        assert [type(await again()) for _ in range(2)] == [Sent, Sent]
        asked = [parse_qs(one.body.decode()) for one in issuer.asked]
        assert [one["client_secret"] for one in asked] == [["old"], ["new"]]
        assert (asked[1]["grant_type"], asked[1]["scope"]) == (["client_credentials"], [oauth["scope"]])

        peer.tokens = {"t2"}
        issuer.says(token("t2"))
        assert (type(await again()), peer.given) == (Sent, ["t1", "t1", "t1", "t2"])
        peer.tokens = set()
        assert (type(await again()), len(issuer.asked)) == (Pause, 4)
        peer.tokens = {"t3", "t4"}
        issuer.says(token("t3", 0), token("t4"))
        assert [type(await again()) for _ in range(2)] == [Sent, Sent]
        assert (peer.given[-2:], len(issuer.asked)) == (["t3", "t4"], 6)
        await transport.aclose()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (Said(400, '{"error": "invalid_scope"}'), Pause),
        (Said(429), Retry),
        (Said(503, "<html>"), Retry),
        (Said(200, '{"access_token": "a\\u0001b"}'), Retry),
        (RESET, Retry),
    ],
    ids=str,
)
async def test_no_access_token(said: Said | str, meant: type[Outcome]) -> None:
    """a refusal pauses the account, anything else is tried again, and no answer quotes a secret"""
    async with api_peer() as issuer, smtp_peer() as peer:
        issuer.says(said)
        oauth: dict[str, Any] = {"username": "u", "client_id": "c-1", "client_secret": "s-1", "private": True}
        found = await outcome(peer, token_url=issuer.url + "/t", **oauth)
    assert isinstance(found, meant)
    assert "s-1" not in found.detail
    assert peer.taken == []


async def test_connections_are_kept() -> None:
    """messages share a connection, also after a refused recipient; one that died meanwhile is replaced"""
    async with smtp_peer(Peer(rcpt=deque(["250 OK", "550 5.1.1 no", "250 OK"]))) as peer:
        transport = smtp(peer)
        found = [type(await transport.send(message())) for _ in range(3)]
        assert (found, peer.connections) == ([Sent, Rejected, Sent], 1)
        transport._idle[0].client.close()
        assert isinstance(await transport.send(message()), Sent)
        await transport.aclose()


@pytest.mark.parametrize("how", ["421 4.4.2 so many messages are enough", DROP])
async def test_a_kept_connection_that_the_server_ends(how: str) -> None:
    """a server may end a kept connection whenever it likes: the message goes over another one"""
    async with smtp_peer(Peer(mail=deque(["250 OK", how, "250 OK"]))) as peer:
        transport = smtp(peer)
        found = [type(await transport.send(message())) for _ in range(3)]
        await transport.aclose()
    assert (found, len(peer.taken), peer.connections) == ([Sent] * 3, 3, 2)


async def test_kept_connections_that_have_died_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """who waits for the first of them waits for no other"""
    monkeypatch.setattr("receiver.sending.smtp.KEPT", 0.3)
    peer = Peer()
    async with smtp_peer(peer) as peer:
        transport = smtp(peer)
        await asyncio.gather(*(transport.send(message()) for _ in range(3)))
        before, peer.silent = peer.connections, True
        sent = asyncio.create_task(transport.send(message()))
        await true(lambda: peer.waits == 1)
        peer.silent = False
        assert isinstance(await sent, Sent)
        assert (peer.connections, peer.waits) == (before + 1, 1)
        await transport.aclose()


async def test_where_to_leave_stands_in_plain_letters() -> None:
    """List-Unsubscribe is folded between its URLs and never encoded, however long they are; no header loses a blank"""
    url, mailto = f"<https://hooks.shop.example/u/{'a1B2' * 40}>", f"<mailto:leave+{'c3' * 30}@shop.example>"
    headers = {"X-Long": "word " * 40 + "x" * 200, "X-Colour": "grün " * 40}
    given = {"List-Unsubscribe": f"{url}, {mailto}", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    async with smtp_peer() as peer:
        await outcome(peer, message(unsubscribe=given, headers=headers))
        (mail,), (envelope,) = peer.taken, peer.envelopes
    content = envelope.content
    assert isinstance(content, bytes)
    assert f"List-Unsubscribe: {url},\r\n {mailto}\r\n".encode() in content
    assert (mail["X-Long"], mail["X-Colour"]) == (headers["X-Long"], headers["X-Colour"])
    head = content.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")
    assert [line for line in head if len(line) > 78 and len(line.split()) > 2] == []


async def test_a_template_of_a_provider_has_no_content() -> None:
    """what only a provider's API could fill is refused, and does not go out empty"""
    async with smtp_peer() as peer:
        found = await outcome(peer, message(template_id="welcome", text=None))
    assert isinstance(found, Rejected)
    assert (peer.taken, "template" in found.detail) == ([], True)


async def test_letters_outside_of_ascii() -> None:
    """an address with a local part outside of ASCII goes out as SMTPUTF8"""
    async with smtp_peer() as peer:
        assert isinstance(await outcome(peer, message(to=Mailbox("grüße@example.com"))), Sent)
        assert peer.envelopes[0].rcpt_tos == ["grüße@example.com"]


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "Hi\r\nBcc: everybody@example.com"},
        {"headers": {"X-A": "1\n2"}},
        {"headers": {"X A": "1"}},
        {"headers": {"bcc": "x@example.com"}},
        {"subject": "a" * 70 + "\x1fBcc: everybody@example.com"},
        {"subject": "a" * 998},
        {"headers": {"X-A": "a" * 995}},
        {"headers": {"Content-Language": "de"}},
        {"headers": {"x-send-id": "1"}},
        {"to": Mailbox},
        {"text": None},
    ],
    ids=str,
)
def test_nothing_breaks_out_of_a_header(changes: dict[str, Any]) -> None:
    """line breaks, headers that other fields make, and a message without content are refused when it is made"""
    if changes.get("to") is Mailbox:
        with pytest.raises(ValueError, match="line break"):
            Mailbox("a@example.com", "Ann\r\nBcc: b@example.com")
        return
    with pytest.raises(
        ValueError, match=r"line break|longer than|name of a header|made from other fields|needs a text"
    ):
        message(**changes)
