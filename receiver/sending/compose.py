"""From a row of `sends` to a message: of a template, or as the API was given it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec
from pydantic import ValidationError

from receiver.sending.accounts import Account, AccountSettings
from receiver.sending.content import Content, mailbox
from receiver.sending.message import Mailbox, Message, one_line, wire_address
from receiver.sending.templates import Templates, Unfit
from receiver.store.sql import Sql

# Of a row: the headers List-Unsubscribe and List-Unsubscribe-Post; none where nobody could be told where to leave.
Unsubscribe: TypeAlias = Callable[[asyncpg.Record], Mapping[str, str]]

_SENDER_ID: Final = (5, 15)  # characters of the last part of Feedback-ID, least and most

_CONTACTS: Final = """
SELECT address, external_id, display_address, name, locale, time_zone, attributes, tags
FROM contacts WHERE address = ANY ($1)
"""


class Composer:
    """Makes messages. `unsubscribe` knows where people leave."""

    def __init__(self, templates: Templates, unsubscribe: Unsubscribe) -> None:
        self._templates = templates
        self._unsubscribe = unsubscribe

    async def __call__(self, sql: Sql, row: asyncpg.Record, account: Account) -> Message:
        """The message of a send through the account. Raises Unfit."""
        unsubscribe = self._unsubscribe(row) if row["stream"] == "marketing" else {}
        contact = await contact_of(sql, row["recipient"])
        content = _given(row["message"]) if row["message"] is not None else self._rendered(row, contact, unsubscribe)
        return message_of(dict(row), account.settings, content, contact, unsubscribe)

    def _rendered(self, row: asyncpg.Record, contact: Mapping[str, Any], unsubscribe: Mapping[str, str]) -> Content:
        values = {
            **msgspec.json.decode(row["data"]),
            "contact": contact,
            "unsubscribe_url": unsubscribe.get("List-Unsubscribe", "").partition(">")[0].removeprefix("<"),
        }
        return self._templates.render(row["template"], values)


async def contact_of(sql: Sql, recipient: str) -> dict[str, Any]:
    """`contact` in a template."""
    return (await contacts_of(sql, [recipient]))[recipient]


async def contacts_of(sql: Sql, recipients: Collection[str]) -> dict[str, dict[str, Any]]:
    """The same of many, by address."""
    found = {one: stranger(one) for one in recipients}
    for row in await sql.fetch(_CONTACTS, list(found)):
        found[row["address"]] = {**row, "attributes": msgspec.json.decode(row["attributes"])}
    return found


def stranger(address: str) -> dict[str, Any]:
    """`contact` in a template, of an address that nothing is known of."""
    names = ("external_id", "display_address", "name", "locale", "time_zone", "tags")
    return {**dict.fromkeys(names), "address": address, "attributes": {}}


def _given(message: str) -> Content:
    try:
        return Content.model_validate_json(message)
    except ValidationError as error:  # it was checked when it was queued, by this release or another
        raise Unfit("wrong_message", f"{error.error_count()} of its fields are wrong") from None


def message_of(
    row: Mapping[str, Any],
    account: AccountSettings,
    content: Content,
    contact: Mapping[str, Any],
    unsubscribe: Mapping[str, str],
) -> Message:
    """The message of a row of `sends` with this content. Raises Unfit."""
    try:
        return _message(row, account, content, contact, unsubscribe)
    except ValueError as error:
        raise Unfit("wrong_message", str(error)) from None


def _message(
    row: Mapping[str, Any],
    account: AccountSettings,
    content: Content,
    contact: Mapping[str, Any],
    unsubscribe: Mapping[str, str],
) -> Message:
    address = contact["display_address"] or row["recipient"]
    sender = mailbox(content.sender) if content.sender else account.mailbox
    domain = wire_address(sender.address).rpartition("@")[2].lower()
    return Message(
        send_id=row["id"],
        message_id=f"{row['id'].hex}@{account.domain}",
        sender=sender,
        to=Mailbox(address, one_line(contact["name"] or "")),
        subject=content.subject,
        text=content.text,
        html=content.html,
        cc=[mailbox(one) for one in content.cc],
        bcc=[mailbox(one) for one in content.bcc],
        reply_to=[mailbox(one) for one in content.reply_to],
        headers=content.headers,
        attachments=[one.attachment() for one in content.attachments],
        tags=content.tags,
        metadata=content.metadata,
        unsubscribe=unsubscribe,
        feedback_id=_feedback_id(row, domain),
        list_id=_list_id(row["topic"], domain) if row["stream"] == "marketing" and row["topic"] else "",
        template_id=content.template_id,
        data=content.data,
        stream=row["stream"],
    )


def _feedback_id(row: Mapping[str, Any], domain: str) -> str:
    """campaign:customer:kind:sender, as Google's postmaster tools group complaints; without blanks and colons."""
    parts = (str(row["broadcast_id"] or row["template"] or "api"), row["topic"] or "none", row["stream"])
    return ":".join((*map(_word, parts), _sender_id(row["brand"], domain)))


def _sender_id(brand: str, domain: str) -> str:
    """The brand, else the domain that the mail is from: 5 to 15 characters, and the same for all of a sender's mail."""
    short, found = (re.sub(r"[^A-Za-z0-9]", "", one)[: _SENDER_ID[1]] for one in (brand, domain))
    return short if len(short) >= _SENDER_ID[0] else found.ljust(_SENDER_ID[0], "0")


def _list_id(topic: str, domain: str) -> str:
    """The topic within the sender's domain (RFC 2919), by which people sort their mail."""
    label = re.sub(r"\.+", ".", _word(topic)).strip(".")  # no part between dots is empty
    return f"<{label or 'list'}.{domain}>"


def _word(text: str) -> str:
    """What is safe in both headers."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:60]
