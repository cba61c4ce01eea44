"""Amazon SES, API version 2: POST /v2/email/outbound-emails with the raw message, or a template's name.

Documents: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html (seen 2026-11).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Self

import msgspec
from pydantic import Field, SecretStr, model_validator

from receiver.contract import Secrets
from receiver.outbound import Answer
from receiver.payload import text
from receiver.sending.accounts import AccountSettings
from receiver.sending.api import SEND_ID, Api, base64_of, boxed, encode, json_of
from receiver.sending.message import Attachment, Message, wire_address
from receiver.sending.mime import headers_of, mime_of
from receiver.sending.rotation import Keys
from receiver.sending.sigv4 import Credentials, sign
from receiver.sending.transport import Outcome, Pause, Rejected, Retry, Sent

PATH: Final = "/v2/email/outbound-emails"
_NOT_IN_TAG: Final = re.compile(r"[^A-Za-z0-9_.@-]")
_ADDRESS: Final = re.compile(r"\S+@\S+")
_OURS: Final = frozenset(
    (
        *("AccountSuspendedException", "SendingPausedException", "ConfigurationSetSendingPausedException"),
        *("UnrecognizedClientException", "InvalidSignatureException", "MissingAuthenticationTokenException"),
    )
)
_SENDER: Final = frozenset(("MailFromDomainNotVerifiedException", "AccessDeniedException"))  # policies allow by sender
_NOT_FOUND: Final = "NotFoundException"  # the template, or else the configuration set
_BUSY: Final = frozenset(("TooManyRequestsException", "LimitExceededException", "ThrottlingException", "Throttling"))


class Settings(AccountSettings):
    """An account at Amazon SES."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="the region", examples=["eu-west-1"])
    access_key_id: Secrets = Field(min_length=1, description="id(s) of the access key(s)")
    secret_access_key: Secrets = Field(min_length=1, description="the access key(s) themselves, in the same order")
    session_token: SecretStr | None = Field(None, description="of temporary credentials")
    configuration_set: str | None = Field(None, description="whose events come by webhook")
    url: str | None = Field(None, description="the API's address, if it is not the region's")

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if len(self.access_key_id) != len(self.secret_access_key):
            raise ValueError("needs as many secret_access_keys as access_key_ids")
        return self

    @property
    def address(self) -> str:
        """Where the API is."""
        return (self.url or f"https://email.{self.region}.amazonaws.com").rstrip("/")

    def credentials(self, key: SecretStr) -> Credentials:
        """What one of the access keys signs with."""
        secret = self.secret_access_key[self.access_key_id.index(key)]
        token = _plain(self.session_token) if self.session_token else None
        return Credentials(key_id=_plain(key), secret=_plain(secret), token=token)


class Ses:
    """Sends through one account. `clock`: aware; signatures are good for minutes."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._url = settings.address + PATH
        self._keys = Keys(settings.access_key_id)
        self._api = Api(self._url, settings)
        self._clock = clock

    async def send(self, message: Message) -> Outcome:
        """Hand the message over."""
        try:
            body = encode(self._payload(message))
        except (ValueError, UnicodeError) as error:
            return Rejected(detail=f"the message cannot be written: {_ADDRESS.sub('(an address)', str(error))}")

        judge = partial(_judge, self._settings, message)

        async def attempt(key: SecretStr) -> Outcome:
            credentials = self._settings.credentials(key)
            headers = sign("POST", self._url, body, credentials, self._settings.region, "ses", self._clock())
            return await self._api.post(self._url, body, headers, read=_read, judge=judge)

        return await self._keys.use(attempt)

    async def aclose(self) -> None:
        """Close connections."""
        await self._api.aclose()

    def _payload(self, message: Message) -> dict[str, Any]:
        pairs = {**message.metadata, SEND_ID: str(message.send_id)}
        people = (("ToAddresses", [message.to]), ("CcAddresses", message.cc), ("BccAddresses", message.bcc))
        return {
            **(_templated(message) if message.template_id else self._raw(message)),
            "Destination": {name: [wire_address(one.address) for one in boxes] for name, boxes in people if boxes},
            "EmailTags": [{"Name": _tag(name), "Value": _tag(value)} for name, value in pairs.items()],
            "ConfigurationSetName": self._settings.configuration_set,
        }

    def _raw(self, message: Message) -> dict[str, Any]:
        """The whole message, its sender in it."""
        return {"Content": {"Raw": {"Data": b64encode(mime_of(message, self._clock()).as_bytes()).decode()}}}


def open(settings: Settings) -> Ses:  # noqa: A001 - what every transport's file calls it
    """The transport of one account; does not connect yet."""
    return Ses(settings)


def _templated(message: Message) -> dict[str, Any]:
    """By a template that SES keeps."""
    template: dict[str, Any] = {
        "TemplateName": message.template_id,
        "TemplateData": msgspec.json.encode(message.data).decode(),
        "Headers": [{"Name": name, "Value": value} for name, value in headers_of(message)],
        "Attachments": [_attached(one) for one in message.attachments],
    }
    return {
        "FromEmailAddress": boxed(message.sender),
        "ReplyToAddresses": [boxed(one) for one in message.reply_to],
        "Content": {"Template": {name: value for name, value in template.items() if value}},
    }


def _attached(one: Attachment) -> dict[str, Any]:
    return {
        "FileName": one.name,
        "ContentType": one.content_type,
        "ContentDisposition": "INLINE" if one.content_id else "ATTACHMENT",
        "RawContent": base64_of(one),
        **({"ContentId": one.content_id} if one.content_id else {}),
    }


def _plain(secret: SecretStr) -> str:
    return secret.get_secret_value()


def _tag(text: str) -> str:
    return _NOT_IN_TAG.sub("_", text)[:256]


def _read(answer: Answer) -> Sent:
    return Sent(provider_message_id=text(json_of(answer).get("MessageId")))


def _judge(settings: Settings, message: Message, answer: Answer) -> Outcome | None:
    """By the exception's name: SES answers 400 to much that is not the message's fault."""
    body = json_of(answer)
    given = answer.headers.get("x-amzn-errortype") or body.get("__type") or body.get("code") or ""
    name = str(given).partition(":")[0].rpartition("#")[2]
    if name in _OURS or (name == _NOT_FOUND and not message.template_id):
        return Pause(detail=f"SES answers {name}")
    if name == _NOT_FOUND:
        return Rejected(detail=f"SES answers {name}: there is no such template")
    if name in _SENDER:
        return settings.refused(message.sender, f"SES answers {name}")
    if name in _BUSY:
        return Retry(detail=f"SES answers {name}", account=True)
    return Rejected(detail=f"SES answers {name}") if answer.status == 400 and name else None
