"""`/suppressions`: who must not be mailed; listed, added and lifted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from receiver.contacts.configured import policy_of
from receiver.contacts.recording import settle
from receiver.store import contacts, suppression_list
from receiver.store.consent import SAID
from receiver.store.queries import write_audit
from receiver.store.suppression_list import Added, By, Reason, State, Suppressed, Which
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Operation, Page
from receiver.web.api.problems import not_found, wrong
from receiver.web.api.values import EmailAddress, Moment, Words
from receiver.web.api.values import Reason as Why

Text = Annotated[str, Field(max_length=200)]
_MOST: Final = 500  # suppressions of one address


class Suppression(Answered):
    """A suppression and what it comes to now. `address`: null where there is no contact with it any more."""

    model_config = ConfigDict(from_attributes=True)

    address: str | None
    domain: str | None
    reason: Reason
    scope: str
    brand: str
    topic: str
    state: State
    since: datetime
    last_at: datetime
    expires_at: datetime | None
    release_at: datetime | None
    mailbox_provider: str | None
    source: str
    event_id: UUID | None
    note: str
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


class Suppressions(Page):
    items: list[Suppression]


class Lifted(Answered):
    """What was lifted. The email provider may hold mail back by a list of its own."""

    items: list[Suppression]


class SuppressionFilter(Listing):
    """`since` and `until`: everything that they rest on happened in that time."""

    address: EmailAddress | None = None
    reason: Reason | None = None
    state: Annotated[
        list[State] | None, Field(min_length=1, max_length=5, description="In one of these; else in any.")
    ] = None
    domain: Text | None = None
    mailbox_provider: Text | None = None
    source: Text | None = None
    since: Moment | None = None
    until: Moment | None = None


class NewSuppression(Asked):
    """`scope`: all mail, or marketing alone (of the brand, or of every one).

    By default marketing where a brand is named or the person has said so (unsubscribe, complaint), else all.
    """

    address: EmailAddress
    reason: Literal["manual", "unsubscribe", "complaint", "hard_bounce"] = "manual"
    scope: Literal["all", "marketing"] | None = None
    brand: Text = ""
    note: Words = ""


class Lift(Asked):
    """All suppressions of an address for one reason."""

    address: EmailAddress
    reason: Reason
    why: Annotated[Why, Field(description="Kept with the suppression, and in the consent log.")]


async def list_suppressions(call: Call) -> Found:
    asked: SuppressionFilter = call.query or call.body
    which = Which(
        address_hash=call.hash_of(asked.address) if asked.address else None,
        reason=asked.reason,
        domain=asked.domain,
        mailbox_provider=asked.mailbox_provider,
        source=asked.source,
        since=asked.since,
        until=asked.until,
        states=asked.state,
    )
    after = (bytes.fromhex(call.after[0]), *call.after[1:]) if call.after else None
    found = await suppression_list.page(call.sql, which, after=after, limit=asked.limit)
    last = found[-1] if len(found) == asked.limit else None
    place = [last.address_hash.hex(), last.reason, last.scope, last.brand, last.topic] if last else None
    return Found([_shown(one) for one in found], place)


def _shown(one: Suppressed) -> Suppression:
    return Suppression.model_validate(one)


async def add_suppression(call: Call) -> Suppression:
    asked: NewSuppression = call.body
    if asked.scope == "all" and asked.brand:
        raise wrong("/scope", "of one brand only marketing can be suppressed: all mail is that of every brand")
    one = Added(
        address=asked.address.key,
        address_hash=call.hash_of(asked.address),
        reason=asked.reason,
        scope=asked.scope or ("marketing" if asked.brand or asked.reason in SAID else "all"),
        at=datetime.now(UTC),
        brand=asked.brand,
        note=asked.note,
    )
    await suppression_list.add(call.sql, one, _by(call))
    await write_audit(call.sql, call.who, "suppress", f"{_short(one.address_hash)}: {one.reason}, {one.scope}")
    which = Which(address_hash=one.address_hash, reason=asked.reason)
    found = await suppression_list.list_suppressions(call.sql, which, limit=_MOST)
    return next(_shown(row) for row in found if (row.scope, row.brand, row.topic) == (one.scope, one.brand, ""))


async def lift(call: Call) -> Lifted:
    asked: Lift = call.body
    hashed = call.hash_of(asked.address)
    which = Which(address_hash=hashed, reason=asked.reason)
    await contacts.lock(call.sql, hashed)
    before = await suppression_list.list_suppressions(call.sql, which, limit=_MOST)
    held = {(one.scope, one.brand, one.topic) for one in before if one.state != "lifted"}
    if not await suppression_list.lift(call.sql, which, by=_by(call), why=asked.why, after=b"", limit=_MOST):
        raise not_found("suppression that was not lifted before")
    if asked.reason == "soft_bounce":  # the bounces in a row begin anew
        await settle(call.sql, policy_of(call.policy), [hashed])
    await write_audit(call.sql, call.who, "lift", f"{_short(hashed)}: {asked.reason}: {asked.why}")
    found = await suppression_list.list_suppressions(call.sql, which, limit=_MOST)
    return Lifted(items=[_shown(one) for one in found if (one.scope, one.brand, one.topic) in held])


def _by(call: Call) -> By:
    return By(who=call.who, source=call.who, method="api")


def _short(address_hash: bytes) -> str:
    return f"address {address_hash.hex()[:12]}"


OPERATIONS: Final = (
    Operation(
        id="suppressions_list", method="GET", path="/suppressions", scope="suppressions:read",
        summary="List suppressions.", run=list_suppressions, query=SuppressionFilter, answer=Suppressions,
    ),
    Operation(
        id="suppressions_search", method="POST", path="/suppressions/search", scope="suppressions:read",
        summary="The same, without addresses in the URL.", run=list_suppressions, body=SuppressionFilter,
        answer=Suppressions,
    ),
    Operation(
        id="suppression_add", method="POST", path="/suppressions", scope="suppressions:write",
        summary="Suppress an address.", run=add_suppression, body=NewSuppression, answer=Suppression,
    ),
    Operation(
        id="suppression_lift", method="POST", path="/suppressions/lift", scope="suppressions:write",
        summary="Lift what is held against an address for one reason.", run=lift, body=Lift, answer=Lifted,
        finds=True,
    ),
)  # fmt: skip
