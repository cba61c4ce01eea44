"""A message as it stands on the wire (RFC 5322, MIME), for SMTP and for providers that take it raw."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from typing import Final

from receiver.sending.message import Mailbox, Message, wire_address

SEND_ID: Final = "X-Send-Id"


def mime_of(message: Message, at: datetime) -> EmailMessage:
    """The message without Bcc, which is a matter of the envelope. Raises ValueError for an address that is none.

    Also where a provider's template is to fill it: that only the provider's API can do.
    """
    if message.template_id:
        raise ValueError("it has the id of a template that a provider keeps, and no content")
    mail = EmailMessage(policy=SMTPUTF8 if needs_utf8(message) else SMTP)
    mail["From"] = _address(message.sender)
    mail["To"] = _address(message.to)
    for name, boxes in (("Cc", message.cc), ("Reply-To", message.reply_to)):
        if boxes:
            mail[name] = [_address(one) for one in boxes]
    mail["Subject"] = message.subject
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = f"<{message.message_id}>"
    for name, value in headers_of(message):
        mail[name] = value
    _fill(mail, message)
    return mail


def headers_of(message: Message) -> Iterable[tuple[str, str]]:
    """The headers beside those that every message has, our send's id among them."""
    yield from message.headers.items()
    yield from message.unsubscribe.items()
    yield "Auto-Submitted", "auto-generated"  # RFC 3834: no out-of-office answers to it
    if message.feedback_id:
        yield "Feedback-ID", message.feedback_id
    yield SEND_ID, str(message.send_id)


def needs_utf8(message: Message) -> bool:
    """Whether an address has a local part that only SMTPUTF8 (RFC 6531) can carry."""
    return not all(one.address.rpartition("@")[0].isascii() for one in (message.sender, *message.recipients))


def _address(box: Mailbox) -> Address:
    local, _, domain = wire_address(box.address).rpartition("@")
    return Address(display_name=box.name, username=local, domain=domain)


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
