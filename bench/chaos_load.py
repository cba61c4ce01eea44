"""The providers of a chaos run: they send, send twice, send in another order, and send again until it is taken."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import httpx

from receiver.contract import Occurrence, Post
from receiver.event import EventType
from tests.service import Played

CLIENTS: Final = 12
WINDOW: Final = 60  # posts among which the next one is drawn, so that they arrive in another order
TWICE: Final = 0.1  # share of posts that are sent a second time although they were taken
LARGEST: Final = 40  # events in a batch
PAUSE: Final = (0.1, 0.8)  # seconds before a provider tries again
_TYPES: Final = (EventType.DELIVERED, EventType.BOUNCED, EventType.OPENED, EventType.CLICKED, EventType.COMPLAINED)


@dataclass(slots=True, eq=False)
class Parcel:
    """A post, and the recipients of its events; each recipient is in one event of the whole run.

    `again`: the status by which its provider is told to try again. `second`: it was taken before, and is sent again.
    """

    source: str
    post: Post
    recipients: Sequence[str]
    again: int
    second: bool = False


@dataclass(slots=True)
class Load:
    """Sends about `rate` events per second until `stop`, then until everything was taken, second copies too.

    `taken`: recipients of events that were answered with success. `answers`: attempts by status; 0: no answer.
    `second_answers`: the same for the `repeated` deliveries, those that had been taken. `told_again`: what was refused
    with its provider's "try again" code at least once.
    """

    url: str
    sources: Sequence[Played]
    rate: float
    dice: random.Random
    taken: set[str] = field(default_factory=set)
    answers: Counter[int] = field(default_factory=Counter)
    second_answers: Counter[int] = field(default_factory=Counter)
    told_again: set[Parcel] = field(default_factory=set)
    sent: int = 0
    again: int = 0
    repeated: int = 0
    _window: list[Parcel] = field(default_factory=list)
    _stopped: bool = False
    _under_way: int = 0

    @property
    def again_codes(self) -> frozenset[int]:
        """The statuses by which the providers are told to try again."""
        return frozenset(one.source.provider.reply.again for one in self.sources)

    def stop(self) -> None:
        """Nothing new; what was not taken yet is sent again until it is."""
        self._stopped = True

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=20, limits=limits) as client,
            asyncio.TaskGroup() as all_,
        ):
            all_.create_task(self._make())
            for _ in range(CLIENTS):
                all_.create_task(self._send(client))

    async def _make(self) -> None:
        loop, number = asyncio.get_running_loop(), 0
        started = loop.time()
        while not self._stopped:
            if number > (loop.time() - started) * self.rate or len(self._window) > 3 * WINDOW:
                await asyncio.sleep(0.02)
                continue
            played = self.dice.choice(self.sources)
            count = self.dice.randint(1, LARGEST) if played.source.name == "sendgrid" else 1
            self._window += self._parcels(played, range(number, number + count))
            number += count
        self.sent = number

    def _parcels(self, played: Played, numbers: range) -> list[Parcel]:
        name, provider, now = played.source.name, played.source.provider, datetime.now(UTC)
        simulation, again = provider.simulation, provider.reply.again
        recipients = [f"n{number}@chaos.test" for number in numbers]
        types = [type_ for type_ in _TYPES if type_ in simulation.types]
        items = [
            simulation.sample(
                Occurrence(type=self.dice.choice(types), recipient=recipient, at=now, run="chaos", number=number)
            )
            for number, recipient in zip(numbers, recipients, strict=True)
        ]
        posts = simulation.post(items, played.keys, now)
        if len(posts) == 1:
            return [Parcel(name, posts[0], recipients, again)]
        assert len(posts) == len(items), "a provider puts one event into a post, or all of them"
        return [Parcel(name, post, [one], again) for post, one in zip(posts, recipients, strict=True)]

    async def _send(self, client: httpx.AsyncClient) -> None:
        while not (self._stopped and not self._window and not self._under_way):
            if len(self._window) < (1 if self._stopped else WINDOW // 2):
                await asyncio.sleep(0.01)
                continue
            parcel = self._window.pop(self.dice.randrange(len(self._window)))
            self._under_way += 1
            try:
                await self._attempt(client, parcel)
            finally:
                self._under_way -= 1

    async def _attempt(self, client: httpx.AsyncClient, parcel: Parcel) -> None:
        status = await self._post(client, parcel)
        (self.second_answers if parcel.second else self.answers)[status] += 1
        if not 200 <= status < 300:
            await self._later(parcel, status)
        elif not parcel.second:
            self.taken.update(parcel.recipients)
            if self.dice.random() < TWICE:
                self.repeated += 1
                await self._attempt(client, replace(parcel, second=True))

    async def _later(self, parcel: Parcel, status: int) -> None:
        self.again += 1
        if status == parcel.again and not parcel.second:
            self.told_again.add(parcel)
        await asyncio.sleep(self.dice.uniform(*PAUSE))
        self._window.append(parcel)

    async def _post(self, client: httpx.AsyncClient, parcel: Parcel) -> int:
        query = f"?{parcel.post.query}" if parcel.post.query else ""
        try:
            answer = await client.post(
                f"/webhooks/{parcel.source}{query}", content=parcel.post.body, headers=dict(parcel.post.headers)
            )
        except httpx.TransportError:  # killed, cut off, not there yet
            return 0
        return answer.status_code
