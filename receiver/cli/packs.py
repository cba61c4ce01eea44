"""Nasty input for `receiver simulate --pack`: what providers and the way to us have been seen to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from receiver.contract import Occurrence, Post, Provider
from receiver.event import EventType

THOUSAND: Final = 1000
FEW: Final = 5
COPIES: Final = 3
NEW_WORD: Final = "brand_new_word"
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a pack plays with. `type`: the event that was asked for."""

    provider: type[Provider]
    keys: Mapping[str, str]
    type: EventType
    recipient: str
    run: str
    now: datetime

    def item(self, number: int = 0, **changes: Any) -> Any:
        occurrence = Occurrence(
            type=self.type,
            recipient=self.recipient,
            at=self.now,
            run=self.run,
            number=number,
            sender="news@example.net",
        )
        return self.provider.simulation.sample(replace(occurrence, **changes))

    def post(self, *items: Any, at: datetime | None = None) -> Sequence[Post]:
        return self.provider.simulation.post(items, self.keys, at or self.now)

    @property
    def stored(self) -> frozenset[int]:
        return frozenset({self.provider.reply.stored})

    @property
    def refused(self) -> frozenset[int]:
        return frozenset({self.provider.reply.refused, self.provider.reply.again})


Expected = tuple[Post, frozenset[int]]


def _duplicates(scene: Scene) -> Iterator[Expected]:
    """The same event three times, signed anew and with new ids where the provider gives some: stored once"""
    for copy in range(COPIES):
        item = scene.item()
        if isinstance(item, dict):
            item |= {name: f"{scene.run}-{copy}" for name in scene.provider.simulation.volatile if name in item}
        yield from _all(scene.post(item), scene.stored)


def _disorder(scene: Scene) -> Iterator[Expected]:
    """Everything that can happen to one mail, the last first"""
    types = scene.provider.simulation.types
    for place, type_ in reversed([*enumerate(types)]):
        at = scene.now - timedelta(seconds=len(types) - place)
        yield from _all(scene.post(scene.item(type=type_, at=at)), scene.stored)


def _batch(scene: Scene) -> Iterator[Expected]:
    """A thousand events at once, in as few requests as the provider makes of them"""
    yield from _all(scene.post(*(scene.item(number) for number in range(THOUSAND))), scene.stored)


def _mangled(scene: Scene) -> Iterator[Expected]:
    """A body that a proxy decoded and encoded again, with the signature it came with: refused where that covers it"""
    covered = scene.provider.covers == "body"
    for post in scene.post(scene.item()):
        yield replace(post, body=_encoded_again(post.body)), scene.refused if covered else scene.stored | scene.refused


def _skew(scene: Scene) -> Iterator[Expected]:
    """Signed a day ago, and a day ahead: refused where a signed time says so"""
    for at in (scene.now - DAY, scene.now + DAY):
        yield from _all(scene.post(scene.item(), at=at), scene.stored | scene.refused)


def _unknown(scene: Scene) -> Iterator[Expected]:
    """An event of a type that nobody has documented: stored"""
    words = {part for word in scene.provider.words for part in (word, *word.split(":"))}
    item = _replaced(scene.item(), lambda value: NEW_WORD if value in words else value)
    yield from _all(scene.post(item), scene.stored)


def _nobody(scene: Scene) -> Iterator[Expected]:
    """An event that does not say for whom: stored"""
    item = _replaced(scene.item(), lambda value: None if value == scene.recipient else value)
    yield from _all(scene.post(item), scene.stored)


PACKS: Final[Mapping[str, Callable[[Scene], Iterator[Expected]]]] = {
    "duplicates": _duplicates,
    "disorder": _disorder,
    "batch": _batch,
    "mangled": _mangled,
    "skew": _skew,
    "unknown": _unknown,
    "nobody": _nobody,
}


def explained() -> Iterator[tuple[str, str]]:
    """Each pack's name, and what it does."""
    yield from ((name, pack.__doc__ or "") for name, pack in PACKS.items())


def _all(posts: Sequence[Post], expected: frozenset[int]) -> Iterator[Expected]:
    yield from ((post, expected) for post in posts)


def _encoded_again(body: bytes) -> bytes:
    try:
        return json.dumps(json.loads(body), indent=1).encode()
    except ValueError:  # a form, or lines
        return body + b" "


def _replaced(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _replaced(member, change) for key, member in value.items()}
    return [_replaced(member, change) for member in value] if isinstance(value, list) else value
