"""SendGrid: POST /v3/mail/send.

Documents: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send (seen 2026-11). The answer is 202,
with the message's id in X-Message-Id; webhooks call it sg_message_id, with a suffix.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from pydantic import Field, SecretStr

from receiver.contract import Secrets
from receiver.outbound import Answer
from receiver.payload import objects, text
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import SEND_ID, Api, base64_of, encode, json_of
from receiver.sending.message import Mailbox, Message, wire_address
from receiver.sending.mime import headers_of
from receiver.sending.rotation import Keys
from receiver.sending.transport import Outcome, Sent

URL: Final = "https://api.sendgrid.com"


class Settings(AccountSettings):
    """An account at SendGrid."""

    api_key: Secrets = Field(min_length=1, description="API key(s) with the right to send: `SG....`")
    url: str = Field(URL, description="the API's address", examples=["https://api.eu.sendgrid.com"])


class SendGrid:
    """Sends through one account."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = f"{settings.url.rstrip('/')}/v3/mail/send"
        self._keys = Keys(settings.api_key)
        self._api = Api(self._url, settings)

    async def send(self, message: Message) -> Outcome:
        """Hand the message over."""
        body, judge = encode(payload(message)), partial(_judge, self._settings, message)

        async def attempt(key: SecretStr) -> Outcome:
            headers = {"authorization": f"Bearer {key.get_secret_value()}", "content-type": "application/json"}
            return await self._api.post(self._url, body, headers, read=_read, judge=judge)

        return await self._keys.use(attempt)

    async def aclose(self) -> None:
        """Close connections."""
        await self._api.aclose()


def open(settings: Settings) -> SendGrid:  # noqa: A001 - what every transport's file calls it
    """The transport of one account; does not connect yet."""
    return SendGrid(settings)


def payload(message: Message) -> dict[str, Any]:
    """The request's body."""
    metadata = {**message.metadata, SEND_ID: str(message.send_id)}
    person = {
        "to": [_box(message.to)],
        "cc": [_box(one) for one in message.cc],
        "bcc": [_box(one) for one in message.bcc],
        "custom_args": metadata,
        "dynamic_template_data": dict(message.data),
    }
    parts = (("text/plain", message.text), ("text/html", message.html))
    return {
        "personalizations": [{name: one for name, one in person.items() if one}],
        "from": _box(message.sender),
        "reply_to_list": [_box(one) for one in message.reply_to],
        "subject": message.subject,
        "content": [{"type": kind, "value": text} for kind, text in parts if text],
        "attachments": [
            {
                "content": base64_of(one),
                "filename": one.name,
                "type": one.content_type,
                "disposition": "inline" if one.content_id else "attachment",
                **({"content_id": one.content_id} if one.content_id else {}),
            }
            for one in message.attachments
        ],
        "headers": dict(headers_of(message)),
        "categories": list(message.tags)[:10],
        "template_id": message.template_id,
        # Else SendGrid would add a List-Unsubscribe of its own where the account says so.
        "tracking_settings": {"subscription_tracking": {"enable": False}} if message.unsubscribe else None,
    }


def _box(box: Mailbox) -> dict[str, str]:
    return {"email": wire_address(box.address), **({"name": box.name} if box.name else {})}


def _read(answer: Answer) -> Sent:
    return Sent(provider_message_id=answer.headers.get("x-message-id"))


def _judge(settings: Settings, message: Message, answer: Answer) -> Outcome | None:
    """403 is said of the key too; where it is said of the sender, that is the field that is wrong."""
    fields = [text(one.get("field")) or "" for one in objects(json_of(answer).get("errors"))]
    if answer.status == 403 and any(one.partition(".")[0] == "from" for one in fields):
        return settings.refused(message.sender, "SendGrid answers 403: it does not know the sender")
    return None
