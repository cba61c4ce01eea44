"""What is Elastic Email's alone: by default it reports by GET. The rest is in `test_provider_contract.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from tests.service import play, running

SECRET: Final = "Zm9yIHRlc3RzIG9ubHktZWxhc3RpYw"
BOUNCE: Final = {
    "from": "news@shop.example",
    "to": "ada@customer.example",
    "date": "2026-11-20T11:58:42",
    "subject": "Grüße & more",
    "status": "Error",
    "category": "NoMailbox",
    "messageid": "k3vUo2Ws2pZbzZlKdO0nIg2",
    "transaction": "d7bf9e3f-6d9c-4cc0-9d3c-9c1e5f1a1c2b",
}


async def test_events_come_by_get(database: str, tmp_path: Path) -> None:
    """a notification in the URL's query is stored once, with no secret in it, wherever the URL carries the secret"""
    async with running(database, play("elastic_email", tmp_path, url_secret=SECRET)) as service:
        query = urlencode(BOUNCE)
        urls = (f"/{SECRET}?{query}", f"/{SECRET}?{query}", f"?token={SECRET}&{query}", f"?{query}&token={SECRET}")
        for url in urls:
            assert (await service.client.get(f"/webhooks/elastic_email{url}")).status_code == 200
        [event] = await service.events()
        assert (event["type"], event["recipient"], event["subject"]) == (
            "bounced",
            "ada@customer.example",
            "Grüße & more",
        )
        assert SECRET not in event["raw"]


async def test_a_get_without_proof_stores_nothing(database: str, tmp_path: Path) -> None:
    """a wrong or missing secret is refused; trying out the URL, as when it is saved, is answered and stores nothing"""
    async with running(database, play("elastic_email", tmp_path, url_secret=SECRET)) as service:
        for url in (f"?{urlencode(BOUNCE)}", f"/wrong{SECRET}?{urlencode(BOUNCE)}", "?token=wrong"):
            assert (await service.client.get(f"/webhooks/elastic_email{url}")).status_code in {401, 503}
        for url in ("", f"/{SECRET}", f"?token={SECRET}", f"/{SECRET}?"):
            assert (await service.client.get(f"/webhooks/elastic_email{url}")).status_code == 200
            assert (await service.client.head(f"/webhooks/elastic_email{url}")).status_code == 200
        assert await service.count("events") == 0
        assert await service.count("quarantine") == 0


async def test_who_reports_by_post_is_not_read_by_get(database: str, tmp_path: Path) -> None:
    """a GET with a query on another provider's URL is a probe, as before"""
    async with running(database, play("smtp2go", tmp_path)) as service:
        answer = await service.client.get(f"/webhooks/smtp2go?{urlencode(BOUNCE)}")
        assert (answer.status_code, await service.count("events")) == (200, 0)
