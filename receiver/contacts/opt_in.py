"""Links that are mailed: to confirm a subscription (double opt-in), and to the preference page.

The mail is a row of the outbox, written in the same transaction as the link. A link is mailed a few times at most, and
not at once after another: nobody can have somebody else's mailbox filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from receiver.contacts import links
from receiver.contacts.addresses import Address
from receiver.contacts.choices import Visit, subscribe
from receiver.errors import ReceiverError
from receiver.networks import Address as ClientAddress
from receiver.store import choices, confirmations, contacts, sends
from receiver.store.confirmations import Confirmation
from receiver.store.consent import Statement, record, sendable
from receiver.store.sql import Sql
from receiver.vault import Vault

Mailed: TypeAlias = Literal["queued", "limited", "suppressed", "not_needed"]
Confirmed: TypeAlias = Literal["subscribed", "run_out", "unknown"]

CONFIRM_WITHIN: Final = timedelta(days=7)
PREFERENCES_WITHIN: Final = timedelta(hours=24)
MOST: Final = 3  # mails with one link
APART: Final = timedelta(minutes=10)

CONFIRM: Final = "confirm-subscription"  # templates
PREFERENCES: Final = "preferences"


class UnknownTopic(ReceiverError):
    """There is no such topic, or it was archived."""


class NoAccount(ReceiverError):
    """A mail would wait for ever, because nothing here sends it; the message says what to set."""


class ErasedSince(ReceiverError):
    """What comes late does not bring an erased person back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What became of a request. `reason`: why no mail may go to the address, in the words of `sendable()`.

    `mail`: queued; limited (enough were queued already); suppressed; not_needed (no confirmation is awaited).
    """

    state: Literal["pending", "subscribed"]
    mail: Mailed
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Somebody asks for mail about a topic. `at`: when the person did; `now`: by our clock; else as `consent_log`."""

    address: Address
    topic: str
    source: str
    method: str
    at: datetime
    now: datetime
    wording: str | None = None
    client_ip: ClientAddress | None = None
    user_agent: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


async def request(
    sql: Sql, vault: Vault, public_url: str | None, asked: Request, *, no_account: str | None = None
) -> Asked:
    """Subscribe an address or, where the topic wants a confirmation, mail the link for it; in the caller's transaction.

    Without double opt-in the subscription counts at once, but lifts nothing that stands against mail. With it, nothing
    but the mail is done until the link is used. `no_account`: why nothing would send that mail; None: something does.
    Raises UnknownTopic, ErasedSince, NoAccount, and links.NoPublicUrl.
    """
    topic = await choices.topic(sql, asked.topic)
    if topic is None:
        raise UnknownTopic(f"there is no topic {asked.topic!r}, or it was archived")
    address_hash = vault.address_hash(asked.address.key)
    await choices.lock(sql, address_hash)
    await choices.sign_up_again(sql, address_hash, asked.at)
    if await choices.erased(sql, address_hash):
        raise ErasedSince("the person was erased after they had asked for it")
    details = {"display_address": asked.address.display} if asked.address.display != asked.address.key else {}
    await contacts.update(sql, asked.address.key, address_hash, "{}", details)
    if not topic.double_opt_in:
        await record(sql, [_statement(asked, address_hash, "subscribed", topic.brand)])
        return Asked(state="subscribed", mail="not_needed")
    stream: Any = topic.stream
    (may,) = await sendable(sql, [address_hash], topic.name, stream)
    if may["sendable"] and await choices.state(sql, address_hash, topic.name) == "subscribed":
        return Asked(state="subscribed", mail="not_needed")
    (may,) = await sendable(sql, [address_hash], None, "transactional")
    if not may["sendable"]:
        return Asked(state="pending", mail="suppressed", reason=may["reason"])
    link = await confirmations.mail(
        sql, address_hash, topic=topic.name, at=asked.now, good_for=CONFIRM_WITHIN, most=MOST, apart=APART
    )
    if link is None:
        return Asked(state="pending", mail="limited")
    await record(sql, [_statement(asked, address_hash, "requested", topic.brand)])
    _check_account(no_account)
    url = links.mailed_url(vault, public_url, "confirmation", link.id)
    data = {"topic": topic.name, "title": topic.title, "description": topic.description, "brand": topic.brand}
    await _queue(sql, CONFIRM, asked.address.key, link, {"url": url, **data})
    return Asked(state="pending", mail="queued")


async def mail_preferences(
    sql: Sql,
    vault: Vault,
    public_url: str | None,
    address_hash: bytes,
    brand: str,
    at: datetime,
    *,
    no_account: str | None = None,
) -> Mailed:
    """Mail a link to the preference page to the address with this hash, if we know it.

    Raises NoAccount, as `request` does, and links.NoPublicUrl.
    """
    address = await choices.address(sql, address_hash)
    (may,) = await sendable(sql, [address_hash], None, "transactional")
    if address is None or not may["sendable"]:
        return "suppressed"
    link = await confirmations.mail(
        sql, address_hash, brand=brand, at=at, good_for=PREFERENCES_WITHIN, most=MOST, apart=APART
    )
    if link is None:
        return "limited"
    _check_account(no_account)
    url = links.mailed_url(vault, public_url, "preferences", link.id)
    await _queue(sql, PREFERENCES, address, link, {"url": url, "brand": brand})
    return "queued"


async def confirm(sql: Sql, link: Confirmation, visit: Visit) -> Confirmed:
    """Use a link, which `confirmations.get` has locked. A second time it does nothing, and says what holds."""
    topic = await choices.topic(sql, link.topic)
    if topic is None or link.expires_at <= visit.at:
        return "run_out"
    if link.used_at is not None:
        state = await choices.state(sql, link.address_hash, link.topic)
        return "subscribed" if state == "subscribed" else "run_out"
    await confirmations.use(sql, link.id, visit.at)
    wording = await choices.requested_wording(sql, link.address_hash, link.topic)
    await subscribe(sql, visit, topic, wording)
    return "subscribed"


def _statement(
    asked: Request, address_hash: bytes, action: Literal["requested", "subscribed"], brand: str
) -> Statement:
    return Statement(
        address_hash=address_hash,
        address=asked.address.key,
        action=action,
        at=asked.at,
        source=asked.source,
        method=asked.method,
        topic=asked.topic,
        brand=brand,
        wording=asked.wording,
        client_ip=asked.client_ip,
        user_agent=asked.user_agent,
        detail=asked.detail,
    )


def _check_account(no_account: str | None) -> None:
    if no_account is not None:
        raise NoAccount(no_account)


async def _queue(sql: Sql, template: str, recipient: str, link: Confirmation, data: dict[str, str]) -> None:
    """Transactional, and without a topic: a subscription that is not confirmed must not hold back its own mail."""
    await sends.queue(
        sql,
        key=f"{template}:{link.id}:{link.mails}",
        recipient=recipient,
        template=template,
        stream="transactional",
        topic=None,
        data=data | {"expires_at": link.expires_at.isoformat()},
        delay=timedelta(),
        cancel_on=(),
        handler="pages",
        event_id=None,
    )
