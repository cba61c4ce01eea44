"""Who may use the API: keys, Basic, access tokens, and what each may do."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from receiver.api_keys import SCOPES, is_key, make_key
from receiver.web.api import OPERATIONS
from receiver.web.api.authentication import BURST, GUESSES
from tests.api import Api, api
from tests.cli import Receiver

NOBODY = {"authorization": ""}


def a_path(path: str) -> str:
    """With something in each place."""
    return re.sub(r"\{\w+\}", "00000000-0000-8000-8000-000000000000", path)


async def status(one: Api, authorization: str) -> int:
    answer = await one.client.get("/api/v1/topics", headers={"authorization": authorization} if authorization else {})
    return answer.status_code


async def token(one: Api, key: str, *, id_: str = "1", **fields: str) -> httpx.Response:
    form = {"grant_type": "client_credentials", "client_id": id_, "client_secret": key, **fields}
    return await one.client.post("/oauth/token", data=form)


async def test_every_operation_needs_its_scope(database: str) -> None:
    """each operation is refused to nobody, to a wrong key, and to a key that has every other scope"""
    async with api(database) as one:
        keys = {scope: (await one.make_key(*(set(SCOPES) - {scope})))[1] for scope in SCOPES}
        for operation in OPERATIONS:
            path = a_path(operation.path)
            nobody = await one.client.request(operation.method, f"/api/v1{path}")
            assert nobody.status_code == 401, operation.id
            assert nobody.headers.get_list("www-authenticate")[0].startswith("Bearer ")
            answer = await one.call(operation.method, path, key=keys[operation.scope])
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:receiver:problem:missing-scope"), path
            assert operation.scope in answer.headers["www-authenticate"]
            right = await one.make_key(operation.scope)
            assert (await one.call(operation.method, path, key=right[1])).status_code not in (401, 403), operation.id
        assert await one.service.count("contacts") == 0


async def test_a_key_may_come_as_a_password(database: str) -> None:
    """a key is taken as a bearer token and as the password, or the name alone, of Basic; else it is refused"""
    async with api(database) as one:
        for given, expected in (
            (f"Bearer {one.key}", 200), (f"bearer  {one.key}", 200), (basic(f"any:{one.key}"), 200),
            (basic(f"{one.key}:"), 200), (basic(f":{one.key}"), 200),
            (basic("any:x"), 401), ("Basic %%%", 401), ("Bearer", 401), (f"Digest {one.key}", 401), ("", 401),
            (f"Bearer {one.key[:-1]}", 401), (f"Bearer {make_key()}", 401), ("Bearer rt_e30.e30", 401),
        ):  # fmt: skip
            assert await status(one, given) == expected, given[:8]


def basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


async def test_tokens_live_no_longer_than_their_key(database: str) -> None:
    """an access token has the scopes asked for and no others, is signed, and dies with its key"""
    async with api(database) as one:
        id_, key = await one.make_key("topics:read", "contacts:read")
        got = await token(one, key, id_=str(id_), scope="topics:read")
        assert (got.status_code, got.headers["cache-control"]) == (200, "no-store")
        access = got.json()["access_token"]
        assert (got.json()["token_type"], got.json()["scope"]) == ("Bearer", "topics:read")
        assert await status(one, f"Bearer {access}") == 200
        assert (await one.call("GET", "/contacts", key=access)).status_code == 403
        body, _, signature = access.partition(".")
        assert await status(one, f"Bearer {body[:-2]}AA.{signature}") == 401
        assert (await token(one, key, id_="test")).status_code == 200, "the key's name is its client's id too"
        assert (await token(one, key, id_="other")).json()["error"] == "invalid_client"
        assert (await token(one, key, id_=str(id_), scope="events:read")).json()["error"] == "invalid_scope"
        wrong = await token(one, make_key(), id_=str(id_))
        assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
        assert (await token(one, access, id_=str(id_))).status_code == 401, "a token makes no tokens"
        await one.service.connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", id_)
        assert await status(one, f"Bearer {access}") == 401


async def test_a_token_expires(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """a token is not good any more once its time has passed, though its key is"""
    async with api(database) as one:
        monkeypatch.setattr("receiver.web.api.authentication.LIFETIME", -1)
        access = (await token(one, one.key)).json()["access_token"]
        assert await status(one, f"Bearer {access}") == 401


async def test_keys_are_made_rotated_and_revoked(database: str, receiver: Receiver) -> None:
    """a key is shown once and stored as a hash; a rotated one lives on for its overlap, a revoked one no moment"""
    async with api(database) as one:
        made = await receiver("keys", "create", "shop", "--scope", "read", "--expires", "90d", "--json")
        (row,) = made.rows
        key, id_ = row["key"], row["id"]
        assert is_key(key)
        assert made.code == 0
        assert await status(one, f"Bearer {key}") == 200
        stored = await one.service.connection.fetchrow("SELECT * FROM api_keys WHERE id = $1", id_)
        assert stored is not None
        assert key not in repr(stored)
        assert stored["start"] == key[:9]
        assert timedelta(days=89) < stored["expires_at"] - datetime.now(UTC) < timedelta(days=91)

        rotated = (await receiver("keys", "rotate", str(id_), "--overlap", "1h", "--json")).rows[0]
        assert (rotated["name"], rotated["scopes"], rotated["replaces"]) == ("shop", row["scopes"], id_)
        assert [await status(one, f"Bearer {one_of}") for one_of in (key, rotated["key"])] == [200, 200]
        until = await one.service.connection.fetchval("SELECT expires_at FROM api_keys WHERE id = $1", id_)
        assert until - datetime.now(UTC) < timedelta(hours=1)
        await one.service.connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", id_)
        assert [await status(one, f"Bearer {one_of}") for one_of in (key, rotated["key"])] == [401, 200]

        asked = await receiver("keys", "revoke", str(rotated["id"]), "--dry-run")
        assert "last used" in asked.out
        assert await status(one, f"Bearer {rotated['key']}") == 200
        assert (await receiver("keys", "revoke", str(rotated["id"]), "--yes")).code == 0
        assert await status(one, f"Bearer {rotated['key']}") == 401
        assert (await receiver("keys", "revoke", str(rotated["id"]), "--yes")).err.count("revoked already") == 1
        assert (await receiver("keys", "rotate", str(id_))).err.count("expired already") == 1

        listed = {one_of["id"]: one_of["state"] for one_of in (await receiver("keys", "--all", "--json")).rows}
        assert (listed[id_], listed[rotated["id"]]) == ("expired", "revoked")
        assert id_ not in [one_of["id"] for one_of in (await receiver("keys", "--json")).rows]
        actions = await one.service.connection.fetch("SELECT action FROM audit_log ORDER BY id")
        assert [row["action"] for row in actions] == ["key_create", "key_rotate", "key_revoke"]


async def test_wrong_scopes_are_refused(receiver: Receiver) -> None:
    """a scope that does not exist is refused with those that do"""
    made = await receiver("keys", "create", "shop", "--scope", "contacts:reed")
    assert made.code == 2
    assert "contacts:read" in made.err


async def test_the_time_of_use_is_kept_to_a_minute(database: str) -> None:
    """the first of many requests notes that the key is used, the others write nothing"""
    async with api(database) as one:
        read = "SELECT used_at, xmin::text FROM api_keys WHERE id = 1"
        await one.get("/topics")
        first = await one.service.connection.fetchrow(read)
        assert first is not None
        assert first["used_at"].second == 0
        for _ in range(5):
            await one.get("/topics")
        assert await one.service.connection.fetchrow(read) == first


async def test_guesses_are_limited_and_keep_nobody_out(database: str) -> None:
    """after some wrong keys an address is told to wait, yet whoever comes from there with a good key is let in"""
    async with api(database) as one:
        answers = [await status(one, f"Bearer {make_key()}") for _ in range(GUESSES[0] + 3)]
        assert answers[0] == 401
        assert answers[-1] == 429
        assert await status(one, f"Bearer {one.key}") == 200
        assert (await token(one, make_key())).status_code == 429
        assert (await token(one, one.key)).status_code == 200


async def test_a_key_has_so_many_requests(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """each answer says what is left to the key; who takes more is told when to ask again, and nobody else is"""
    monkeypatch.setattr("receiver.web.api.authentication.EVERY", 1000.0)
    async with api(database) as one:
        answer: Any = await one.call("GET", "/topics")
        assert answer.headers["ratelimit"].startswith(f'"key";r={BURST - 1};')
        monkeypatch.setattr("receiver.ingest.credit.Credit.take", lambda *_: False)
        answer = await one.call("GET", "/topics")
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
        assert int(answer.headers["retry-after"]) == 1000
