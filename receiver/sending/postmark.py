"""Postmark: POST /email, or /email/withTemplate.

Documents: https://postmarkapp.com/developer/api/email-api and .../api/overview#error-codes (seen 2026-11).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from pydantic import Field, SecretStr

from receiver.contract import Secrets
from receiver.outbound import Answer
from receiver.payload import integer, text
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import SEND_ID, Api, base64_of, boxed, encode, json_of
from receiver.sending.message import Message
from receiver.sending.mime import headers_of
from receiver.sending.rotation import Keys
from receiver.sending.transport import Outcome, Pause, Rejected, Sent

URL: Final = "https://api.postmarkapp.com"
_INACTIVE: Final = 406  # the recipient is on Postmark's list of suppressions
_OURS: Final = frozenset([10, 405, 412, 413])  # token, credits, account under review
_SENDER: Final = frozenset([400, 401])  # its signature is not there, or not confirmed


class Settings(AccountSettings):
    """A server at Postmark."""

    server_token: Secrets = Field(min_length=1, description="the server's API token(s)")
    marketing_stream: str = Field("broadcast", description="id of the message stream for marketing mail")
    transactional_stream: str = Field("outbound", description="id of the message stream for transactional mail")
    url: str = Field(URL, description="the API's address")


class Postmark:
    """Sends through one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys(settings.server_token)
        self._api = Api(settings.url, settings)

    async def send(self, message: Message) -> Outcome:
        """Hand the message over."""
        path = "/email/withTemplate" if message.template_id else "/email"
        url = f"{self._settings.url.rstrip('/')}{path}"
        marketing = message.stream == "marketing"
        stream = self._settings.marketing_stream if marketing else self._settings.transactional_stream
        body, judge = encode(payload(message, stream)), partial(_judge, self._settings, message)

        async def attempt(key: SecretStr) -> Outcome:
            headers = {
                "x-postmark-server-token": key.get_secret_value(),
                "content-type": "application/json",
                "accept": "application/json",
            }
            return await self._api.post(url, body, headers, read=_read, judge=judge)

        return await self._keys.use(attempt)

    async def aclose(self) -> None:
        """Close connections."""
        await self._api.aclose()


def open(settings: Settings) -> Postmark:  # noqa: A001 - what every transport's file calls it
    """The transport of one account; does not connect yet."""
    return Postmark(settings)


def payload(message: Message, stream: str) -> dict[str, Any]:
    """The request's body."""
    template = message.template_id
    return {
        "From": boxed(message.sender),
        "To": boxed(message.to),
        "Cc": ", ".join(map(boxed, message.cc)),
        "Bcc": ", ".join(map(boxed, message.bcc)),
        "ReplyTo": ", ".join(map(boxed, message.reply_to)),
        "Subject": "" if template else message.subject,
        "TextBody": "" if template else message.text,
        "HtmlBody": "" if template else message.html,
        "TemplateId": int(template) if template.isdigit() else None,
        "TemplateAlias": "" if template.isdigit() else template,
        "TemplateModel": dict(message.data) if template else None,
        "Tag": message.tags[0] if message.tags else "",
        "Metadata": {**message.metadata, SEND_ID: str(message.send_id)},
        "Headers": [{"Name": name, "Value": value} for name, value in headers_of(message)],
        "Attachments": [
            {
                "Name": one.name,
                "Content": base64_of(one),
                "ContentType": one.content_type,
                **({"ContentID": f"cid:{one.content_id}"} if one.content_id else {}),
            }
            for one in message.attachments
        ],
        "MessageStream": stream,
    }


def _read(answer: Answer) -> Sent:
    return Sent(provider_message_id=text(json_of(answer).get("MessageID")))


def _judge(settings: Settings, message: Message, answer: Answer) -> Outcome | None:
    """By the error's number. Only with 422 is it the message's fault: 429 and 503 carry one too."""
    code = integer(json_of(answer).get("ErrorCode"))
    if code in _OURS:
        return Pause(detail=f"Postmark answers with error {code}")
    if code in _SENDER:
        return settings.refused(message.sender, f"Postmark answers with error {code}")
    if code == _INACTIVE:
        return Rejected(detail="Postmark holds mail to the recipient back (error 406)")
    return Rejected(detail=f"Postmark answers with error {code}") if answer.status == 422 and code else None
