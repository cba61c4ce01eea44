"""Mailgun: POST /v3/{domain}/messages, a form.

Documents: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages (seen 2026-11).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

import httpx
import msgspec
from pydantic import Field, SecretStr

from receiver.contract import Secrets
from receiver.outbound import Answer
from receiver.payload import text
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import SEND_ID, Api, boxed, json_of
from receiver.sending.message import Message
from receiver.sending.mime import headers_of
from receiver.sending.rotation import Keys
from receiver.sending.transport import Outcome, Sent

URL: Final = "https://api.mailgun.net"


class Settings(AccountSettings):
    """A sending domain at Mailgun."""

    api_key: Secrets = Field(min_length=1, description="API or sending key(s)")
    sending_domain: str | None = Field(None, description="the domain at Mailgun, if it is not that of `from`")
    url: str = Field(URL, description="the API's address", examples=["https://api.eu.mailgun.net"])


class Mailgun:
    """Sends through one domain."""

    def __init__(self, settings: Settings) -> None:
        domain = settings.sending_domain or settings.domain
        self._url = f"{settings.url.rstrip('/')}/v3/{domain}/messages"
        self._keys = Keys(settings.api_key)
        self._api = Api(self._url, settings)

    async def send(self, message: Message) -> Outcome:
        """Hand the message over."""
        body, content_type = form(message)

        async def attempt(key: SecretStr) -> Outcome:
            basic = b64encode(f"api:{key.get_secret_value()}".encode()).decode()
            headers = {"authorization": f"Basic {basic}", "content-type": content_type}
            return await self._api.post(self._url, body, headers, read=_read)

        return await self._keys.use(attempt)

    async def aclose(self) -> None:
        """Close connections."""
        await self._api.aclose()


def open(settings: Settings) -> Mailgun:  # noqa: A001 - what every transport's file calls it
    """The transport of one account; does not connect yet."""
    return Mailgun(settings)


def form(message: Message) -> tuple[bytes, str]:
    """The request's body as multipart/form-data, and its content type. A field may be there several times."""
    files: list[tuple[str, Any]] = [(name, (None, value.encode())) for name, value in _fields(message)]
    for one in message.attachments:
        # Mailgun makes the Content-ID of an inline file of its name.
        kind, name = ("inline", one.content_id) if one.content_id else ("attachment", one.name)
        files.append((kind, (name, one.content, one.content_type)))
    request = httpx.Request("POST", URL, files=files)
    return request.read(), request.headers["content-type"]


def _fields(message: Message) -> Iterator[tuple[str, str]]:
    yield "from", boxed(message.sender)
    yield "to", boxed(message.to)
    yield from (("cc", boxed(one)) for one in message.cc)
    yield from (("bcc", boxed(one)) for one in message.bcc)
    yield "subject", message.subject
    if message.text is not None:
        yield "text", message.text
    if message.html is not None:
        yield "html", message.html
    if message.reply_to:
        yield "h:Reply-To", ", ".join(map(boxed, message.reply_to))
    yield "h:Message-Id", f"<{message.message_id}>"
    yield from ((f"h:{name}", value) for name, value in headers_of(message))
    yield from (("o:tag", tag) for tag in message.tags)
    yield from ((f"v:{name}", value) for name, value in message.metadata.items())
    yield f"v:{SEND_ID}", str(message.send_id)
    if message.template_id:
        yield "template", message.template_id
        yield "t:variables", msgspec.json.encode(message.data).decode()


def _read(answer: Answer) -> Sent:
    """Webhooks give the id without its angle brackets."""
    found = text(json_of(answer).get("id"))
    return Sent(provider_message_id=found.strip("<>") if found else None)
