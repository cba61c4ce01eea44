"""The preference page: what it shows, and that it saves what was changed and nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
import pytest

from receiver.page_settings import CONSENT
from tests.pages import (
    ADA,
    MEANS,
    OLD,
    PAGES,
    URL,
    ask,
    contact,
    hash_of,
    leave_path,
    log,
    mailed,
    may_be_mailed,
    said,
    states,
    suppressed,
    topic,
)
from tests.service import Running, running

FIELD: Final = re.compile(r'<input type="(hidden|checkbox)"(?: id="[^"]+")? name="(\w+)" value="([^"]+)"( checked)?')


@pytest.fixture
async def service(database: str) -> AsyncIterator[Running]:
    """Ada gets the news; offers, receipts and a closed list are there too."""
    async with running(database, pages=PAGES, public_url=URL, means=MEANS) as found:
        sql = found.connection
        await topic(sql, "news", "Weekly news", description="What is new.")
        await topic(sql, "offers")
        await topic(sql, "staff", public=False)
        await topic(sql, "old", archived_at=OLD)
        await topic(sql, "receipts", stream="transactional")
        await contact(sql)
        await said(sql, "subscribed", "news")
        yield found


async def link(service: Running, path: str | None = None) -> str:
    """The path of a page, by the mail that the button of the unsubscribe page sends."""
    await service.client.post((path or leave_path()) + "?preferences")
    return (await mailed(service.connection, "preferences"))[-1]


def form_of(page: httpx.Response) -> dict[str, list[str]]:
    """What a browser would send for the page as it is."""
    fields: dict[str, list[str]] = {"shown": [], "was": [], "topic": []}
    for kind, name, value, checked in FIELD.findall(page.text):
        if kind == "hidden" or checked:
            fields[name].append(value)
    return fields


async def save(service: Running, path: str, form: dict[str, list[str]]) -> httpx.Response:
    return await service.client.post(f"{path}?save", data=form)


async def test_what_is_shown(service: Running) -> None:
    """public topics and those that the person gets, ticked where mail is sent now; the address is not readable whole"""
    path = await link(service)
    page = await service.client.get(path)
    assert page.status_code == 200
    assert form_of(page) == {
        "shown": ["offers", "news", "receipts"],
        "was": ["news", "receipts"],
        "topic": ["news", "receipts"],
    }
    assert "a•••@example.com" in page.text
    assert ADA not in page.text
    await said(service.connection, "subscribed", "staff")
    assert "staff" in form_of(await service.client.get(path))["was"]
    head = await service.client.head(path)
    assert (head.status_code, head.content) == (200, b"")


async def test_saving(service: Running) -> None:
    """what was ticked and unticked is saved, with the words that were agreed to, once, and shown so"""
    path = await link(service)
    form = form_of(await service.client.get(path)) | {"topic": ["offers", "receipts"]}
    saved = await save(service, path, form)
    assert saved.status_code == 200
    assert "Your choice is saved." in saved.text
    assert form_of(saved)["topic"] == ["offers", "receipts"]
    assert await states(service.connection) == {"news": "unsubscribed", "offers": "subscribed"}
    await save(service, path, form)
    assert await log(service.connection, "action", "topic", "method", "wording") == [
        ("unsubscribed", "news", "preferences", None),
        ("subscribed", "offers", "preferences", f"Offers\n{CONSENT}"),
    ]


async def test_only_changes_are_saved(service: Running) -> None:
    """what happened while the page was open, and topics that it did not show, stay as they are"""
    path = await link(service)
    form = form_of(await service.client.get(path))
    await service.client.post(leave_path())
    await topic(service.connection, "new")
    await said(service.connection, "subscribed", "new")
    form["topic"] += ["offers", "staff", "old", "nonsense"]
    form["shown"] += ["staff", "old", "nonsense"]
    assert (await save(service, path, form)).status_code == 200
    assert await states(service.connection) == {"news": "unsubscribed", "offers": "subscribed", "new": "subscribed"}


async def test_an_address_changed_while_the_page_was_open(service: Running) -> None:
    """what is unticked on a page for an earlier address ends at the present one too, that of the last who had it"""
    path = await link(service)
    form = form_of(await service.client.get(path)) | {"topic": ["receipts"]}
    for days, now in enumerate(("ada@new.example", "eve@new.example")):
        await contact(service.connection, now)
        await said(service.connection, "subscribed", "news", address=now)
        await service.connection.execute(
            "INSERT INTO contact_addresses (contact_id, address, address_hash, who, until)"
            " SELECT id, $2, $3, 'me', $4 FROM contacts WHERE address = $1",
            *(now, ADA, hash_of(), datetime.now(UTC) - timedelta(days=days)),
        )
    await service.connection.execute("DELETE FROM subscriptions WHERE address_hash = $1", hash_of())
    assert (await save(service, path, form)).status_code == 200
    found = await service.connection.fetch("SELECT address_hash, state FROM subscriptions WHERE topic = 'news'")
    expected = {hash_of(): "unsubscribed", hash_of("ada@new.example"): "unsubscribed"}
    assert dict(map(tuple, found)) == expected | {hash_of("eve@new.example"): "subscribed"}


async def test_leaving_everything(service: Running) -> None:
    """leaving everything ends all marketing; one topic that is ticked later is mailed again, and no other"""
    await said(service.connection, "subscribed", "offers")
    path = await link(service)
    left = await service.client.post(f"{path}?leave")
    assert form_of(left)["topic"] == ["receipts"]
    assert [await may_be_mailed(service.connection, name) for name in ("news", "offers")] == ["unsubscribe"] * 2
    await save(service, path, form_of(left) | {"topic": ["news", "receipts"]})
    assert [await may_be_mailed(service.connection, name) for name in ("news", "offers")] == [None, "unsubscribed"]
    assert [action for (action,) in await log(service.connection, "action")] == [
        *("unsubscribed", "unsubscribed", "unsubscribed"),
        *("lifted", "subscribed"),
    ]


async def test_coming_back_after_a_complaint(service: Running) -> None:
    """a complaint unticks everything; ticking one topic lifts it for that one: neither the brand's other topics nor
    other brands are mailed again
    """
    sql = service.connection
    await topic(sql, "shop-news", brand="shop")
    await topic(sql, "club-news", brand="club")
    for name in ("shop-news", "club-news", "offers"):
        await said(sql, "subscribed", name)
    await suppressed(sql, "complaint", "marketing")
    path = await link(service, leave_path("shop-news"))
    page = await service.client.get(path)
    assert form_of(page) == {"shown": ["shop-news"], "was": [], "topic": []}
    assert "Acme Shop" in page.text
    await save(service, path, form_of(page) | {"topic": ["shop-news"]})
    assert await may_be_mailed(sql, "shop-news") is None
    assert await may_be_mailed(sql, "club-news") == "complaint"
    assert await may_be_mailed(sql, "offers") == "complaint"
    lifted_by = "SELECT lifted_by FROM suppressions WHERE brand = '' AND lift_reason LIKE '%by a link%'"
    assert await sql.fetchval(lifted_by) == "page"


async def test_a_topic_of_no_brand(service: Running) -> None:
    """what stands against the mail of one brand unticks a topic that has none; ticking it lifts that for it alone"""
    sql = service.connection
    await topic(sql, "shop-news", brand="shop")
    for name in ("shop-news", "offers"):
        await said(sql, "subscribed", name)
    await suppressed(sql, "complaint", "marketing", brand="shop")
    await suppressed(sql, "unsubscribe", "marketing", brand="acme")
    path = await link(service)
    page = await service.client.get(path)
    assert form_of(page)["topic"] == ["receipts"]
    await save(service, path, form_of(page) | {"topic": ["news", "receipts"]})
    assert await may_be_mailed(sql, "news") is None
    assert [await may_be_mailed(sql, name) for name in ("shop-news", "offers")] == ["unsubscribed"] * 2


async def test_a_link_runs_out(service: Running) -> None:
    """after a day a link shows and saves nothing"""
    path = await link(service)
    form = form_of(await service.client.get(path)) | {"topic": []}
    await service.connection.execute("UPDATE confirmations SET expires_at = expires_at - interval '24 hours'")
    for answer in (await service.client.get(path), await save(service, path, form)):
        assert answer.status_code == 410
        assert "run out" in answer.text
    assert await states(service.connection) == {"news": "subscribed"}


async def test_a_form_that_is_not_whole(service: Running) -> None:
    """what is no form changes nothing, and is not answered as saved"""
    path = await link(service)
    kind = {"content-type": "multipart/form-data"}
    answer = await service.client.post(f"{path}?save", content=b"x", headers=kind)
    assert answer.status_code == 400
    assert (await service.client.post(f"{path}?save", content=b"x" * 70_000)).status_code == 413
    assert await log(service.connection, "id") == []


# Double opt-in ----------------------------------------------------------------------------------------------------


async def test_double_opt_in(service: Running) -> None:
    """asked for, mailed, looked at by scanners, confirmed by POST, once: subscribed from then on"""
    sql, now = service.connection, datetime.now(UTC)
    await topic(sql, "club", "The club", double_opt_in=True)
    asked = await ask(sql, "club", at=now, address="New@Example.com")
    assert (asked.state, asked.mail) == ("pending", "queued")
    (path,) = await mailed(sql, "confirm-subscription")
    assert await sql.fetchval("SELECT recipient FROM sends") == "new@example.com"
    for _ in range(3):
        page = await service.client.get(path)
    assert "The club" in page.text
    assert "Yes, the news please." in page.text
    assert "example.com" not in page.text
    assert await may_be_mailed(sql, "club", "new@example.com") == "pending"
    answers = await asyncio.gather(*(service.client.post(f"{path}?confirm") for _ in range(4)))
    answers += [await service.client.get(path), await service.client.post(path)]
    assert {(one.status_code, one.text) for one in answers} == {(200, answers[0].text)}
    assert "You are subscribed" in answers[0].text
    assert await may_be_mailed(sql, "club", "new@example.com") is None
    assert await log(sql, "action", "method", "wording", "host(client_ip)") == [
        ("subscribed", "confirmation", "Yes, the news please.", "127.0.0.1")
    ]


async def test_a_confirmation_runs_out(service: Running) -> None:
    """after seven days, once used and left again, or with its topic archived, a link subscribes nobody"""
    sql, now = service.connection, datetime.now(UTC)
    await topic(sql, "club", double_opt_in=True)
    await ask(sql, "club", at=now - timedelta(days=7))
    (path,) = await mailed(sql, "confirm-subscription")
    assert (await service.client.post(path)).status_code == 410
    await ask(sql, "club", at=now)
    new = (await mailed(sql, "confirm-subscription"))[-1]
    assert new != path
    assert (await service.client.post(new)).status_code == 200
    await service.client.post(leave_path("club"))
    assert (await service.client.post(new)).status_code == 410
    await ask(sql, "club", at=now)
    again = (await mailed(sql, "confirm-subscription"))[-1]
    await sql.execute("UPDATE topics SET archived_at = now() WHERE name = 'club'")
    for answer in (await service.client.get(again), await service.client.post(again)):
        assert answer.status_code == 410
    assert (await states(sql))["club"] == "unsubscribed"


async def test_confirmations_are_few(service: Running) -> None:
    """three mails at least ten minutes apart, all with the same link; who is subscribed gets none"""
    sql, now = service.connection, datetime.now(UTC)
    await topic(sql, "club", double_opt_in=True)
    minutes = (0, 1, 10, 20, 30, 60)
    became = [(await ask(sql, "club", at=now + timedelta(minutes=one))).mail for one in minutes]
    assert became == ["queued", "limited", "queued", "queued", "limited", "limited"]
    paths = await mailed(sql, "confirm-subscription")
    assert [len(paths), len(set(paths))] == [3, 1]
    assert (await service.client.post(paths[0])).status_code == 200
    assert (await ask(sql, "club", at=now)).mail == "not_needed"


async def test_what_a_confirmation_lifts(service: Running) -> None:
    """only the confirmation lifts an unsubscribe or a complaint, never a hard bounce, and asking lifts nothing"""
    sql, now = service.connection, datetime.now(UTC)
    await topic(sql, "club", double_opt_in=True)
    for reason in ("unsubscribe", "complaint"):
        await suppressed(sql, reason, "marketing")
    assert (await ask(sql, "offers", at=now)).mail == "not_needed"
    await ask(sql, "club", at=now)
    assert await may_be_mailed(sql, "offers") == "complaint"
    (path,) = await mailed(sql, "confirm-subscription")
    await service.client.post(path)
    assert await may_be_mailed(sql, "club") is None
    assert await may_be_mailed(sql, "offers") == "unsubscribed"
    await suppressed(sql, "hard_bounce", "all")
    await topic(sql, "gold", double_opt_in=True)
    asked = await ask(sql, "gold", at=now)
    assert (asked.mail, asked.reason) == ("suppressed", "hard_bounce")


async def test_signing_up_after_an_erasure(service: Running) -> None:
    """somebody who was erased and asks for mail again is a contact again"""
    sql = service.connection
    await sql.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'x')", hash_of("back@example.com"))
    await ask(sql, "offers", at=datetime.now(UTC), address="back@example.com")
    assert await may_be_mailed(sql, "offers", "back@example.com") is None
    assert await service.count("erasures") == 0
