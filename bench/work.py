"""Sources and requests, prepared and signed beforehand, so that nothing of that is measured."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from receiver.contract import Occurrence, Post, World
from receiver.event import EventType
from receiver.outbound import Outbound
from receiver.providers import providers
from receiver.sources import Source

BATCH: Final = 500
SECRET_KEY: Final = "only for measuring, long enough for a key"
_TYPES: Final = (EventType.QUEUED, EventType.DELIVERED, EventType.OPENED, EventType.CLICKED)
Keys = Mapping[str, Mapping[str, str]]


def make_sources(directory: Path) -> Keys:
    """Fresh credentials: settings into `sources.json` for the processes, the signers' keys returned."""
    settings, keys = {}, {}
    for name in ("resend", "sendgrid"):
        raw, keys[name] = providers()[name].simulation.demo(directory)
        settings[name] = {"provider": name, **raw}
    (directory / "sources.json").write_text(json.dumps(settings))
    return keys


def sources(directory: Path) -> dict[str, Source]:
    """What `make_sources` has written."""
    settings = json.loads((directory / "sources.json").read_text())
    world = World(fetch=Outbound().fetch)
    found = {}
    for name, raw in settings.items():
        kind = providers()[name]
        bound = kind.Settings.model_validate(raw)
        found[name] = Source(name=name, provider=kind(bound, world), settings=bound)
    return found


def singles(keys: Keys, count: int, run: str) -> Sequence[Post]:
    """Signed clicks in Resend's format, all distinct."""
    simulation, now = providers()["resend"].simulation, datetime.now(UTC)
    clicks = [_occurrence(EventType.CLICKED, now, run, number) for number in range(count)]
    return [post for click in clicks for post in simulation.post([simulation.sample(click)], keys["resend"], now)]


def batches(keys: Keys, count: int, run: str) -> Sequence[Post]:
    """Signed batches of 500 distinct events in SendGrid's format."""
    simulation, now = providers()["sendgrid"].simulation, datetime.now(UTC)
    posts: list[Post] = []
    for batch in range(count):
        of_batch = [_occurrence(_TYPES[number % 4], now, f"{run}-{batch}", number) for number in range(BATCH)]
        posts += simulation.post([simulation.sample(one) for one in of_batch], keys["sendgrid"], now)
    assert len(posts) == count, "a batch did not fit into one request"
    return posts


def _occurrence(type_: EventType, at: datetime, run: str, number: int) -> Occurrence:
    return Occurrence(type=type_, recipient=f"u{number}@d{number % 97}.test", at=at, run=run, number=number)


def pickled(parts: Sequence[bytes]) -> bytes:
    """As the processes read them from a file."""
    return pickle.dumps(parts)


def wire(source: str, post: Post) -> bytes:
    """The bytes of the HTTP request."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in post.headers.items())
    head = f"POST /webhooks/{source} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(post.body)}\r\n{headers}\r\n"
    return head.encode() + post.body
