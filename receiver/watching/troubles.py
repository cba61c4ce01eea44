"""What an observation says is wrong: plain functions, each a kind of problem."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from receiver.alert_settings import AlertSettings, Severity
from receiver.durations import say_duration
from receiver.sources import Source
from receiver.store.activity import Activity
from receiver.store.alerts import Alert
from receiver.store.needs import WAITS, Warned
from receiver.store.observations import Observation
from receiver.store.standing import Standing

SILENCE: Final = "silence"
INSTALLATION: Final = (
    *("backlog", "breaker", "dead_letters", "quarantine", "partitions", "retention", "retention_failed", "replay"),
    "account",
)
KINDS: Final = {"item": "unreadable items", "delivery": "unreadable deliveries", "stale": "rightly signed, too old"}
COVERED: Final = timedelta(days=3)  # partitions are made a week ahead at least: this late, making them must be failing
ABANDONED: Final = timedelta(minutes=10)  # without a process that receives for a source; a restart takes less
FAILING: Final = timedelta(hours=36)  # retention is begun a day after it was done, and then every hour until it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A problem that is there now.

    `subject`: whose, such as a handler; empty where it is everybody's. `since`: None where only now is known.
    """

    kind: str
    subject: str = ""
    severity: Severity = "warning"
    text: str
    since: datetime | None = None

    @property
    def key(self) -> str:
        """The same for as long as it is the same problem."""
        return f"{self.kind}:{self.subject}" if self.subject else self.kind


def installation(seen: Observation, settings: AlertSettings, *, neglected: bool) -> Iterator[Trouble]:
    """Everything but silence. `neglected`: retention that was due for hours has not been begun."""
    for one in seen.handlers:
        yield from _handler(one, settings)
    for handler, error, count in _enough(seen.dead_letters, settings.dead_letters):
        events = _of(count, "event", "events")
        text = f"handler {handler} has given up on {events} with {error}: receiver dead-letters list"
        yield Trouble(kind="dead_letters", subject=f"{handler}:{error}", text=text)
    for source, kind, count in _enough(seen.quarantine, settings.quarantine):
        entries = _of(count, "entry", "entries")
        text = f"{entries} of source {source} in quarantine ({KINDS.get(kind, kind)}): receiver quarantine list"
        yield Trouble(kind="quarantine", subject=f"{source}:{kind}", text=text)
    for account, since in sorted(seen.paused_accounts.items()):
        whose = "all sending is" if account == "*" else f"account {account} is"
        text = f"{whose} paused since {_when(since)}: receiver sends accounts"
        yield Trouble(kind="account", subject=account, severity="critical", text=text, since=since)
    if seen.covered_until is None or seen.covered_until < seen.at + COVERED:
        text = f"there is no partition for events after {_when(seen.covered_until or seen.at)}, and making one fails"
        yield Trouble(kind="partitions", severity="critical", text=text)
    yield from _retention(seen, neglected=neglected)


def _enough(counts: Mapping[str, Mapping[str, int]], least: int) -> Iterator[tuple[str, str, int]]:
    """Each kind is a problem of its own, or one that is open would hide the next; how many there must be is for all."""
    for name, kinds in sorted(counts.items()):
        if sum(kinds.values()) >= least:
            yield from ((name, kind, count) for kind, count in sorted(kinds.items()))


def is_overdue(seen: Observation) -> bool:
    """Whether retention should have been done long ago."""
    done = seen.retention.finished_at
    return done is None or done < seen.at - FAILING


def _retention(seen: Observation, *, neglected: bool) -> Iterator[Trouble]:
    """Without an error it was not begun: what maintenance does before it fails, or it cannot connect."""
    done, error = seen.retention.finished_at, seen.retention.error
    if is_overdue(seen) and (error or neglected):
        since = f"since {_when(done)}" if done else "from the first time on"
        why = error or "it was not begun, or was killed: see maintenance_failed in the log"
        text = f"retention has failed {since} ({why}): receiver retention run"
        yield Trouble(kind="retention_failed", text=text, since=done)


def _handler(one: Standing, settings: AlertSettings) -> Iterator[Trouble]:
    name = one.handler
    if one.breaker_since is not None and one.state != "removed":
        # Without the error: it may quote a stranger, and this text goes where markup is understood.
        text = f"handler {name} fails for everything and is held since {_when(one.breaker_since)}: receiver handlers"
        yield Trouble(kind="breaker", subject=name, severity="critical", text=text, since=one.breaker_since)
    late = timedelta(seconds=one.lag_seconds)
    if one.state != "paused" and late >= settings.backlog_after:
        text = (
            f"handler {name} is {say_duration(late)} behind ({_waiting(one)}){_BECAUSE.get(one.state, '').format(name)}"
        )
        yield Trouble(kind="backlog", subject=name, text=text)


# Removed: whether its workers died or somebody took it out of the code looks the same from here: a person has to say.
_BECAUSE: Final = {
    "resting": ", and rests, as it has asked to: receiver handlers",
    "idle": ", and no process runs it",
    "removed": ", and none of the processes runs it: start one that does, or receiver handlers remove {}",
}


def _waiting(one: Standing) -> str:
    return ("at least " if one.lag_at_least else "") + _of(one.backlog, "event", "events")


def end_at_handler(alert: Alert, handlers: Collection[Standing]) -> str | None:
    """What ended a handler's problem, where that is not its being well again."""
    name = _subject(alert)
    if alert.kind not in ("backlog", "breaker"):
        return None
    one = next((one for one in handlers if one.handler == name), None)
    if one is None:
        return f"handler {name} was removed"
    if one.state == "removed":
        return f"no process runs handler {name} any more"
    return f"handler {name} was paused, with {_waiting(one)} waiting" if one.state == "paused" else None


def endangered(warned: Collection[Warned]) -> Iterator[Trouble]:
    """What retention waits for, or will have to. Of missing partitions an observation tells."""
    kinds = {"retention_lag": "retention", WAITS: "retention", "replay": "replay"}
    for one in warned:
        key, _, subject = one.key.partition(":")
        if key in kinds:
            severity: Severity = "critical" if one.severity == "critical" else "warning"
            yield Trouble(kind=kinds[key], subject=subject, severity=severity, text=one.text)


def silences(seen: Collection[Activity], sources: Mapping[str, Source], known: Collection[Alert]) -> Iterator[Trouble]:
    """Sources that have been quiet for longer than their `expect_every`.

    A silence begins with the last event, or when watching began (again): a pause of ours is not theirs. One that is
    `known` lasts until there is an event, whatever happened to us meanwhile.
    """
    opened = {alert.key: alert.since for alert in known}
    for activity in seen:
        source = sources.get(activity.source)
        expected = None if source is None else source.settings.expect_every
        if source is None or expected is None:
            continue
        last = activity.last_event_at
        since = last or activity.watched_since
        found = Trouble(
            kind=SILENCE,
            subject=activity.source,
            text=f"{title(source, sources)} has been quiet for {say_duration(activity.now - since)}: "
            f"{f'the last event came {_when(last)}' if last else 'none has ever come'}, "
            f"one is expected every {say_duration(expected)}",
            since=since,
        )
        begun = found.key in opened and since <= opened[found.key]
        if activity.now - (since if begun else max(since, activity.watched_since)) > expected:
            yield found


def is_abandoned(alert: Alert, seen: Collection[Activity]) -> bool:
    """Whether no process receives for the silent source any more: it was taken out, or its processes do not run."""
    activity = _activity(alert, seen)
    return activity is None or activity.seen_at < activity.now - ABANDONED


def end_of_silence(alert: Alert, seen: Collection[Activity], sources: Mapping[str, Source]) -> str | None:
    """`SES is back after 42 minutes`; None where no more is expected of it."""
    name = _subject(alert)
    if is_abandoned(alert, seen):
        return f"no process receives for {name} any more"
    activity, source = _activity(alert, seen), sources.get(name)
    last = activity.last_event_at if activity else None
    if source is None or last is None or last <= alert.since:
        return None
    return f"{title(source, sources)} is back after {say_duration(last - alert.since)}"


def _activity(alert: Alert, seen: Collection[Activity]) -> Activity | None:
    return next((one for one in seen if one.source == _subject(alert)), None)


def _subject(alert: Alert) -> str:
    return alert.key.partition(":")[2]


def title(source: Source, sources: Mapping[str, Source]) -> str:
    """The provider's name, or the source's where several are of that provider."""
    provider = source.provider.title.partition(" (")[0]
    alone = sum(one.provider.name == source.provider.name for one in sources.values()) == 1
    return provider if alone else f"{source.name} ({provider})"


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _of(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
