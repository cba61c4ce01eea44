"""Resend: POST /emails.

Documents: https://resend.com/docs/api-reference/emails/send-email, .../idempotency-keys, .../errors (seen 2026-11).
A key is remembered for 24 hours, so that what nobody knows can be asked again.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from pydantic import Field, SecretStr

from receiver.contract import Secrets
from receiver.outbound import Answer
from receiver.payload import text
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import SEND_ID, Api, base64_of, boxed, encode, json_of
from receiver.sending.message import Message
from receiver.sending.mime import headers_of
from receiver.sending.rotation import Keys
from receiver.sending.transport import Outcome, Pause, Retry, Sent, Unknown

URL: Final = "https://api.resend.com"
_NOT_IN_TAG: Final = re.compile(r"[^A-Za-z0-9_-]")
_OURS: Final = frozenset(["missing_api_key", "invalid_api_key", "restricted_api_key"])
_SENDER: Final = frozenset([(422, "invalid_from_address"), (403, "validation_error")])  # 403: no domain of ours


class Settings(AccountSettings):
    """An account at Resend."""

    api_key: Secrets = Field(min_length=1, description="API key(s): `re_...`")
    url: str = Field(URL, description="the API's address")


class Resend:
    """Sends through one account."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = f"{settings.url.rstrip('/')}/emails"
        self._keys = Keys(settings.api_key)
        self._api = Api(self._url, settings)

    async def send(self, message: Message) -> Outcome:
        """Hand the message over; the same again within a day is sent once."""
        body, judge = encode(payload(message)), partial(_judge, self._settings, message)

        async def attempt(key: SecretStr) -> Outcome:
            headers = {
                "authorization": f"Bearer {key.get_secret_value()}",
                "content-type": "application/json",
                "idempotency-key": str(message.send_id),
            }
            return await self._api.post(self._url, body, headers, read=_read, judge=judge, again=True)

        return await self._keys.use(attempt)

    async def aclose(self) -> None:
        """Close connections."""
        await self._api.aclose()


def open(settings: Settings) -> Resend:  # noqa: A001 - what every transport's file calls it
    """The transport of one account; does not connect yet."""
    return Resend(settings)


def payload(message: Message) -> dict[str, Any]:
    """The request's body. Tags and metadata are one thing here: names and values of few characters.

    Where there is a template, Resend takes no content beside it.
    """
    template = message.template_id
    pairs = {**dict.fromkeys(message.tags, "yes"), **message.metadata, SEND_ID: str(message.send_id)}
    return {
        "from": boxed(message.sender),
        "to": [boxed(message.to)],
        "cc": [boxed(one) for one in message.cc],
        "bcc": [boxed(one) for one in message.bcc],
        "reply_to": [boxed(one) for one in message.reply_to],
        "subject": message.subject,
        "text": None if template else message.text,
        "html": None if template else message.html,
        "template": {"id": template, "variables": dict(message.data)} if template else None,
        "headers": dict(headers_of(message)),
        "attachments": [
            {
                "filename": one.name,
                "content": base64_of(one),
                "content_type": one.content_type,
                **({"content_id": one.content_id} if one.content_id else {}),
            }
            for one in message.attachments
        ],
        "tags": [{"name": _tag(name), "value": _tag(value)} for name, value in pairs.items()],
    }


def _tag(text: str) -> str:
    return _NOT_IN_TAG.sub("_", text)[:256]


def _read(answer: Answer) -> Sent:
    return Sent(provider_message_id=text(json_of(answer).get("id")))


def _judge(settings: Settings, message: Message, answer: Answer) -> Outcome | None:
    name = text(json_of(answer).get("name"))
    if name in _OURS:
        return Pause(detail=f"Resend answers {name}")
    if (answer.status, name) in _SENDER:
        return settings.refused(message.sender, f"Resend answers {name}")
    if answer.status == 409 and name == "concurrent_idempotent_requests":
        return Retry(detail=f"Resend answers {name}")
    if answer.status == 409 and name == "invalid_idempotent_request":  # an earlier try, of other content, was taken
        return Unknown(detail=f"Resend answers {name}")
    return None
