"""Requests prepared and signed beforehand, so that nothing of them is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from receiver.contract import Occurrence, Post
from receiver.event import EventType
from receiver.providers import providers

BATCH = 500
_TYPES = (EventType.QUEUED, EventType.DELIVERED, EventType.OPENED, EventType.CLICKED)
Keys = Mapping[str, Mapping[str, str]]


def make_sources(directory: Path) -> Keys:
    """Fresh credentials: settings into `sources.json` for the service, the signers' keys returned."""
    settings, keys = {}, {}
    for name in ("resend", "sendgrid"):
        raw, keys[name] = providers()[name].simulation.demo(directory)
        settings[name] = {"provider": name, **raw}
    (directory / "sources.json").write_text(json.dumps(settings))
    return keys


def singles(keys: Keys, count: int, run: str) -> list[Post]:
    """Signed clicks in Resend's format, all distinct."""
    simulation, now = providers()["resend"].simulation, datetime.now(UTC)
    items = [
        simulation.sample(
            Occurrence(type=EventType.CLICKED, recipient=f"u{n}@d{n % 97}.test", at=now, run=run, number=n)
        )
        for n in range(count)
    ]
    return [post for item in items for post in simulation.post([item], keys["resend"], now)]


def batches(keys: Keys, count: int, run: str) -> list[Post]:
    """Signed batches of 500 distinct events in SendGrid's format."""
    simulation, now = providers()["sendgrid"].simulation, datetime.now(UTC)
    posts: list[Post] = []
    for batch in range(count):
        items = [
            simulation.sample(
                Occurrence(type=_TYPES[n % 4], recipient=f"u{n}@d{n % 97}.test", at=now, run=f"{run}-{batch}", number=n)
            )
            for n in range(BATCH)
        ]
        posts += simulation.post(items, keys["sendgrid"], now)
    return posts


def wire(source: str, post: Post) -> bytes:
    """The bytes of the HTTP request."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in post.headers.items())
    head = f"POST /webhooks/{source} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(post.body)}\r\n{headers}\r\n"
    return head.encode() + post.body
