"""The API through HTTP: what it answers, once, whole, and to whom it belongs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver.event import EventType
from receiver.web.api import OPERATIONS
from receiver.web.api.reading import MAX_BODY
from tests.api import Api, api
from tests.pages import MEANS
from tests.service import play
from tests.tcp_proxy import proxied
from tests.waiting import until


async def walk(one: Api, path: str, *, page: int, meanwhile: Any = None) -> list[Any]:
    """All items of a listing, page by page; `meanwhile` is awaited between two pages."""
    found: list[Any] = []
    cursor = ""
    while True:
        answer = await one.get(f"{path}limit={page}{cursor}")
        found += answer["items"]
        if answer["next"] is None:
            return found
        cursor = f"&cursor={answer['next']}"
        if meanwhile is not None:
            await meanwhile()


async def test_a_thousand_addresses_are_asked_for_at_once(database: str) -> None:
    """one call says of a thousand addresses which may be mailed and why not, in their order, wrong ones among them"""
    async with api(database) as one:
        await one.post("/topics", {"name": "news", "title": "News"})
        await one.service.connection.execute(
            "INSERT INTO subscriptions (address_hash, topic, subscribed_at) SELECT hash, 'news', now()"
            " FROM unnest($1::bytea[]) AS hash",
            [one.service.vault.address_hash(f"a{n}@one.test") for n in range(0, 997, 2)],
        )
        addresses = ["wrong", *(f"A{n}@one.test" for n in range(997)), "a0@one.test ", "x" * 320]
        results = (await one.post("/sendable", {"addresses": addresses, "topic": "news"}))["results"]
        assert [result["address"] for result in results] == addresses
        reasons = [result["reason"] for result in results]
        assert reasons == [
            "invalid_address",
            *(None if n % 2 == 0 else "not_subscribed" for n in range(997)),
            None,
            "invalid_address",
        ]
        assert [result["sendable"] for result in results] == [reason is None for reason in reasons]
        assert results[0]["detail"]
        more = await one.call("POST", "/sendable", json={"addresses": ["a@one.test"] * 1001})
        assert (more.status_code, more.json()["errors"][0]["pointer"]) == (422, "#/addresses")
        alone = await one.get("/sendable", params={"address": "a1@one.test", "topic": "news"})
        assert (alone["sendable"], alone["reason"]) == (False, "not_subscribed")


async def test_a_walk_through_contacts_misses_none_and_repeats_none(database: str) -> None:
    """who walks through contacts while others are made gets each that was there at the beginning, once"""
    async with api(database) as one:
        for n in range(11):
            await one.post("/contacts", {"address": f"a{n}@one.test"})

        async def meanwhile() -> None:
            await one.post("/contacts", {"address": f"{datetime.now(UTC).timestamp()}@two.test"})

        found = [item["address"] for item in await walk(one, "/contacts?", page=4, meanwhile=meanwhile)]
        assert found[:11] == [f"a{n}@one.test" for n in range(11)]
        assert len(set(found)) == len(found)


async def test_a_walk_through_events_misses_none_and_repeats_none(database: str, tmp_path: Path) -> None:
    """likewise of events, of which several have the same time, and later ones come in before and between them"""
    sendgrid = play("sendgrid", tmp_path)
    at = datetime.now(UTC) - timedelta(hours=3)
    async with api(database, sendgrid) as one:

        async def send(run: str, ago: timedelta, *names: str) -> None:
            (post,) = sendgrid.posts(EventType.DELIVERED, *(f"{name}@one.test" for name in names), at=at - ago, run=run)
            assert (await one.service.post("sendgrid", post)).status_code == 200

        await send("same", timedelta(), *(f"s{n}" for n in range(7)))
        await send("old", timedelta(days=40), "o1", "o2", "o3")
        first = {str(row["id"]) for row in await one.service.events()}
        numbers = iter(range(100))

        async def meanwhile() -> None:
            n = next(numbers)
            await send(f"later{n}", timedelta(hours=-1), f"later{n}")
            await send(f"between{n}", timedelta(), f"between{n}")

        found = [item["id"] for item in await walk(one, "/events?", page=3, meanwhile=meanwhile)]
        assert len(set(found)) == len(found)
        assert first <= set(found)
        one_only = await one.get("/events", params={"recipient": "O2@one.test", "type": ["delivered", "opened"]})
        assert [item["recipient"] for item in one_only["items"]] == ["o2@one.test"]
        by_body = await one.post("/events/search", {"recipient": "o2@one.test", "since": "2020-01-01T00:00:00Z"})
        assert by_body["items"] == one_only["items"]
        raw = await one.get(f"/events/{one_only['items'][0]['id']}/raw")
        assert raw["email"] == "o2@one.test"


async def test_a_cursor_is_good_for_its_listing_alone(database: str) -> None:
    """a cursor that was changed, or is used with other filters, is refused and begins nothing anew"""
    async with api(database) as one:
        for n in range(3):
            await one.post("/contacts", {"address": f"a{n}@one.test", "tags": ["x"]})
        cursor = (await one.get("/contacts?limit=1&tag=x"))["next"]
        assert len((await one.get(f"/contacts?limit=5&tag=x&cursor={cursor}"))["items"]) == 2
        for wrong in (f"limit=1&cursor={cursor}", f"limit=1&tag=x&cursor={cursor[:-4]}AAAA", "cursor=nonsense"):
            answer = await one.call("GET", f"/contacts?{wrong}")
            assert answer.status_code == 422, wrong
            assert answer.json()["errors"] == [{"detail": answer.json()["detail"], "parameter": "cursor"}]


async def test_a_contact_is_saved_changed_and_deleted(database: str) -> None:
    """a contact is made once, what is left out of a change stays, null removes, and its consent outlives it"""
    async with api(database) as one:
        made = await one.call(
            "POST", "/contacts", json={"address": "Ada@One.test", "name": "Ada", "attributes": {"plan": "a", "n": 1}}
        )
        assert (made.status_code, made.headers["location"]) == (201, f"/api/v1/contacts/{made.json()['id']}")
        again = await one.post("/contacts", {"address": "ada@one.test", "attributes": {"n": None, "b": {"c": None}}})
        assert (again["id"], again["name"], again["attributes"]) == (
            made.json()["id"], "Ada", {"plan": "a", "b": {"c": None}},
        )  # fmt: skip
        path = f"/contacts/{again['id']}"
        changed = (await one.call("PATCH", path, json={"name": None, "external_id": "7"})).json()
        assert (changed["name"], changed["external_id"], changed["attributes"]) == (None, "7", again["attributes"])
        other = await one.call("POST", "/contacts", json={"address": "b@one.test", "external_id": "7"})
        assert (other.status_code, other.json()["errors"][0]["pointer"]) == (409, "#/external_id")
        assert (await one.post("/contacts/lookup", {"external_id": "7"}))["id"] == again["id"]
        tagged = await one.post("/contacts/ada%40one.test/tags", {"add": ["x", "y", "x"], "remove": ["y"]})
        assert tagged["tags"] == ["x"]
        hashed = one.service.vault.address_hash("ada@one.test")
        await one.service.connection.execute(
            "INSERT INTO subscriptions (address_hash, topic, unsubscribed_at) VALUES ($1, 'news', now())", hashed
        )
        (said,) = (await one.get(f"{path}/subscriptions"))["items"]
        assert (said["topic"], said["state"], said["title"]) == ("news", "unsubscribed", None)
        assert (await one.call("DELETE", path)).status_code == 204
        assert (await one.call("GET", path)).status_code == 404
        assert await one.service.count("subscriptions") == 1


async def test_a_sign_up_leaves_its_evidence(database: str) -> None:
    """who subscribes may be mailed until they leave, and the consent log says by which words and key they did"""
    async with api(database) as one:
        await one.post("/topics", {"name": "news", "title": "News"})
        said = {"address": "Ada@one.test", "topic": "news", "wording": "Yes.", "client_ip": "192.0.2.7"}
        assert (await one.post("/subscriptions", {**said, "action": "subscribe"}))["state"] == "subscribed"
        asked = {"address": "ada@one.test", "topic": "news"}
        assert (await one.get("/sendable", params=asked))["sendable"] is True
        assert (await one.post("/subscriptions", {**asked, "action": "unsubscribe"}))["state"] == "unsubscribed"
        assert (await one.get("/sendable", params=asked))["reason"] == "unsubscribed"
        log = (await one.get("/contacts/ada%40one.test/consent"))["items"]
        assert [(row["action"], row["source"], row["wording"], row["client_ip"]) for row in log] == [
            ("subscribed", "api:1 test", "Yes.", "192.0.2.7"), ("unsubscribed", "api:1 test", None, None),
        ]  # fmt: skip
        unknown = await one.call("POST", "/subscriptions", json={**said, "topic": "other", "action": "subscribe"})
        assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "#/topic")
        ahead = await one.call(
            "POST", "/subscriptions", json={**said, "action": "subscribe", "at": "2199-01-01T00:00Z"}
        )
        assert (ahead.status_code, ahead.json()["errors"][0]["pointer"]) == (422, "#/at")
        moved = await one.post("/contacts/1/address", {"address": "ada@two.test", "why": "She said so."})
        assert moved["address"] == "ada@two.test"
        now = {**asked, "address": "ada@two.test"}
        assert (await one.get("/sendable", params=now))["reason"] == "unsubscribed"
        assert (await one.post("/subscriptions", {**now, "action": "subscribe"}))["state"] == "subscribed"
        assert (await one.post("/subscriptions", {**asked, "action": "unsubscribe"}))["state"] == "unsubscribed"
        assert (await one.get("/sendable", params=now))["reason"] == "unsubscribed"


async def test_a_subscription_that_is_not_enough(database: str) -> None:
    """the answer says what stands against mail all the same; what comes late brings no erased person back"""
    async with api(database) as one:
        await one.post("/topics", {"name": "news", "title": "News"})
        await one.post("/suppressions", {"address": "ada@one.test", "reason": "complaint"})
        said = {"address": "ada@one.test", "topic": "news", "action": "subscribe"}
        assert await one.post("/subscriptions", said) == {
            "state": "subscribed", "mail": "not_needed", "reason": "complaint",
        }  # fmt: skip
        sql = one.service.connection
        await sql.execute("INSERT INTO erasures SELECT address_hash, now() - interval '1 hour', 'me' FROM contacts")
        await sql.execute("DELETE FROM contacts")
        late = datetime.now(UTC) - timedelta(hours=2)
        answer = await one.call("POST", "/subscriptions", json={**said, "at": late.isoformat()})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/at")
        assert await sql.fetchval("SELECT count(*) FROM contacts") == 0
        await one.post("/subscriptions", said)
        assert await sql.fetchval("SELECT count(*) FROM erasures") == 0


async def test_evidence_of_long_ago_is_no_way_around_the_limits(database: str) -> None:
    """a link is good from when it is mailed, whatever time the client gives, and a second mail is not had by another"""
    async with api(database, public_url="https://hooks.example.net", means=MEANS) as one:
        await one.post("/topics", {"name": "club", "title": "The club", "double_opt_in": True})
        said = {"address": "ada@one.test", "topic": "club", "action": "subscribe"}
        times = [datetime.now(UTC) - timedelta(days=days) for days in (20, 8)]
        mails = [(await one.post("/subscriptions", {**said, "at": at.isoformat()}))["mail"] for at in times]
        assert mails == ["queued", "limited"]
        sql = one.service.connection
        assert await sql.fetchval("SELECT expires_at > now() + interval '6 days' FROM confirmations")


async def test_a_confirmation_that_nothing_would_send_is_refused(database: str) -> None:
    """without an account a double opt-in is answered 409, which says what to add, and leaves nothing behind"""
    async with api(database, public_url="https://hooks.example.net") as one:
        await one.post("/topics", {"name": "club", "title": "The club", "double_opt_in": True})
        said = {"address": "ada@one.test", "topic": "club", "action": "subscribe"}
        answer = await one.call("POST", "/subscriptions", json=said)
        assert (answer.status_code, "[accounts.<name>]" in answer.json()["detail"]) == (409, True)
        for table in ("sends", "confirmations", "contacts"):
            assert await one.service.connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_topics_that_change_while_they_are_listed(database: str) -> None:
    """a topic that is given up between two pages makes the next one neither skip nor repeat another"""
    async with api(database) as one:
        for name in ("a", "b", "c", "d"):
            await one.post("/topics", {"name": name, "title": name})
        first = await one.get("/topics", params={"limit": 2})
        await one.call("PATCH", "/topics/a", json={"archived": True})
        second = await one.get("/topics", params={"limit": 2, "cursor": first["next"]})
        assert [[row["name"] for row in page["items"]] for page in (first, second)] == [["a", "b"], ["c", "d"]]


async def test_what_repeated_bounces_mean_at_a_new_address(database: str) -> None:
    """who gets an address that was suppressed for bounces, and has shown life since, may be mailed there"""
    async with api(database) as one:
        sql = one.service.connection
        for name in ("old", "new"):
            await one.post("/contacts", {"address": f"{name}@one.test"})
        await sql.execute("""
            INSERT INTO suppressions (address_hash, reason, scope, since, last_at, source)
            SELECT address_hash, 'soft_bounce', 'all', now() - interval '9 days', now() - interval '2 days', 's'
            FROM contacts WHERE address = 'new@one.test';
            INSERT INTO bounces (address_hash, message, bounce_class, at, source, event_id)
            SELECT address_hash, 'm', 'mailbox_full', now() - interval '2 days', 's', gen_random_uuid()
            FROM contacts WHERE address = 'new@one.test';
            UPDATE contacts SET last_delivered_at = now() WHERE address = 'new@one.test'
        """)
        await one.post("/contacts/1/address", {"address": "new@one.test"})
        assert await sql.fetchval("SELECT count(*) FROM suppressions") == 0


async def test_suppressions_are_added_and_lifted(database: str) -> None:
    """a suppression by the API holds until it is lifted with a reason; both are on record; a walk finds each once"""
    async with api(database) as one:
        for n in range(5):
            await one.post("/suppressions", {"address": f"a{n}@one.test", "note": "Asked us by phone."})
        made = await one.post("/suppressions", {"address": "a0@one.test", "reason": "complaint"})
        assert (made["state"], made["domain"], made["scope"]) == ("active", "one.test", "marketing")
        assert (await one.get("/sendable?address=a0%40one.test"))["reason"] == "complaint"
        found = await walk(one, "/suppressions?state=active&", page=2)
        assert sorted(item["reason"] for item in found) == ["complaint", *["manual"] * 5]
        lift = {"address": "A0@one.test", "reason": "manual", "why": "A mistake."}
        (lifted,) = (await one.post("/suppressions/lift", lift))["items"]
        assert (lifted["state"], lifted["lifted_by"], lifted["lift_reason"]) == ("lifted", "api:1 test", "A mistake.")
        assert (await one.call("POST", "/suppressions/lift", json=lift)).status_code == 404
        still = await one.post("/suppressions/search", {"address": "a0@one.test", "state": ["active"]})
        assert [item["reason"] for item in still["items"]] == ["complaint"]
        actions = await one.service.connection.fetch("SELECT action FROM audit_log ORDER BY id")
        assert [row["action"] for row in actions] == ["suppress"] * 6 + ["lift"]
        logged = await one.service.connection.fetch("SELECT action, wording FROM consent_log ORDER BY id DESC LIMIT 1")
        assert [tuple(row) for row in logged] == [("lifted", "A mistake.")]


async def test_how_far_a_suppression_by_the_api_goes(database: str) -> None:
    """a person's own word and what names a brand concern marketing mail; of an erased person no domain is kept"""
    async with api(database) as one:
        path, address, sql = "/suppressions", {"address": "ada@one.test"}, one.service.connection
        hashed = one.service.vault.address_hash("ada@one.test")
        await sql.execute("INSERT INTO erasures (address_hash, who) VALUES ($1, 'me')", hashed)
        for asked, scope in (
            ({"reason": "unsubscribe"}, "marketing"),
            ({"brand": "acme"}, "marketing"),
            ({"reason": "complaint", "scope": "all"}, "all"),
            ({"reason": "hard_bounce"}, "all"),
        ):
            made = await one.post(path, {**address, **asked})
            assert (made["scope"], made["brand"], made["domain"]) == (scope, asked.get("brand", ""), None)
        said = await sql.fetch("SELECT action FROM consent_log ORDER BY id")
        assert [row["action"] for row in said] == ["unsubscribed", "suppressed", "complained", "suppressed"]
        wrong = await one.call("POST", path, json={**address, "brand": "acme", "scope": "all"})
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "#/scope")


async def test_a_contact_says_who_may_still_hold_it_back(database: str) -> None:
    """what was lifted here, and came from a provider that keeps a list of its own, may still be held back there"""
    async with api(database) as one:
        contact = await one.post("/contacts", {"address": "a@one.test"})
        await one.post("/suppressions", {"address": "a@one.test", "reason": "hard_bounce"})
        await one.service.connection.execute("UPDATE suppressions SET source = 'import:resend'")
        assert (await one.get(f"/contacts/{contact['id']}"))["perhaps_held_by"] == []
        lift = {"address": "a@one.test", "reason": "hard_bounce", "why": "A mistake."}
        (lifted,) = (await one.post("/suppressions/lift", lift))["items"]
        (held,) = (await one.get(f"/contacts/{contact['id']}"))["perhaps_held_by"]
        assert held == {"provider": "resend", "account": None, "since": lifted["lifted_at"]}


async def test_segments_are_kept_and_counted(database: str) -> None:
    """a filter is tried, stored, counted and walked through; a wrong one is refused with each fault"""
    async with api(database) as one:
        for n in range(5):
            await one.post("/contacts", {"address": f"a{n}@one.test", "tags": ["odd" if n % 2 else "even"]})
        tried = await one.post("/segments/preview", {"filter": {"tag": "even"}})
        assert (tried["count"], len(tried["sample"])) == (3, 3)
        made = await one.call("PUT", "/segments/even", json={"filter": {"tag": "even"}, "title": "Even"})
        assert (made.status_code, made.headers["location"]) == (201, "/api/v1/segments/even")
        assert (await one.call("PUT", "/segments/even", json={"filter": {"tag": ["even"]}})).json()["title"] == "Even"
        assert (await one.get("/segments/even/count")) == {"count": 3}
        walked = await walk(one, "/segments/even/contacts?", page=2)
        assert [item["address"] for item in walked] == ["a0@one.test", "a2@one.test", "a4@one.test"]
        assert [item["name"] for item in (await one.get("/segments"))["items"]] == ["even"]
        wrong = await one.call("PUT", "/segments/x", json={"filter": {"any": [{"tga": "x"}, {"field": "name"}]}})
        assert wrong.status_code == 422
        assert len(wrong.json()["errors"]) == 2
        assert (await one.call("DELETE", "/segments/even")).status_code == 204
        assert (await one.call("GET", "/segments/even/count")).status_code == 404


async def test_a_segment_of_another_release(database: str) -> None:
    """a stored filter that this release cannot read is told by name, and can be stored anew"""
    async with api(database) as one:
        await one.service.connection.execute("INSERT INTO segments (name, filter) VALUES ('later', '{\"mood\": 1}')")
        for path in ("", "/later", "/later/count", "/later/contacts"):
            answer = await one.call("GET", f"/segments{path}")
            assert (answer.status_code, "segment later" in answer.json()["detail"]) == (409, True), path
        assert (await one.call("PUT", "/segments/later", json={"filter": {"tag": "even"}})).status_code == 200
        assert (await one.get("/segments/later/count")) == {"count": 0}


async def test_what_repeats_is_done_once(database: str) -> None:
    """of many equal requests with one Idempotency-Key, at once and later, one is done, and each gets its answer"""
    async with api(database) as one:
        body = {"name": "news", "title": "News"}

        async def ask() -> Any:
            answer = await one.call("POST", "/topics", json=body, headers={"idempotency-key": "k1"})
            return answer if answer.status_code != 409 or "in-hand" not in answer.text else None

        answers = await asyncio.gather(*(until(ask) for _ in range(12)))
        assert {(answer.status_code, answer.text, answer.headers["location"]) for answer in answers} == {
            (201, answers[0].text, "/api/v1/topics/news")
        }
        assert await one.service.connection.fetchval("SELECT count(*) FROM audit_log WHERE action = 'topic_add'") == 1
        (kept,) = await one.service.connection.fetch("SELECT answer FROM api_requests")
        assert b"News" not in kept["answer"]
        other = await one.call("POST", "/topics", json={**body, "title": "Other"}, headers={"idempotency-key": "k1"})
        assert (other.status_code, other.json()["type"]) == (422, "urn:receiver:problem:idempotency-key-reused")
        refused = await one.call("POST", "/topics", json={"name": "x"}, headers={"idempotency-key": "k2"})
        assert refused.status_code == 422
        mended = await one.call("POST", "/topics", json={**body, "name": "x"}, headers={"idempotency-key": "k2"})
        assert mended.status_code == 201, "what was refused has done nothing"
        _, second = await one.make_key("topics:write")
        theirs = await one.call("POST", "/topics", json=body, headers={"idempotency-key": "k1"}, key=second)
        assert theirs.status_code == 409, "another key's requests are its own"


async def test_a_request_in_hand_is_not_done_beside_itself(database: str) -> None:
    """while a request waits, its repetition is told so; afterwards it gets the answer"""
    async with api(database) as one:
        async with one.service.connection.transaction():
            await one.service.connection.execute("LOCK TABLE topics IN EXCLUSIVE MODE")
            same: dict[str, Any] = {"json": {"name": "news", "title": "News"}, "headers": {"idempotency-key": "k"}}
            calls = [asyncio.create_task(one.call("POST", "/topics", **same)) for _ in range(2)]
            (told,), (waits,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert (told.result().status_code, told.result().headers["retry-after"]) == (409, "1")
            assert told.result().json()["type"] == "urn:receiver:problem:in-hand"
        assert (await waits).status_code == 201


HOSTILE = ["=1+1", "+1", "-1", "@x", "\t=1", "＝1", "'=1"]  # noqa: RUF001 - a full-width sign is one of them


async def test_csv_cells_run_nothing(database: str) -> None:
    """a listing as CSV has a line for each item, in which no text is a formula, and leads to the next page"""
    async with api(database) as one:
        for n, text in enumerate(HOSTILE):
            await one.post("/contacts", {"address": f"a{n}@one.test", "name": text, "external_id": text})
        answer = await one.call("GET", "/contacts?limit=5", headers={"accept": "text/csv"})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["name"] for row in rows] == [f"'{text}" for text in HOSTILE[:5]]
        assert [row["external_id"] for row in rows] == [f"'{text}" for text in HOSTILE[:5]]
        link = answer.headers["link"]
        assert link.endswith('>; rel="next"')
        following = await one.call("GET", link.split(">")[0].removeprefix("</api/v1"))
        assert [item["name"] for item in following.json()["items"]] == HOSTILE[5:]


WRONG = (
    (b"{", 400, "not JSON"),
    (b'{"address": "a@one.test", "address": "b@one.test"}', 400, "twice"),
    (b'{"address": "a@one.test", "attributes": {"x": NaN}}', 400, "NaN"),
    (b"\xff", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b'{"address": "a@one.test", "attributes": {"x": 1e999}}', 422, "too large"),
    (b'{"address": "a@one.test", "attributes": {"x": "\\u0000"}}', 422, "U+0000"),
    (b'{"address": "a@one.test", "name": "\\ud800"}', 422, "surrogate"),
    (b'{"address": "a@one.test", "nmae": "x"}', 422, "no such field"),
    (b'{"address": "a@one.test", "tags": [1]}', 422, "string"),
    (b'{"address": "a@one.test", "time_zone": "Europe"}', 422, "IANA"),
    (b'{"name": "x"}', 422, "missing"),
    (b'{"address": "secret-of-somebody"}', 422, "@-sign"),
    (b" " * (MAX_BODY + 1), 413, "bytes"),
)


async def test_what_is_wrong_is_said(database: str) -> None:
    """a body that cannot be used is refused with a problem that says why and where, and quotes nobody"""
    async with api(database) as one:
        for body, status, said in WRONG:
            answer = await one.call("POST", "/contacts", content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), said
            assert answer.json()["status"] == status
            assert said in answer.json()["detail"]
            assert "secret-of-somebody" not in answer.text
        assert await one.service.count("contacts") == 0


async def test_an_empty_choice_is_not_every_choice(database: str) -> None:
    """a search among no type or no state at all, or for a state of nothing, is refused, and does not find everything"""
    async with api(database) as one:
        await one.post("/suppressions", {"address": "a@one.test"})
        for path, field in (("/suppressions", "state"), ("/events", "type"), ("/sends", "state")):
            answer = await one.call("POST", f"{path}/search", json={field: []})
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")
        answer = await one.call("GET", "/contacts?state=unsubscribed")
        assert (answer.status_code, "say topic too" in answer.json()["detail"]) == (422, True)


async def test_other_problems_are_problem_documents_too(database: str) -> None:
    """what is no path, no method, no JSON and no parameter is answered as a problem, with what helps"""
    async with api(database) as one:
        for method, path, status in (
            ("GET", "/nothing", 404), ("DELETE", "/events", 405), ("POST", "/contacts", 415),
            ("GET", "/contacts?limit=0", 422), ("GET", "/contacts?lmit=1", 422), ("GET", "/contacts?tag=a&tag=b", 422),
            ("GET", "/contacts?created_since=1", 422), ("GET", "/events/x", 422),
        ):  # fmt: skip
            answer = await one.call(method, path, content=b"x" if status == 415 else None)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
            assert answer.json()["status"] == status
            if status == 405:
                assert answer.headers["allow"] == "GET"


async def test_without_a_database(database: str) -> None:
    """while the database is away each answer is 503 and says when to ask again; afterwards all is well"""
    async with proxied(database) as (proxy, dsn), api(dsn, connection_dsn=database) as one:
        await one.get("/topics")
        proxy.refusing = True
        proxy.cut()
        away = await one.call("GET", "/topics")
        assert (away.status_code, away.headers["retry-after"]) == (503, "5")
        assert away.json()["type"] == "urn:receiver:problem:unavailable"
        proxy.refusing = False

        async def back() -> bool:
            return (await one.call("GET", "/topics")).status_code == 200

        await until(back)


async def test_a_connection_that_died_without_a_word(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """who asks over a connection that nobody answers is told to ask again, and is answered then"""
    monkeypatch.setattr("receiver.web.api._PATIENCE", 0.5)
    async with proxied(database) as (proxy, dsn), api(dsn, connection_dsn=database) as one:
        await one.get("/topics")
        proxy.swallow()
        assert (await one.call("GET", "/topics")).status_code == 503
        await one.get("/topics")


async def test_logs_name_nobody(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """neither addresses nor keys of requests, good and bad, get into the log"""
    async with api(database) as one:
        await one.post("/contacts", {"address": "somebody@one.test"})
        await one.get("/contacts/somebody%40one.test")
        await one.get("/sendable?address=somebody%40one.test")
        await one.call("GET", "/contacts?address=somebody")
        await one.call("GET", "/contacts", key="rk_wrong")
    printed = capsys.readouterr().err
    assert "api request" in printed
    assert not [word for word in ("somebody", "rk_") if word in printed]


async def test_the_document_has_every_operation(database: str) -> None:
    """the served OpenAPI document names every operation with its scope, and each can be told by its id"""
    async with api(database) as one:
        document = json.loads((await one.client.get("/api/v1/openapi.json")).text)
        found = {
            (method, path.removeprefix("/api/v1"), operation["operationId"], operation["security"][-1]["oauth"][0])
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        assert found == {(o.method.lower(), o.path, o.id, o.scope) for o in OPERATIONS}
        assert len({o.id for o in OPERATIONS}) == len(OPERATIONS)
