"""A contact's new address: what the person has said goes along, what was wrong with the old address does not."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from receiver.classify.addresses import domain_of
from receiver.contacts.origin import Origin
from receiver.contacts.policy import Policy
from receiver.contacts.recording import settle
from receiver.contacts.suppressing import mailbox_of
from receiver.store import consent, contacts, moves
from receiver.store.consent import Action, Statement
from receiver.store.sql import Sql

_TIMES: Final[dict[Action, str]] = {
    "requested": "requested_at",
    "subscribed": "subscribed_at",
    "unsubscribed": "unsubscribed_at",
}
Key = tuple[str, bytes]  # the address as it is looked up, and its hash


async def move(sql: Sql, policy: Policy, old: Key, new: Key, *, at: datetime, why: str, origin: Origin) -> None:
    """Raises LookupError where no contact has the old address. The same address changes nothing."""
    if not await moves.lock(sql, old[0], new[0]):
        raise LookupError("no contact has this address")
    if old == new:
        return
    await contacts.forget_erasure(sql, new[1])
    await moves.readdress(sql, old, new, at=at, who=origin.source, why=why)
    said = [
        Statement(
            address_hash=new[1],
            address=new[0],
            action=action,
            at=row[column],
            topic=row["topic"],
            source=origin.source,
            method=origin.method,
            wording=why or None,
            detail={"from_earlier_address": True},
        )
        for row in await moves.subscriptions(sql, old[1])
        for action, column in _TIMES.items()
        if row[column] is not None
    ]
    await consent.record(sql, said)
    domain = domain_of(new[0])
    await moves.follow(sql, old[1], new[1], domain, mailbox_of(domain))
    await settle(sql, policy, [new[1]])
