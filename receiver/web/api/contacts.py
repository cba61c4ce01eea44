"""`/contacts`: who is known, and what they have said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

import asyncpg
from pydantic import ConfigDict, Field, JsonValue, model_validator

from receiver.contacts.addresses import Address, WrongAddress, entered
from receiver.contacts.configured import policy_of
from receiver.contacts.holders import perhaps_held_by
from receiver.contacts.moving import move
from receiver.contacts.origin import Origin
from receiver.store import address_book
from receiver.store.contacts import forget_erasure
from receiver.store.queries import write_audit
from receiver.web.api.operations import Answered, Asked, Call, Found, Listing, Made, Operation, Page
from receiver.web.api.problems import Fault, Kind, Problem, not_found
from receiver.web.api.values import EmailAddress, Locale, Moment, Tag, TimeZone

Attributes = Annotated[dict[str, JsonValue], Field(max_length=200)]
Tags = Annotated[list[Tag], Field(max_length=100)]
ExternalId = Annotated[str, Field(min_length=1, max_length=200)]
PersonName = Annotated[str, Field(max_length=200)]
State = Literal["subscribed", "pending", "unsubscribed"]


class Contact(Answered):
    """A contact. Whether it may be mailed is what `/sendable` says."""

    id: int
    address: str
    display_address: str | None
    external_id: str | None
    name: str | None
    locale: str | None
    time_zone: str | None
    tags: list[str]
    attributes: dict[str, JsonValue]
    created_at: datetime
    updated_at: datetime | None
    last_event_at: datetime | None
    last_sent_at: datetime | None
    last_delivered_at: datetime | None
    last_opened_at: datetime | None
    last_clicked_at: datetime | None
    last_bounced_at: datetime | None
    complained_at: datetime | None
    unsubscribed_at: datetime | None
    soft_streak: int
    prefetched_at: datetime | None


class Held(Answered):
    """A provider with a list of its own. `account`: through which `receiver suppressions sync` can ask it."""

    model_config = ConfigDict(from_attributes=True)

    provider: str
    account: str | None
    since: Annotated[datetime, Field(description="When it was lifted here, or put on that list.")]


class ContactInFull(Contact):
    """`perhaps_held_by`: who may still hold back mail to them, though nothing does here."""

    perhaps_held_by: list[Held]


class Contacts(Page):
    items: list[Contact]


class Subscription(Answered):
    """What the address has said about a topic. `title`, `stream` and `brand`: null where nobody has declared it."""

    topic: str
    state: State
    requested_at: datetime | None
    subscribed_at: datetime | None
    unsubscribed_at: datetime | None
    title: str | None
    stream: str | None
    brand: str | None


class Subscriptions(Page):
    items: list[Subscription]


class Statement(Answered):
    """A row of `consent_log`."""

    id: int
    occurred_at: datetime
    recorded_at: datetime
    action: str
    topic: str
    brand: str
    source: str
    method: str
    wording: str | None
    client_ip: IPv4Address | IPv6Address | None
    user_agent: str | None
    event_id: UUID | None
    detail: dict[str, JsonValue]


class Statements(Page):
    items: list[Statement]


class ContactPath(Asked):
    contact: Annotated[str, Field(max_length=320, description="Its number, or its address, percent-encoded.")]


class ContactFilter(Listing):
    address: Annotated[
        EmailAddress | None, Field(description="Addresses in URLs end up in logs: see /contacts/lookup.")
    ] = None
    external_id: ExternalId | None = None
    domain: Annotated[str | None, Field(max_length=255)] = None
    tag: Tag | None = None
    topic: Annotated[str | None, Field(max_length=200, description="Who is in `state` of this topic.")] = None
    state: State = "subscribed"
    created_since: Moment | None = None
    updated_since: Moment | None = None

    @model_validator(mode="after")
    def _state_of_something(self) -> Self:
        if self.topic is None and "state" in self.model_fields_set:
            raise ValueError("state is that of a subscription: say topic too")
        return self


def _one_of(schema: dict[str, Any]) -> None:
    names = "address", "external_id"
    schema["oneOf"] = [{"required": [name], "properties": {name: {"type": "string"}}} for name in names]


class Lookup(Asked):
    """By one of the two."""

    model_config = ConfigDict(json_schema_extra=_one_of)

    address: EmailAddress | None = None
    external_id: ExternalId | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.address is None) == (self.external_id is None):
            raise ValueError("give address or external_id, one of them")
        return self


class SavedContact(Asked):
    """A contact is known by its address; attributes are merged, and one that is null is removed."""

    address: EmailAddress
    external_id: ExternalId | None = None
    name: PersonName | None = None
    locale: Locale | None = None
    time_zone: TimeZone | None = None
    attributes: Attributes | None = None
    tags: Tags | None = None


class ContactChange(Asked):
    """What is left out stays; null removes."""

    external_id: ExternalId | None = None
    name: PersonName | None = None
    locale: Locale | None = None
    time_zone: TimeZone | None = None
    attributes: Attributes = Field({})
    tags: Tags = Field([])


class NewAddress(Asked):
    address: EmailAddress
    why: Annotated[str, Field(max_length=1000, description="Kept with the earlier address.")] = ""


class TagChange(Asked):
    add: Tags = Field([])
    remove: Tags = Field([])


class Further(Listing):
    pass


def contact_of(row: asyncpg.Record) -> Contact:
    values = dict(row)
    return Contact(**values | {"attributes": json.loads(values["attributes"])})


async def find_contact(call: Call, *, lock: bool = False) -> asyncpg.Record:
    """The contact that the path names, with its address_hash. Raises Problem."""
    given = call.path.contact
    if given.isascii() and given.isdigit() and len(given) < 19:
        row = await address_book.find(call.sql, "id", int(given), lock=lock)
    else:
        row = await address_book.find(call.sql, "address", _key(given), lock=lock)
    if row is None:
        raise not_found("contact")
    return row


def _key(text: str) -> str:
    try:
        return entered(text).key
    except WrongAddress:
        raise not_found("contact") from None


async def list_contacts(call: Call) -> Found:
    asked: ContactFilter = call.query
    wanted = {name: getattr(asked, name) for name in ContactFilter.model_fields}
    wanted["address"] = asked.address.key if asked.address else None
    after = int(call.after[0]) if call.after else None
    rows = await address_book.list_contacts(call.sql, wanted, after=after, limit=asked.limit)
    return Found([contact_of(row) for row in rows], [str(rows[-1]["id"])] if len(rows) == asked.limit else None)


async def look_up(call: Call) -> Contact:
    asked: Lookup = call.body
    by = ("address", asked.address.key) if asked.address else ("external_id", asked.external_id)
    row = await address_book.find(call.sql, *by)
    if row is None:
        raise not_found("contact")
    return contact_of(row)


async def get_contact(call: Call) -> ContactInFull:
    row = await find_contact(call)
    held = await perhaps_held_by(call.sql, [row["address_hash"]], [row["address"]], call.means.lists)
    return ContactInFull(**contact_of(row).model_dump(), perhaps_held_by=list(map(Held.model_validate, held)))


async def save_contact(call: Call) -> Contact | Made:
    asked: SavedContact = call.body
    values = {name: getattr(asked, name) for name in SavedContact.model_fields if name != "address"}
    row = await saved(call, asked.address, values)
    contact = contact_of(row)
    return Made(contact, f"/contacts/{contact.id}") if row["made"] else contact


async def saved(call: Call, address: Address, values: Mapping[str, Any]) -> asyncpg.Record:
    """The contact, made or changed. Somebody who was erased, and is named here, is there again. Raises Problem."""
    hash_ = call.hash_of(address)
    await forget_erasure(call.sql, hash_)
    with _own_id():
        return await address_book.save(call.sql, address.key, hash_, address.display, values)


async def change_contact(call: Call) -> Contact:
    asked: ContactChange = call.body
    row = await find_contact(call, lock=True)
    values = {name: getattr(asked, name) for name in asked.model_fields_set}
    with _own_id():
        changed = await address_book.edit(call.sql, row["id"], values)
    assert changed is not None  # it is locked
    return contact_of(changed)


class _own_id:  # noqa: N801 - used as a function
    """Where the external id is another contact's, says so."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncpg.UniqueViolationError):
            detail = "another contact has this external_id"
            raise Problem(Kind.CONFLICT, detail, errors=[Fault(detail=detail, pointer="#/external_id")]) from None


async def move_contact(call: Call) -> Contact:
    """Where a contact has the new address already, the two become one."""
    asked: NewAddress = call.body
    row = await find_contact(call)
    old, new = (row["address"], row["address_hash"]), (asked.address.key, call.hash_of(asked.address))
    policy, origin = policy_of(call.policy), Origin(call.who, "api")
    await move(call.sql, policy, old, new, at=datetime.now(UTC), why=asked.why, origin=origin)
    moved = await address_book.find(call.sql, "address", asked.address.key)
    assert moved is not None  # it was moved there in this transaction
    return contact_of(moved)


async def delete_contact(call: Call) -> None:
    row = await find_contact(call, lock=True)
    await address_book.delete(call.sql, row["id"])
    await write_audit(call.sql, call.who, "contact_delete", f"contact {row['id']}")


async def tag_contact(call: Call) -> Contact:
    asked: TagChange = call.body
    row = await find_contact(call, lock=True)
    changed = await address_book.tag(call.sql, row["id"], asked.add, asked.remove)
    assert changed is not None  # it is locked
    return contact_of(changed)


async def list_subscriptions(call: Call) -> Found:
    row = await find_contact(call)
    rows = await address_book.subscriptions(call.sql, row["address_hash"])
    return Found([Subscription(**dict(one)) for one in rows])


async def list_consent(call: Call) -> Found:
    asked: Further = call.query
    row = await find_contact(call)
    after = int(call.after[0]) if call.after else None
    rows = await address_book.consent(call.sql, row["address_hash"], after=after, limit=asked.limit)
    found = [Statement(**dict(one) | {"detail": json.loads(one["detail"])}) for one in rows]
    return Found(found, [str(found[-1].id)] if len(found) == asked.limit else None)


_ONE: Final = "/contacts/{contact}"

OPERATIONS: Final = (
    Operation(
        id="contacts_list", method="GET", path="/contacts", scope="contacts:read", summary="List contacts, by number.",
        run=list_contacts, query=ContactFilter, answer=Contacts,
    ),
    Operation(
        id="contact_save", method="POST", path="/contacts", scope="contacts:write",
        summary="Make a contact, or change the one with this address.", run=save_contact, body=SavedContact,
        answer=Contact, makes=True, conflicts=True,
    ),
    Operation(
        id="contact_lookup", method="POST", path="/contacts/lookup", scope="contacts:read",
        summary="Find a contact without its address in the URL.", run=look_up, body=Lookup, answer=Contact,
        finds=True,
    ),
    Operation(
        id="contact_get", method="GET", path=_ONE, scope="contacts:read", summary="Show a contact.", run=get_contact,
        in_path=ContactPath, answer=ContactInFull,
    ),
    Operation(
        id="contact_change", method="PATCH", path=_ONE, scope="contacts:write", summary="Change a contact.",
        run=change_contact, in_path=ContactPath, body=ContactChange, answer=Contact, conflicts=True,
    ),
    Operation(
        id="contact_delete", method="DELETE", path=_ONE, scope="contacts:write",
        summary="Delete a contact; what the address has said about mail stays.", run=delete_contact,
        in_path=ContactPath,
    ),
    Operation(
        id="contact_move", method="POST", path=f"{_ONE}/address", scope="contacts:write",
        summary="Give a contact another address: what the person has said goes along.", run=move_contact,
        in_path=ContactPath, body=NewAddress, answer=Contact,
    ),
    Operation(
        id="contact_tag", method="POST", path=f"{_ONE}/tags", scope="contacts:write",
        summary="Add and remove tags of a contact.", run=tag_contact, in_path=ContactPath, body=TagChange,
        answer=Contact,
    ),
    Operation(
        id="contact_subscriptions", method="GET", path=f"{_ONE}/subscriptions", scope="contacts:read",
        summary="What a contact is subscribed to.", run=list_subscriptions, in_path=ContactPath, answer=Subscriptions,
    ),
    Operation(
        id="contact_consent", method="GET", path=f"{_ONE}/consent", scope="contacts:read",
        summary="What was said about mail to a contact, when, where and to which words.", run=list_consent,
        in_path=ContactPath, query=Further, answer=Statements,
    ),
)  # fmt: skip
