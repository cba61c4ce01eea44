"""A message to one recipient, checked when it is made: nothing in it can break out of its header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import idna

MAX_HEADER: Final = 998  # characters of one line (RFC 5322, section 2.1.1)
MAX_NAME: Final = 200
_NAME: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,100}")  # of a header (RFC 5322, section 2.2)
_BREAKS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")

# What a message has from its other fields, or its transport. A second one would contradict the first.
_TAKEN: Final = frozenset(
    (
        "from",
        "to",
        "cc",
        "bcc",
        "reply-to",
        "sender",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "auto-submitted",
        "feedback-id",
        "return-path",
        "x-send-id",
    )
)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address, and the name that stands before it."""

    address: str
    name: str = ""

    def __post_init__(self) -> None:
        _one_line("an address", self.address)
        _one_line("a name", self.name)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file. `content_id`: it is an image within the HTML, which refers to it as `cid:<content_id>`."""

    name: str
    content_type: str
    content: bytes = field(repr=False)
    content_id: str = ""

    def __post_init__(self) -> None:
        for what in (self.name, self.content_type, self.content_id):
            _one_line("an attachment's name, type or id", what)
        if self.content_type.count("/") != 1:
            raise ValueError("an attachment's type is such as image/png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What goes to one recipient; `cc` and `bcc` get copies of the same.

    `send_id`: of the row in `sends`: travels in the provider's metadata, so that its webhooks come back to the row.
    `message_id`: the Message-ID header without its angle brackets, the same at each attempt.
    `unsubscribe`: the headers List-Unsubscribe and List-Unsubscribe-Post, or none.
    `feedback_id`: for Google's postmaster tools. `list_id`: the header List-Id, unless `headers` has one.
    `template_id`, `data`: a template that the provider keeps, and the values for it.

    Raises ValueError for what cannot stand in a header, a header that other fields make, or a domain that has no form
    in ASCII.
    """

    send_id: UUID
    message_id: str
    sender: Mailbox
    to: Mailbox
    subject: str
    text: str | None = None
    html: str | None = None
    cc: Sequence[Mailbox] = ()
    bcc: Sequence[Mailbox] = ()
    reply_to: Sequence[Mailbox] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: Sequence[Attachment] = ()
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    unsubscribe: Mapping[str, str] = field(default_factory=dict)
    feedback_id: str = ""
    list_id: str = ""
    template_id: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    stream: str = "transactional"

    def __post_init__(self) -> None:
        _one_line("the subject", self.subject, beside=len("Subject: "))
        _one_line("the message's id", self.message_id)
        _one_line("the feedback id", self.feedback_id)
        _one_line("the list's id", self.list_id)
        for box in (self.sender, *self.recipients, *self.reply_to):
            wire_address(box.address)
        for one in (*self.tags, *self.metadata, *self.metadata.values(), *self.unsubscribe.values(), self.template_id):
            _one_line("a tag or a value of metadata", one)
        for name, value in self.headers.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header")
            if name.lower() in _TAKEN or name.lower().startswith("content-"):
                raise ValueError(f"the header {name} is made from other fields of the message")
            _one_line(f"the header {name}", value, beside=len(name) + 2)
        if self.text is None and self.html is None and not self.template_id:
            raise ValueError("a message needs a text, an HTML part or the id of a template")

    @property
    def recipients(self) -> Sequence[Mailbox]:
        """Everybody who gets it."""
        return (self.to, *self.cc, *self.bcc)


def wire_address(address: str) -> str:
    """The address with its domain in ASCII. Raises ValueError."""
    local, _, domain = address.rpartition("@")
    if domain.isascii():
        return address
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        raise ValueError("the domain of an address is none: it has no form in ASCII") from None


def one_line(text: str) -> str:
    """What a person or a form has given, without what cannot stand in a header."""
    return " ".join(_BREAKS.sub(" ", text).split())[:MAX_NAME]


def _one_line(what: str, value: str, *, beside: int = 0) -> None:
    """`beside`: characters that stand before it on its line."""
    if _BREAKS.search(value):
        raise ValueError(f"{what} has a line break or a control character in it")
    if beside + len(value) > MAX_HEADER:
        raise ValueError(f"{what} is longer than {MAX_HEADER - beside} characters")
