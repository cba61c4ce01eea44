"""Each problem once: opened when it is first seen, told, resolved when it is gone. One process at a time decides.

Duties are taken one by one, because not every process can do each: only those that receive for a source know it, and
only those with a URL can tell anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

import asyncpg
import structlog

from receiver.alert_settings import AlertSettings
from receiver.durations import say_duration
from receiver.errors import Unavailable
from receiver.policy_settings import PolicySettings
from receiver.retention_settings import RetentionSettings
from receiver.sources import Source
from receiver.store import alerts, bounce_hours, tasks
from receiver.store.activity import activities, note_activity
from receiver.store.alerts import Alert
from receiver.store.connect import AWAY, KeptConnection
from receiver.store.needs import WAITS, Warned, warnings
from receiver.store.observations import Observation, observe
from receiver.watching import bad_days
from receiver.watching.notices import Notices
from receiver.watching.troubles import (
    INSTALLATION,
    SILENCE,
    Trouble,
    end_at_handler,
    end_of_silence,
    endangered,
    installation,
    is_abandoned,
    is_overdue,
    silences,
)

log = structlog.get_logger("alerts")

EVERY: Final = 10.0  # seconds between looks
HELD: Final = 6  # looks that a duty is kept without a sign of life
WITHIN: Final = 10.0  # seconds for one look
# Looks at which retention was overdue, and neither waited nor went on: three hours. Maintenance comes to it every hour,
# and learns only then that the server's clock has jumped. Looks are counted, as no clock that jumps makes more of them.
NEGLECTED: Final = 1080
REPEATED: Final = 6  # looks that fail in a row: no longer a moment's matter
BOUNCES: Final = 30  # looks from one at bounces to the next: they are counted from events
COUNTING: Final = 30.0  # seconds for that one
SETTLED: Final = timedelta(minutes=1)  # what comes and goes is one problem
FIRST_WAIT: Final = 5.0  # seconds after the first notice that failed
LONGEST_WAIT: Final = 900.0

Heard = Callable[[], Mapping[str, int]]


class Alarm:
    """Looks around every few seconds until cancelled.

    `sources`: those that this process receives for. `heard`: how many deliveries of each were stored by now.
    `every`: seconds between looks. `settled`: how long a problem must be gone before it counts as resolved.
    """

    def __init__(
        self,
        connection: KeptConnection,
        settings: AlertSettings,
        *,
        sources: Mapping[str, Source] | None = None,
        heard: Heard = Counter,
        retention: RetentionSettings | None = None,
        policy: PolicySettings | None = None,
        every: float = EVERY,
        settled: timedelta = SETTLED,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._sources = sources or {}
        self._heard = heard
        self._retention = retention or RetentionSettings()
        self._policy = policy or PolicySettings()
        self._last_heard: Mapping[str, int] = {}
        self._neglected = 0  # looks: see NEGLECTED
        self._failures = 0  # looks in a row that could not be ended
        self._every = every
        self._settled = settled
        self._owner = f"{tasks.this_process()}:{secrets.token_hex(4)}"  # a test has several in one process
        self._notices = Notices(settings) if settings.url else None

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for."""
        try:
            while True:
                try:
                    await self._look()
                    self._looked()
                except AWAY as error:
                    self._could_not_look(error)
                except Exception:  # a fault of ours must not end the watch
                    log.exception("cannot look for problems", action="alerts_failed")
                await asyncio.sleep(self._every)
        finally:
            await self._end()

    def _could_not_look(self, error: BaseException) -> None:
        self._failures += 1
        say = log.warning if self._failures == REPEATED else log.debug
        say("cannot look for problems", action="alerts_failed", error=type(error).__name__, times=self._failures)

    def _looked(self) -> None:
        if self._failures >= REPEATED:
            log.info("problems are looked for again", action="alerts_recovered", times=self._failures)
        self._failures = 0

    async def _end(self) -> None:
        with contextlib.suppress(*AWAY):
            async with self._connection.transaction(within=2) as connection:
                await self._note(connection, self._heard())
                await tasks.leave(connection, self._owner)
        self._connection.close()
        if self._notices:
            await self._notices.close()

    async def _look(self) -> None:
        """In transactions of their own, the longest last: none keeps another from being done."""
        if self._sources:
            counts = dict(self._heard())
            async with self._connection.transaction(within=WITHIN) as connection:
                await self._note(connection, counts)
                await self._watch_sources(connection)
            self._last_heard = counts  # only now is it written down
        if self._notices:
            async with self._connection.transaction(within=WITHIN) as connection:
                telling = await self._has("send_alerts", connection)
            if telling:
                await self._tell(self._notices)
        async with self._connection.transaction(within=WITHIN) as connection:
            if await self._has("watch_installation", connection):
                await self._watch_installation(connection)
            else:
                self._neglected = 0
        await self._watch_bounces()

    async def _watch_installation(self, connection: asyncpg.Connection) -> None:
        seen, warned = await observe(connection), await warnings(connection, self._retention)
        neglected = await self._neglects_retention(connection, seen, warned)
        found = [*installation(seen, self._settings, neglected=neglected), *endangered(warned)]
        known = await alerts.open_alerts(connection, INSTALLATION)
        await self._settle(connection, found, known, end=lambda alert: end_at_handler(alert, seen.handlers))

    async def _neglects_retention(
        self, connection: asyncpg.Connection, seen: Observation, warned: Collection[Warned]
    ) -> bool:
        """What was told lasts until retention is done, whoever looks by then."""
        if not is_overdue(seen):
            self._neglected = 0
        elif not (seen.retention.under_way or any(one.key == WAITS for one in warned)):
            self._neglected += 1
        return self._neglected >= NEGLECTED or bool(await alerts.open_alerts(connection, ["retention_failed"]))

    async def _watch_bounces(self) -> None:
        """Every few minutes; where it fails, the lease keeps it from being tried again at once."""
        async with self._connection.transaction(within=WITHIN) as connection:
            every = timedelta(seconds=self._every * BOUNCES)
            if not await tasks.take(connection, "watch_bounces", self._owner, every=every):
                return
        async with self._connection.transaction(within=COUNTING) as connection:
            now = await connection.fetchval("SELECT now()")
            release_after = self._policy.release_after
            found = await bad_days.watch(connection, self._settings, now, release_after=release_after)
            await self._settle(connection, found, await alerts.open_alerts(connection, bad_days.KINDS))
        async with self._connection.transaction(within=COUNTING) as connection:
            await bounce_hours.forget(connection, now)
        await self._count_history(now)
        async with self._connection.transaction(within=WITHIN) as connection:
            await tasks.end(connection, "watch_bounces", self._owner)

    async def _count_history(self, now: datetime) -> None:
        """Hours that were never counted, for a few seconds: the rest another time."""
        enough = time.monotonic() + WITHIN / 2
        missing = True
        while missing and time.monotonic() < enough:
            async with self._connection.transaction(within=COUNTING) as connection:
                missing = await bounce_hours.count_missing(connection, now)

    async def _has(self, duty: str, connection: asyncpg.Connection) -> bool:
        return await tasks.hold(connection, duty, self._owner, lease=self._lease)

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self._every * HELD + WITHIN)

    async def _note(self, connection: asyncpg.Connection, counts: Mapping[str, int]) -> None:
        names = sorted(self._sources)
        await note_activity(connection, names, [counts.get(one, 0) > self._last_heard.get(one, 0) for one in names])

    async def _watch_sources(self, connection: asyncpg.Connection) -> None:
        """Each source is a duty of its own, as only those that receive for it know what is expected of it."""
        duties = {f"watch_source:{name}": name for name in self._sources}
        held = await tasks.hold_each(connection, duties, self._owner, lease=self._lease)
        ours = {duties[one] for one in held}
        seen = await activities(connection)
        known = await alerts.open_alerts(connection, [SILENCE])
        found = list(silences([one for one in seen if one.source in ours], self._sources, known))
        keys = {f"{SILENCE}:{name}" for name in ours}
        await self._settle(
            *(connection, found, [one for one in known if one.key in keys or is_abandoned(one, seen)]),
            end=lambda alert: end_of_silence(alert, seen, self._sources),
            after=timedelta(0),
        )

    async def _settle(
        self,
        connection: asyncpg.Connection,
        found: Collection[Trouble],
        known: Collection[Alert],
        *,
        end: Callable[[Alert], str | None] = lambda _: None,
        after: timedelta | None = None,
    ) -> None:
        """Open what is new, and resolve what was `known` and is not found any more; `end`: by what it ended."""
        for one in found:
            if await alerts.see(
                connection, key=one.key, kind=one.kind, severity=one.severity, text=one.text, since=one.since
            ):
                log.warning(one.text, action="alert_opened", key=one.key, severity=one.severity)
        there = {one.key for one in found}
        for alert in known:
            if alert.key in there:
                continue
            text = end(alert) or _end(alert)
            if await alerts.resolve(connection, alert.id, text, after=self._settled if after is None else after):
                log.info(text, action="alert_resolved", key=alert.key)

    async def _tell(self, notices: Notices) -> None:
        """Send what is due; where one fails, the others would too, and wait."""
        settings = self._settings
        async with self._connection.transaction(within=WITHIN) as connection:
            due = await alerts.due_notices(connection, settings.severities, repeat_after=settings.repeat_after)
        enough = time.monotonic() + self._every * HELD / 2  # the duty must not run out meanwhile
        for alert in due:
            if time.monotonic() > enough:
                return
            try:
                await notices.send(alert)
            except Unavailable as error:
                log.warning("an alert was not sent", action="alert_not_sent", key=alert.key, why=str(error))
                async with self._connection.transaction(within=WITHIN) as connection:
                    await alerts.not_told(connection, alert.id, first=self._wait, longest=LONGEST_WAIT)
                return
            async with self._connection.transaction(within=WITHIN) as connection:
                await alerts.told(connection, alert)

    @property
    def _wait(self) -> float:
        return min(FIRST_WAIT, self._every)


def _end(alert: Alert) -> str:
    return f"after {say_duration(alert.last_seen - alert.since)} it is over: {alert.text}"
