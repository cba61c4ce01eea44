"""Receiving: what is answered, and what is stored then."""

from __future__ import annotations

from pathlib import Path

from receiver.event import EventType
from tests.service import play, running


async def test_a_signed_batch_is_stored_before_it_is_answered(database: str, tmp_path: Path) -> None:
    """a signed SendGrid batch becomes one row for each event."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        for post in sendgrid.posts(EventType.BOUNCED, "ann@one.test", "bob@two.test"):
            assert (await service.post("sendgrid", post)).status_code == 200
        rows = await service.events()
    assert [(row["type"], row["recipient"]) for row in rows] == [
        ("bounced", "ann@one.test"),
        ("bounced", "bob@two.test"),
    ]
