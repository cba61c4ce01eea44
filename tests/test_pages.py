"""Unsubscribing by the links in mail: RFC 8058 on the real listener and Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import listunsub
import pytest

from receiver.contacts import choices
from receiver.networks import Proxies, read_network
from tests.pages import (
    ADA,
    MEANS,
    PAGES,
    URL,
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
from tests.postgres import Cluster
from tests.service import Running, running

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def service(database: str) -> AsyncIterator[Running]:
    """A service with two topics, to both of which Ada is subscribed."""
    proxies = Proxies([read_network("127.0.0.1")])
    async with running(database, pages=PAGES, public_url=URL, proxies=proxies, means=MEANS) as found:
        await topic(found.connection, "news", "Weekly news")
        await topic(found.connection, "offers")
        await contact(found.connection)
        await said(found.connection, "subscribed", "news")
        await said(found.connection, "subscribed", "offers")
        yield found


def check_headers(answer: httpx.Response) -> None:
    """No page is stored, framed, indexed or told on, and none sets a cookie or leads elsewhere."""
    headers = answer.headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-robots-tag"].startswith("noindex")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert not {"set-cookie", "location", "refresh", "access-control-allow-origin"} & set(headers)
    assert "http://" not in answer.text
    assert "<script" not in answer.text


@pytest.mark.parametrize("form", ["multipart", "urlencoded"])
async def test_one_click(service: Running, form: Any) -> None:
    """the POST that an independent implementation of RFC 8058 makes unsubscribes from that topic, and says so"""
    asked = listunsub.one_click_request(f"{URL}{leave_path(send='m-7')}", form=form)
    headers = {"content-type": asked.content_type, "x-forwarded-for": "192.0.2.9", "user-agent": "Mailbox\x9b/1"}
    answer = await service.client.post(
        asked.url.removeprefix(URL), content=asked.body, headers=httpx.Headers(headers, encoding="latin-1")
    )
    assert answer.status_code == 200
    check_headers(answer)
    assert await states(service.connection) == {"news": "unsubscribed", "offers": "subscribed"}
    assert await may_be_mailed(service.connection, "news") == "unsubscribed"
    assert await may_be_mailed(service.connection, "offers") is None
    columns = ("action", "topic", "method", "address", "host(client_ip)", "user_agent", "detail::text")
    assert await log(service.connection, *columns) == [
        ("unsubscribed", "news", "one_click", ADA, "192.0.2.9", "Mailbox\\x9b/1", '{"send": "m-7"}')
    ]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (None, b""),
        (FORM, b"List-Unsubscribe=One-Click"),
        (FORM, b"x=1&List-Unsubscribe=One-Click&=&%"),
        (FORM + "; charset=utf-16", "List-Unsubscribe=One-Click".encode("utf-16")),
        ("multipart/form-data", b"no boundary"),
        ('multipart/form-data; boundary="b"', b"--b\r\n\r\ncut off"),
        ("application/json", b"\xff\x00"),
        ("nonsense", b"preferences=1&action=leave"),
    ],
)
async def test_whatever_the_body_is(service: Running, kind: str | None, body: bytes) -> None:
    """a POST to the link acts, be its body as it may"""
    headers = {"content-type": kind} if kind else {}
    answer = await service.client.post(leave_path(), content=body, headers=headers)
    assert answer.status_code == 200
    assert await states(service.connection) == {"news": "unsubscribed", "offers": "subscribed"}


async def test_looking_changes_nothing(service: Running) -> None:
    """scanners that GET, HEAD and OPTIONS the link change nothing, and learn nothing about a person"""
    before = [await service.count(table) for table in ("consent_log", "subscriptions", "suppressions", "sends")]
    for _ in range(10):
        page = await service.client.get(leave_path())
        assert page.status_code == 200
    check_headers(page)
    assert "Weekly news" in page.text
    assert ADA not in page.text
    assert "example.com" not in page.text
    head = await service.client.head(leave_path())
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == page.headers["content-length"]
    options = await service.client.options(leave_path())
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")
    assert (await service.client.put(leave_path())).status_code == 405
    assert before == [await service.count(table) for table in ("consent_log", "subscriptions", "suppressions", "sends")]
    await service.client.post(leave_path())
    assert (await service.client.get(leave_path())).text == page.text


async def test_a_repetition_says_nothing_new(service: Running) -> None:
    """eight POSTs at once and one later are one statement in the log; the time of leaving moves on all the same"""
    answers = await asyncio.gather(*(service.client.post(leave_path()) for _ in range(8)))
    await service.client.post(leave_path())
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
    assert len(await log(service.connection, "id")) == 1
    assert await service.connection.fetchval(
        "SELECT unsubscribed_at > occurred_at FROM subscriptions JOIN consent_log USING (address_hash, topic) "
        "WHERE topic = 'news' AND source = 'page'"
    )


async def test_who_comes_back_can_leave_again(service: Running) -> None:
    """after a new subscription the old link still works, and that is a new statement"""
    await service.client.post(leave_path())
    await said(service.connection, "subscribed", "news", at=datetime.now(UTC) + timedelta(minutes=4))
    assert (await states(service.connection))["news"] == "subscribed"
    await service.client.post(leave_path() + "?page")
    assert (await states(service.connection))["news"] == "unsubscribed"
    assert await log(service.connection, "method") == [("one_click",), ("page",)]


async def test_unknown_links(service: Running) -> None:
    """whatever is wrong with a link, it is 404 with the same body, for GET and POST, and nothing is written"""
    good = leave_path()
    bodies = set()
    for path in (
        good[:-1],
        good + "A",
        good[:9] + "A" + good[10:],
        "/u/",
        "/u/x/y",
        f"{good}/",
        "/p/" + good[3:],
        "/c/",
    ):
        for method in ("GET", "POST"):
            answer = await service.client.request(method, path, content=b"")
            assert answer.status_code == 404, path
            check_headers(answer)
            bodies.add(answer.content)
    assert len(bodies) == 1
    assert await log(service.connection, "id") == []


async def test_who_was_erased_can_leave(service: Running) -> None:
    """the link of somebody who was erased works, and nothing that names them is kept"""
    await service.connection.execute("DELETE FROM contacts")
    await service.connection.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'x')", hash_of())
    assert (await service.client.post(leave_path())).status_code == 200
    assert await log(service.connection, "action", "address", "client_ip", "user_agent") == [
        ("unsubscribed", None, None, None)
    ]


async def test_leaving_a_brand(service: Running) -> None:
    """a link without a topic leaves all marketing of its brand, and nothing of another one"""
    await topic(service.connection, "sale", brand="shop")
    await said(service.connection, "subscribed", "sale")
    await topic(service.connection, "tips", brand="club")
    await said(service.connection, "subscribed", "tips")
    await topic(service.connection, "receipts", stream="transactional", brand="shop")
    path = leave_path("", brand="shop")
    assert "Acme Shop" in (await service.client.get(path)).text
    for _ in range(2):
        assert (await service.client.post(path)).status_code == 200
    assert await may_be_mailed(service.connection, "sale") == "unsubscribe"
    assert await may_be_mailed(service.connection, "tips") is None
    assert await service.connection.fetchval(
        "SELECT sendable FROM sendable($1, 'receipts', 'transactional')", hash_of()
    )
    assert await log(service.connection, "action", "topic", "brand") == [
        ("unsubscribed", "", "shop"),
        ("unsubscribed", "sale", ""),
    ]


async def test_leaving_by_a_mail_to_an_earlier_address(service: Running) -> None:
    """who has changed their address leaves by the links in older mail too"""
    sql, now = service.connection, "ada@new.example"
    await contact(sql, now)
    await said(sql, "subscribed", "news", address=now)
    await sql.execute("DELETE FROM subscriptions WHERE address_hash = $1", hash_of())
    await sql.execute(
        "INSERT INTO contact_addresses (contact_id, address, address_hash, who) "
        "SELECT id, $2, $3, 'me' FROM contacts WHERE address = $1", now, ADA, hash_of(),
    )  # fmt: skip
    assert (await service.client.post(leave_path())).status_code == 200
    found = await sql.fetch("SELECT address_hash, state FROM subscriptions WHERE topic = 'news'")
    assert {tuple(row) for row in found} == {(hash_of(), "unsubscribed"), (hash_of(now), "unsubscribed")}


async def test_strangers_text_is_escaped(service: Running) -> None:
    """titles, and topics that nobody has declared, are text on a page"""
    await service.connection.execute("UPDATE topics SET title = '<b>&\"' WHERE name = 'news'")
    assert "&lt;b&gt;&amp;&#34;" in (await service.client.get(leave_path())).text
    assert "&lt;script&gt;" in (await service.client.post(leave_path("<script>"))).text
    assert (await states(service.connection))["<script>"] == "unsubscribed"


async def test_asking_for_preferences(service: Running) -> None:
    """who has the link learns nothing about whose it is: the answer is the same for a known address, an unknown one,
    and one that was mailed a moment ago; only the first gets a mail
    """
    answers = [
        await service.client.post(leave_path(address=address) + "?preferences")
        for address in (ADA, "unknown@example.com", ADA)
    ]
    assert {(one.status_code, one.text) for one in answers} == {(200, answers[0].text)}
    check_headers(answers[0])
    rows = await service.connection.fetch("SELECT recipient, template, stream, topic FROM sends")
    assert tuple(*rows) == (
        ADA,
        "preferences",
        "transactional",
        None,
    )
    assert len(await mailed(service.connection, "preferences")) == 1
    assert (await states(service.connection))["news"] == "subscribed"


async def test_preference_mails_are_few(service: Running) -> None:
    """three mails with one link, ten minutes apart; once it has run out there is a new one"""
    for _ in range(5):
        await service.client.post(leave_path() + "?preferences")
        await service.connection.execute(
            "UPDATE confirmations SET (mailed_at, expires_at) = "
            "(mailed_at - interval '10 min', expires_at - interval '10 min')"
        )
    assert len(await mailed(service.connection, "preferences")) == 3
    await service.connection.execute("UPDATE confirmations SET expires_at = now()")
    await service.client.post(leave_path() + "?preferences")
    paths = await mailed(service.connection, "preferences")
    assert [len(paths), len(set(paths))] == [4, 2]


async def test_no_mail_to_who_must_not_be_mailed(service: Running) -> None:
    """an address that bounces hard gets no link"""
    await suppressed(service.connection, "hard_bounce", "all")
    assert (await service.client.post(leave_path() + "?preferences")).status_code == 200
    assert await service.count("sends") == 0


async def test_without_a_public_url_or_an_account_no_link_is_offered(database: str) -> None:
    """where links cannot be made, or nothing sends mail, the page does not offer one"""
    async with running(database) as service:
        assert "?preferences" not in (await service.client.get(leave_path())).text
        assert (await service.client.post(leave_path() + "?preferences")).status_code == 404
        assert await states(service.connection) == {}
    async with running(database, pages=PAGES, public_url=URL) as service:  # and no account that would send it
        assert "?preferences" not in (await service.client.get(leave_path())).text
        assert (await service.client.post(leave_path() + "?preferences")).status_code == 404


async def test_an_outage_is_never_a_success(own_cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """without the database the answer is 503 with Retry-After, and the link works afterwards; no log line has it"""
    async with running(own_cluster.dsn, pages=PAGES, public_url=URL, means=MEANS) as service:
        assert (await service.client.post(leave_path())).status_code == 200
        await asyncio.to_thread(own_cluster.kill)
        for method in ("GET", "POST"):
            answer = await service.client.request(method, leave_path("offers"), content=b"")
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "30"
            assert "unsubscribed" not in answer.text.lower()
            check_headers(answer)
        assert (await service.client.get("/u/unknown")).status_code == 404
        own_cluster.start()
        answer = await service.client.post(leave_path("offers"))
        assert answer.status_code == 200
    logged = capsys.readouterr().err
    assert "page_unavailable" in logged
    assert leave_path("offers")[3:30] not in logged


async def test_a_fault_of_ours_is_no_success(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """what we did not foresee is answered 500 and rolled back, and is logged without the link"""

    async def failing(*args: Any, **about: Any) -> None:
        await leave(*args, **about)
        raise RuntimeError("not foreseen")

    leave = choices.leave
    monkeypatch.setattr(choices, "leave", failing)
    answer = await service.client.post(leave_path())
    assert answer.status_code == 500
    check_headers(answer)
    assert "unsubscribed" not in answer.text.lower()
    assert await log(service.connection, "id") == []
    logged = capsys.readouterr().err
    assert "action=page_failed" in logged
    assert leave_path()[3:30] not in logged
