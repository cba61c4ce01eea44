"""A message as it stands on the wire (RFC 5322, MIME), for SMTP and for providers that take it raw."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from email.header import Header
from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP, Policy
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Final

from receiver.sending.api import boxed
from receiver.sending.message import Mailbox, Message, wire_address

SEND_ID: Final = "X-Send-Id"
LINE: Final = 78  # characters (RFC 5322, 2.1.1)
_WORD: Final = re.compile(r"[ \t]*[^ \t]+")


class _Written(str):
    """The value of a header as it goes out, but for its folding.

    The email package writes in encoded words what is longer than a line and has no blank, which nobody decodes in
    List-Unsubscribe (RFC 2369), whose URLs are that long; and it loses blanks between encoded words.
    """

    __slots__ = ("name",)
    name: str
    defects = ()

    def fold(self, *, policy: Policy) -> str:
        """The header's lines (RFC 5322, 2.2.3), parted at blanks alone."""
        line, *rest = _WORD.findall(f"{self.name}: {self}")
        lines = list[str]()
        for number, word in enumerate(rest):
            if number and len(line) + len(word) > LINE:  # the first stays beside the name
                lines.append(line)
                line = ""
            line += word
        return policy.linesep.join((*lines, line, ""))


class _Headers(HeaderRegistry):
    """What has parameters is the email package's; the rest is given as it is to be written."""

    def __getitem__(self, name: str) -> Any:
        return _class_of(name.lower())

    def __call__(self, name: str, value: Any) -> Any:
        if name.lower().startswith("content-"):
            return self[name](name, value)
        written = _Written(value)
        written.name = name
        return written


@lru_cache(maxsize=64)  # the registry makes a class for each header that it meets
def _class_of(name: str) -> Any:
    return _STANDARD[name]


_STANDARD: Final = HeaderRegistry()
_POLICY: Final = SMTP.clone(header_factory=_Headers())
_UTF8: Final = _POLICY.clone(utf8=True)


def mime_of(message: Message, at: datetime) -> EmailMessage:
    """The message without Bcc, which is a matter of the envelope. Raises ValueError for an address that is none.

    Also where a provider's template is to fill it: that only the provider's API can do.
    """
    if message.template_id:
        raise ValueError("it has the id of a template that a provider keeps, and no content")
    mail = EmailMessage(policy=_UTF8 if needs_utf8(message) else _POLICY)
    mail["From"] = _boxed(message.sender)
    mail["To"] = _boxed(message.to)
    for name, boxes in (("Cc", message.cc), ("Reply-To", message.reply_to)):
        if boxes:
            mail[name] = ", ".join(map(_boxed, boxes))
    mail["Subject"] = _words("Subject", message.subject)
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = f"<{message.message_id}>"
    for name, value in headers_of(message):
        mail[name] = _words(name, value)
    _fill(mail, message)
    return mail


def headers_of(message: Message) -> Iterable[tuple[str, str]]:
    """The headers beside those that every message has, our send's id among them."""
    yield from message.headers.items()
    yield from message.unsubscribe.items()
    yield "Auto-Submitted", "auto-generated"  # RFC 3834: no out-of-office answers to it
    if message.feedback_id:
        yield "Feedback-ID", message.feedback_id
    if message.list_id and not any(name.lower() == "list-id" for name in message.headers):
        yield "List-Id", message.list_id
    yield SEND_ID, str(message.send_id)


def needs_utf8(message: Message) -> bool:
    """Whether an address has a local part that only SMTPUTF8 (RFC 6531) can carry."""
    boxes = (message.sender, *message.recipients, *message.reply_to)
    return not all(one.address.rpartition("@")[0].isascii() for one in boxes)


def _boxed(box: Mailbox) -> str:
    if box.name.isascii():
        return boxed(box)
    return f"{_words('', box.name)} <{wire_address(box.address)}>"


def _words(name: str, value: str) -> str:
    """As it is, or where it has letters outside of ASCII in encoded words (RFC 2047)."""
    if value.isascii():
        return value
    return Header(value, "utf-8", header_name=name).encode().replace("\n", "")


def _fill(mail: EmailMessage, message: Message) -> None:
    if message.text is not None or message.html is None:
        mail.set_content(message.text or "", cte="quoted-printable")
    if message.html is not None:
        if message.text is None:
            mail.set_content(message.html, subtype="html", cte="quoted-printable")
        else:
            mail.add_alternative(message.html, subtype="html", cte="quoted-printable")
    body = mail.get_body(("html",)) or mail
    for one in message.attachments:
        main, _, sub = one.content_type.partition("/")
        if one.content_id:
            body.add_related(one.content, main, sub, cid=f"<{one.content_id}>", filename=one.name, disposition="inline")
    for one in message.attachments:
        main, _, sub = one.content_type.partition("/")
        if not one.content_id:
            mail.add_attachment(one.content, main, sub, filename=one.name)
