"""What the processes write to their logs in a whole run: machines can go by it, and it gives nobody away."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from receiver.event import EventType
from receiver.store.log import create_cursors
from tests.processes import site
from tests.service import SECRET_KEY, play
from tests.waiting import until

HANDLER: Final = """
from receiver import Context, Event, GiveUp, RetryAfter, handler


@handler(tests=True, machines=True)
async def fragile(event: Event, ctx: Context) -> GiveUp | RetryAfter | None:
    ctx.log.info(f"asked about {event.recipient}", to=event.recipient)
    match (event.recipient or "").partition("@")[0]:
        case "never":
            return GiveUp(f"no such person: {event.recipient}")
        case "later":
            return RetryAfter(3600, f"busy: {event.recipient}")
        case "broken":
            raise ValueError(f"cannot handle {event.recipient}")
        case "clash":
            await ctx.sql.execute("INSERT INTO contacts (address, address_hash) VALUES ($1, '')", event.recipient)
            await ctx.sql.execute("INSERT INTO contacts (address, address_hash) VALUES ($1, '')", event.recipient)
    return None
"""
ADDRESS: Final = re.compile(r"[\w.+-]+(@|%40)[\w-]+\.\w+")
PEOPLE: Final = ("never@one.test", "later@one.test", "broken@one.test", "clash@one.test", "fine@one.test")


def lines(text: str) -> list[dict[str, Any]]:
    """The JSON among the lines; the others are what is printed for people at the start."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


async def test_a_whole_run_gives_nobody_away(database: str, tmp_path: Path) -> None:
    """receiving, refusing, failing, trying again and giving up write no address or secret, and an action each."""
    postmark = play("postmark", tmp_path)
    password = postmark.keys["password"]
    connection = await asyncpg.connect(database)
    await create_cursors(connection, ["fragile"])
    async with site(tmp_path, database, postmark) as home:
        (tmp_path / "handlers" / "fragile.py").write_text(HANDLER)
        serve = home.process("serve", RECEIVER_LOG_FORMAT="json")
        await serve.start()
        await home.serving(serve)
        async with httpx.AsyncClient(base_url=f"{home.url}/webhooks/postmark") as client:
            for post in postmark.posts(EventType.DELIVERED, *PEOPLE):
                assert (await client.post("", content=post.body, headers=dict(post.headers))).status_code == 200
            (post,) = postmark.post_items([{"RecordType": 7, "Email": "odd@one.test"}])
            await client.post("", content=post.body, headers=dict(post.headers))
            await client.post("", content=b'{"Email": "who@one.test"}', auth=("hooks", "cAnArY-wrong-password"))

        async def tried_again() -> bool:
            return bool(await connection.fetchval("SELECT bool_or(attempt >= 2) FROM retries WHERE cause = 'failed'"))

        await until(tried_again, within=60)

        async def alerted() -> bool:
            return '"alert_opened"' in serve.log()

        await until(alerted, within=60)
        assert await serve.end(signal.SIGTERM) == 0
        log = serve.log()
    await connection.close()
    found = lines(log)
    assert {"dispatch_started", "dead_letter", "handler_failed", "handler_asked_for_later", "said"} <= {
        line["action"] for line in found
    }
    assert all(isinstance(line["action"], str) and line["action"] for line in found)
    assert {"timestamp", "level", "event"} <= set.intersection(*map(set, found))
    text = "\n".join(map(json.dumps, found))
    assert ADDRESS.search(text) is None
    for secret in (password, "cAnArY", SECRET_KEY):
        assert secret not in log
