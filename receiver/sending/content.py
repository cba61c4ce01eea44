"""A message as people and programs give it: the form of the API's body, and of `sends.message`."""

from __future__ import annotations

from email.utils import parseaddr
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from receiver.classify.addresses import normalize_address
from receiver.sending.message import Attachment, Mailbox

MOST: Final = 50  # copies


def _box(value: str) -> str:
    mailbox(value)
    return value


def mailbox(text: str) -> Mailbox:
    """`Name <address>` or an address. Raises ValueError."""
    name, address = parseaddr(text)
    if normalize_address(address) is None or any(char in text for char in "\r\n"):
        raise ValueError("is no address such as Ann <ann@example.com>")
    return Mailbox(address, name)


Box = Annotated[str, AfterValidator(_box)]


class File(BaseModel):
    """An attachment. `content`: base64. `content_id`: an image that the HTML refers to as `cid:<content_id>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=255)
    type: str = Field("application/octet-stream", max_length=127)
    content: Base64Bytes
    content_id: str = Field("", max_length=200)

    def attachment(self) -> Attachment:
        return Attachment(self.name, self.type, self.content, self.content_id)


class Content(BaseModel):
    """What is sent. Of `text` and `html` one is enough; `template_id` names a template that the provider keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    subject: str = Field(max_length=900)
    text: str | None = None
    html: str | None = None
    sender: Box | None = Field(None, alias="from", description="who it is from, if not as the account says")
    cc: list[Box] = Field([], max_length=MOST)
    bcc: list[Box] = Field([], max_length=MOST)
    reply_to: list[Box] = Field([], max_length=MOST)
    headers: dict[str, str] = {}
    attachments: list[File] = []
    tags: list[str] = Field([], max_length=20)
    metadata: dict[str, str] = {}
    template_id: str = ""
    data: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_body(self) -> Self:
        if self.text is None and self.html is None and not self.template_id:
            raise ValueError("needs text, html or template_id")
        return self
