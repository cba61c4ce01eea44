"""Asks providers whether they have taken a message: for those of which no answer came.

| provider | what is looked through | document, seen 2026-11 |
|---|---|---|
| Mailgun | events, by the Message-Id, which is ours | https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/events |
| Postmark | messages, by our id in the metadata | https://postmarkapp.com/developer/api/messages-api |
| SendGrid | the recipient's messages, each with our id | https://www.twilio.com/docs/sendgrid/api-reference/email-logs |

Amazon SES and Resend find a message by their own id of it alone, which is what has not arrived, and SMTP has no such
question.
"""  # noqa: E501 - addresses cannot be broken

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, urlencode
from uuid import UUID

from receiver.sending import mailgun, postmark, sendgrid
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import SEND_ID
from receiver.sending.list_client import ListClient, ListFault
from receiver.sending.message import wire_address
from receiver.sending.provider_lists import MailgunLists, PostmarkLists, SendGridLists

SKEW: Final = timedelta(minutes=5)  # between our clock and theirs
_LOOKED_THROUGH: Final = 20  # messages to one person within an hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A message that a provider may have. `message_id`: without angle brackets. `begun_at`: when it was told."""

    send_id: UUID
    message_id: str
    address: str
    stream: str
    begun_at: datetime


class Found(NamedTuple):
    """The provider has taken it. `message_id`: what its webhooks call it."""

    message_id: str | None


class Finder(Protocol):
    """Asks through one account. `per_minute`: how many questions are polite."""

    provider: str
    per_minute: int
    client: ListClient

    async def find(self, lost: Lost) -> Found | None:
        """None: the provider does not know it, perhaps not yet. Raises ListFault where it does not say."""
        ...


class MailgunFinder:
    """Needs an API key: a sending key may not read events."""

    provider = "Mailgun"
    per_minute = 20

    def __init__(self, settings: mailgun.Settings) -> None:
        self._domain = settings.sending_domain or settings.domain
        self.client = MailgunLists(settings).client

    async def find(self, lost: Lost) -> Found | None:
        begin = int((lost.begun_at - SKEW).timestamp())
        query = urlencode({"message-id": lost.message_id, "begin": begin, "ascending": "yes", "limit": 100})
        rows = _rows(await self.client.call("GET", f"/v3/{self._domain}/events?{query}"), "items")
        ours = [row for row in rows if _message_id(row) == lost.message_id]
        if rows and not ours:
            raise ListFault("Mailgun's answer is about other messages")
        return Found(lost.message_id) if any(row.get("event") != "rejected" for row in ours) else None


class PostmarkFinder:
    """Looks in the stream that the message went through."""

    provider = "Postmark"
    per_minute = 20

    def __init__(self, settings: postmark.Settings) -> None:
        self._settings = settings
        self.client = PostmarkLists(settings).client

    async def find(self, lost: Lost) -> Found | None:
        marketing = lost.stream == "marketing"
        stream = self._settings.marketing_stream if marketing else self._settings.transactional_stream
        asked = {"count": 5, "offset": 0, "messagestream": stream, f"metadata_{SEND_ID}": str(lost.send_id)}
        rows = _rows(await self.client.call("GET", f"/messages/outbound?{urlencode(asked)}"), "Messages")
        for row in rows:
            if _object(row.get("Metadata")).get(SEND_ID) == str(lost.send_id):
                return Found(_text(row.get("MessageID")))
        if rows:
            raise ListFault("Postmark's answer is about other messages")
        return None


class SendGridFinder:
    """Its log cannot be searched by our id: it is in each message of the log. Needs a key that may read the log."""

    provider = "SendGrid"
    per_minute = 6

    def __init__(self, settings: sendgrid.Settings) -> None:
        self.client = SendGridLists(settings).client

    async def find(self, lost: Lost) -> Found | None:
        asked = {"query": _query(lost), "limit": _LOOKED_THROUGH}
        rows = _rows(await self.client.call("POST", "/v3/logs", asked), "messages")
        for row in rows:
            raw = _text(row.get("sg_message_id")) or ""
            one = _object(await self.client.call("GET", f"/v3/logs/{quote(raw, safe='')}", missing=True))
            if _object(one.get("custom_args")).get(SEND_ID) == str(lost.send_id):
                return Found(x_message_id(raw))
        if len(rows) == _LOOKED_THROUGH:
            raise ListFault("SendGrid's log has too many messages to the same person")
        return None


def can_be_asked(settings: AccountSettings) -> bool:
    """Whether the provider of an account can say what it has taken."""
    return type(settings) in _FINDERS


def finder_of(settings: AccountSettings) -> Finder:
    """What asks the provider of such an account, once for each question; its client is to be closed."""
    finder = _FINDERS[type(settings)](settings)
    finder.client.tries = 1
    return finder


def x_message_id(raw: str) -> str:
    """What the answer to the request would have called it: `sg_message_id` without what SendGrid appends."""
    head = re.split(r"\.recvd|\.filter", raw, maxsplit=1)[0]
    return head if head != raw else raw.partition(".")[0]


def _query(lost: Lost) -> str:
    """The question in SendGrid's language. Raises ListFault for an address that cannot be quoted in it."""
    address = wire_address(lost.address)
    if not {"'", '"', "\\"}.isdisjoint(address):
        raise ListFault("an address with quotes cannot be asked for")
    begin, end = (f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for at in _window(lost))
    created = "sg_message_id_created_at"
    return f'to_email = \'{address}\' AND {created} >= TIMESTAMP "{begin}" AND {created} <= TIMESTAMP "{end}"'


def _window(lost: Lost) -> tuple[datetime, datetime]:
    return lost.begun_at - SKEW, lost.begun_at + timedelta(hours=1)


def _message_id(row: dict[str, Any]) -> str:
    found = _object(_object(row.get("message")).get("headers")).get("message-id")
    return (_text(found) or "").strip("<>")


def _rows(found: Any, name: str) -> list[dict[str, Any]]:
    """Raises ListFault for an answer of another shape: it must not pass for "not found"."""
    rows = _object(found).get(name)
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise ListFault("the provider's answer is not of the shape that its document shows")
    return rows


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


_FINDERS: Final[Mapping[type[AccountSettings], Callable[[Any], Finder]]] = {
    mailgun.Settings: MailgunFinder,
    postmark.Settings: PostmarkFinder,
    sendgrid.Settings: SendGridFinder,
}
