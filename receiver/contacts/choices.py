"""What a person does by a link in our mail: leave a topic, leave everything, choose topics, confirm one.

Everything happens within the caller's transaction. What a person says here and now is their latest word, whatever the
clocks of providers have said of them before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from receiver.classify.addresses import domain_of
from receiver.networks import Address
from receiver.store import choices as store
from receiver.store import moves
from receiver.store.choices import Topic
from receiver.store.consent import Action, Statement, record
from receiver.store.sql import Sql
from receiver.store.suppressions import SuppressionRow, suppress

Method: TypeAlias = Literal["one_click", "page", "preferences", "confirmation"]

SOURCE: Final = "page"
_WISHED: Final = "the person asked for mail again, by a link that was mailed to them"
_NOT_WISHED: Final = {"why": "mail about it was held back, and not asked for again with the rest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Who acts, when, how, and from where, as far as that is known."""

    address_hash: bytes
    at: datetime
    method: Method
    address: str | None = None
    client_ip: Address | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A topic as the preference page shows it. `chosen`: mail about it is sent now."""

    topic: Topic
    chosen: bool


async def leave(sql: Sql, visit: Visit, *, topic: str = "", brand: str = "", send: str = "") -> None:
    """Unsubscribe from the topic; without one, from all marketing mail of the brand (empty: of every brand).

    A repetition is the same at a later time, and no new statement in the log.
    """
    detail = {"send": send} if send else {}
    moved = await moves.moved(sql, [visit.address_hash])  # the mail went to an earlier address of theirs
    for address_hash in [visit.address_hash, *(now for _, now in moved.values())]:
        await _leave(sql, replace(visit, address_hash=address_hash), topic, brand, detail)


async def _leave(sql: Sql, visit: Visit, topic: str, brand: str, detail: Mapping[str, Any]) -> None:
    visit = await _at_last(sql, visit)
    if topic:
        await record(sql, await _left(sql, visit, [topic], detail))
    else:
        await record(sql, await _left_all(sql, visit, brand, detail))


async def choices(sql: Sql, address_hash: bytes, brand: str) -> list[Choice]:
    """What the preference page shows. Marketing needs consent, and nothing against it; other mail only no refusal."""
    topics = await store.choices(sql, address_hash, brand)
    held = await store.held(sql, address_hash, [one.brand for one in topics], [one.name for one in topics])
    return [Choice(topic=one, chosen=_wanted(one) and not any(_covers(row, one) for row in held)) for one in topics]


async def choose(
    sql: Sql,
    visit: Visit,
    brand: str,
    *,
    shown: Collection[str],
    were: Collection[str],
    are: Collection[str],
    wording: str,
) -> None:
    """Save a preference page: of the topics that it has `shown`, those that `were` chosen, and those that `are` now.

    Only what the person has changed is said; what became of the rest meanwhile stays. Topics that the person may not
    see are left alone.
    """
    visit = await _at_last(sql, visit)
    offered = await choices(sql, visit.address_hash, brand)
    changed = [
        one for one in offered if one.topic.name in shown and (one.topic.name in were) != (one.topic.name in are)
    ]
    left = [one.topic.name for one in changed if one.topic.name not in are]
    wanted = [one.topic for one in changed if one.topic.name in are and not one.chosen]
    statements = await moves.also(sql, await _left(sql, visit, left, {}))
    if wanted:
        words = {one.name: "\n".join(filter(None, (one.title, one.description, wording))) for one in wanted}
        statements += await _subscribed(sql, visit, wanted, words)
    await record(sql, statements)


async def subscribe(sql: Sql, visit: Visit, topic: Topic, wording: str | None) -> None:
    """Subscribe by a link that was mailed: an unsubscribe from all, or a complaint, is lifted.

    What else it stood against is not asked for again: the person is unsubscribed from the brand's other topics, and
    goes on to get nothing from other brands.
    """
    visit = await _at_last(sql, visit)
    await record(sql, await _subscribed(sql, visit, [topic], {topic.name: wording}))


async def _at_last(sql: Sql, visit: Visit) -> Visit:
    """The visit with its address, and as the person's latest word; one visit of a person at a time from here on.

    Of somebody who was erased only what they say is kept.
    """
    await store.lock(sql, visit.address_hash)
    if await store.erased(sql, visit.address_hash):
        visit = replace(visit, client_ip=None, user_agent=None)
    at = await store.not_before(sql, visit.address_hash, visit.at)
    return replace(visit, at=at, address=await store.address(sql, visit.address_hash))


def _statement(visit: Visit, action: Action, **about: Any) -> Statement:
    return Statement(
        address_hash=visit.address_hash,
        address=visit.address,
        action=action,
        at=visit.at,
        source=SOURCE,
        method=visit.method,
        client_ip=visit.client_ip,
        user_agent=visit.user_agent,
        **about,
    )


async def _left(sql: Sql, visit: Visit, topics: Iterable[str], detail: Mapping[str, Any]) -> list[Statement]:
    said = []
    for topic in topics:
        if await store.has_left(sql, visit.address_hash, topic, ""):
            await store.leave_again(sql, visit.address_hash, topic, visit.at)
        else:
            said.append(_statement(visit, "unsubscribed", topic=topic, detail=detail))
    return said


async def _left_all(sql: Sql, visit: Visit, brand: str, detail: Mapping[str, Any]) -> list[Statement]:
    """The topics are left one by one too: whoever asks for one again later gets that one alone."""
    again = await store.has_left(sql, visit.address_hash, "", brand)
    await suppress(sql, [_unsubscribe(visit, brand)])
    topics = await store.subscribed(sql, visit.address_hash, [brand] if brand else None)
    said = [] if again else [_statement(visit, "unsubscribed", brand=brand, detail=detail)]
    return said + await _left(sql, visit, topics, detail)


async def _subscribed(
    sql: Sql, visit: Visit, topics: Sequence[Topic], words: Mapping[str, str | None]
) -> list[Statement]:
    await store.sign_up_again(sql, visit.address_hash, visit.at)
    brands = sorted({one.brand for one in topics if one.stream == "marketing"})
    if "" in brands:  # such a topic is every brand's: nothing of any may stand against it
        brands = ["", *await store.brands(sql)]
    held = await store.held(sql, visit.address_hash, brands, list(words))
    said = await _lifted(sql, visit, held, brands, words) if held else []
    return said + [
        _statement(visit, "subscribed", topic=one.name, brand=one.brand, wording=words[one.name]) for one in topics
    ]


async def _lifted(
    sql: Sql, visit: Visit, held: Sequence[SuppressionRow], brands: Sequence[str], wanted: Collection[str]
) -> list[Statement]:
    """Lift all of these, and nothing else that they stood against."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in held:
        await store.lift(sql, row, visit.at, _WISHED)
        reasons.setdefault((row.topic, row.brand), []).append(row.reason)
    every = [row for row in held if row.scope == "marketing" and not row.brand]
    if every:
        others = [one for one in await store.brands(sql) if one not in brands]
        await suppress(sql, [row._replace(brand=brand) for row in every for brand in others])
    said = [
        _statement(visit, "lifted", topic=topic, brand=brand, detail={"reasons": found})
        for (topic, brand), found in reasons.items()
    ]
    if any(row.scope == "marketing" for row in held):
        topics = await store.subscribed(sql, visit.address_hash, ["", *brands])
        unasked = [one for one in topics if one not in wanted]
        said += [_statement(visit, "unsubscribed", topic=one, detail=_NOT_WISHED) for one in unasked]
    return said


def _unsubscribe(visit: Visit, brand: str) -> SuppressionRow:
    return SuppressionRow(
        address_hash=visit.address_hash,
        reason="unsubscribe",
        scope="marketing",
        brand=brand,
        topic="",
        since=visit.at,
        last_at=visit.at,
        source=SOURCE,
        event_id=None,
        echo=False,
        expires_at=None,
        note="",
        recipient_domain=domain_of(visit.address) if visit.address else None,
        mailbox_provider=None,
    )


def _wanted(topic: Topic) -> bool:
    return topic.state == "subscribed" if topic.stream == "marketing" else topic.state != "unsubscribed"


def _covers(row: SuppressionRow, topic: Topic) -> bool:
    """Whether what stands against mail concerns the topic."""
    if row.scope == "topic":
        return row.topic == topic.name
    return topic.stream == "marketing" and (not topic.brand or row.brand in ("", topic.brand))
