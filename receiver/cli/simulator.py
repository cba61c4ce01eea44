"""Playing a provider over HTTP: what to post, to whom, how fast, and what came back."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx
from rich.console import Console
from rich.progress import Progress, TaskID

from receiver import oauth
from receiver.cli.failures import CommandError
from receiver.cli.lines import say
from receiver.cli.output import json_line
from receiver.cli.packs import PACKS, Expected, Scene
from receiver.cli.place import Place
from receiver.cli.world import local_world
from receiver.contract import Occurrence, Post, Provider, Simulation
from receiver.errors import ConfigError
from receiver.event import EventType
from receiver.faults import did_you_mean
from receiver.providers import provider as provider_of
from receiver.providers import provider_names
from receiver.sources import PATH, find_sources, webhook_url

CHUNK: Final = 100  # events handed to the provider's code at once; it batches them if the provider does
FEW: Final = 10  # requests up to which each is shown
TIMEOUT: Final = 60.0  # seconds for one answer; an overloaded service holds a request for a while
SHOWN: Final = 200  # characters of an answer's body


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to happen. `rate`: events a second. `at`: None is the moment of sending."""

    type: EventType
    to: str
    count: int = 1
    rate: float | None = None
    duplicate: int = 0
    shuffle: bool = False
    at_once: int = 8
    at: datetime | None = None
    run: str = "run"

    def numbers(self) -> list[int]:
        """The numbers of the events in the order of sending, duplicates included."""
        numbers = list(range(self.count)) * (1 + self.duplicate)
        if self.shuffle:
            random.shuffle(numbers)
        return numbers

    def recipient(self, number: int) -> str:
        local, at, domain = self.to.rpartition("@")
        return self.to if self.count == 1 else f"{local}{number + 1}{at}{domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Where to post, and how to sign. `expected`: the status codes that are right."""

    source: str
    url: str
    provider: type[Provider]
    keys: Mapping[str, str] = field(repr=False)
    expected: frozenset[int]

    @property
    def simulation(self) -> Simulation:
        return self.provider.simulation


@dataclass(slots=True)
class Report:
    """What came back."""

    events: int = 0
    requests: int = 0
    expected: int = 0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def unexpected(self) -> int:
        return self.requests - self.expected

    def times(self) -> str:
        """The middle and the 99th percentile of the answers' times."""
        sorted_ = sorted(self.milliseconds)
        if not sorted_:
            return "nothing was answered"
        if len(sorted_) == 1:
            return f"{sorted_[0]:.1f} ms"
        median, p99 = sorted_[len(sorted_) // 2], sorted_[len(sorted_) * 99 // 100]
        return f"median {median:.1f} ms, p99 {p99:.1f} ms"


def prepare(
    place: Place, name: str, plan: Plan, *, url: str | None, keys_file: Path | None, bad_signature: bool, remote: bool
) -> Prepared:
    """Raises CommandError where the simulator cannot play this source, or may not post there."""
    provider = _provider(place, name)
    simulation, reply = provider.simulation, provider.reply
    if plan.type not in simulation.types:
        known = ", ".join(simulation.types)
        raise CommandError(f"{provider.title} does not report {plan.type}; it does: {known}")
    target = _url(place, name, url, remote=remote)
    keys = _keys(place, name, simulation) if keys_file is None else _read_keys(keys_file)
    refusals = {reply.refused, reply.again}
    if keys_file is None and (client := _client(place, name)):
        keys = {**keys, "bearer_token": "none" if bad_signature else _token(target, *client)}
        refusals.add(401)
    return Prepared(
        source=name,
        url=target,
        provider=provider,
        keys=_wrong(keys, simulation) if bad_signature else keys,
        expected=frozenset(refusals) if bad_signature else frozenset({reply.stored}),
    )


def _provider(place: Place, name: str) -> type[Provider]:
    configured, known = place.settings.sources, provider_names()
    if name not in configured:
        names = ", ".join(configured) or "none"
        hint = "" if configured else "; start `receiver serve --demo` to have one for every provider"
        raise CommandError(f"there is no source {name!r}{did_you_mean(name, configured)}; configured: {names}{hint}")
    word = configured[name].get("provider")
    if not isinstance(word, str) or word not in known:
        raise CommandError(f"the source {name!r} cannot be used: see `receiver check`")
    return provider_of(word)


def _keys(place: Place, name: str, simulation: Simulation) -> Mapping[str, str]:
    """The signer's keys: those of the demo, else what the source's own settings give away."""
    if place.demo and place.demo.sources.get(name) == place.settings.sources[name]:
        return place.demo.keys[name]
    bound, problems = find_sources(place.settings, local_world())
    if name not in bound:
        own = [one for one in problems if one.key.startswith(f"sources.{name}")]
        raise ConfigError(own or problems)
    keys = simulation.keys(bound[name].settings)
    if keys is None:
        raise CommandError(f"the simulator cannot sign for {name!r}. {simulation.unsignable}")
    return keys


def _client(place: Place, name: str) -> tuple[str, str] | None:
    """Name and secret of the source's OAuth client, if it has one."""
    if not {"client_secret", "client_secret_file"} & place.settings.sources[name].keys():
        return None
    bound, _ = find_sources(place.settings, local_world())
    settings = bound[name].settings if name in bound else None
    if not isinstance(settings, oauth.ClientSettings) or not settings.client_secret:
        return None
    return settings.client_id or "", settings.client_secret[0].get_secret_value()


def _token(url: str, id_: str, secret: str) -> str:
    """An access token, as the provider gets it from the service at that URL."""
    asked = urlsplit(url)._replace(path=oauth.PATH, query="").geturl()
    try:
        answer = httpx.post(asked, auth=(id_, secret), data={"grant_type": "client_credentials"})
        answer.raise_for_status()
        return str(answer.json()["access_token"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise CommandError(f"{asked} gives no token: {error}") from error


def _read_keys(path: Path) -> Mapping[str, str]:
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read as JSON") from error
    if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
        raise CommandError(f"{path} is not a JSON object of texts")
    return keys


def _wrong(keys: Mapping[str, str], simulation: Simulation) -> Mapping[str, str]:
    """Keys of the same kind that nobody has configured."""
    with tempfile.TemporaryDirectory() as directory:
        _, others = simulation.demo(Path(directory))
    return {name: others.get(name, value) for name, value in keys.items()}


def _url(place: Place, name: str, given: str | None, *, remote: bool) -> str:
    start = given or place.url or webhook_url(place.settings.model_copy(update={"public_url": None}), name)
    try:
        parts = urlsplit(start)
        port = parts.port
    except ValueError as error:
        raise CommandError("that URL cannot be understood") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError("give a URL such as http://127.0.0.1:8080")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname, parts.hostname)  # noqa: S104 - listening on all
    if not remote and not _loopback(host):
        raise CommandError(f"{host} is not this machine: say --remote if made-up events shall really go there")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    path = parts.path if PATH in f"{parts.path}/" else f"{parts.path.rstrip('/')}{PATH}{name}"
    return urlunsplit((parts.scheme, netloc, path, parts.query, ""))


def _loopback(host: str) -> bool:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise CommandError(f"{host} cannot be found") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


async def play(prepared: Prepared, plan: Plan, *, as_json: bool) -> Report:
    """Post everything. Raises CommandError where nobody answers at all."""
    numbers = plan.numbers()
    size = _chunk_size(prepared, plan)
    chunks = iter([numbers[start : start + size] for start in range(0, len(numbers), size)])
    each = as_json or len(numbers) <= FEW
    screen = Console(file=sys.stderr)
    bar = None if each or not screen.is_terminal else Progress(console=screen, transient=True)
    with bar or nullcontext():
        limits = httpx.Limits(max_connections=plan.at_once)
        async with _http(prepared.url, limits) as client:
            await _knock(client, prepared.url)
            player = Player(prepared, plan, client, as_json=as_json, each=each)
            if bar:
                player.bar, player.task = bar, bar.add_task(prepared.source, total=len(numbers))
            await asyncio.gather(*(player.send(chunks) for _ in range(plan.at_once)))
    return player.report


def _http(url: str, limits: httpx.Limits) -> httpx.AsyncClient:
    """Certificates are loaded only where there is TLS: that takes longer than all the rest of a short run."""
    return httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=limits, verify=url.startswith("https:"))


async def play_packs(prepared: Prepared, plan: Plan, names: Sequence[str], *, as_json: bool) -> Report:
    """Post nasty input, pack by pack. Raises CommandError for a name that is none, and where nobody answers at all."""
    chosen = [*PACKS] if "all" in names else names
    if unknown := [name for name in chosen if name not in PACKS]:
        raise CommandError(
            f"there is no pack {unknown[0]!r}{did_you_mean(unknown[0], PACKS)}; there are: {', '.join(PACKS)}"
        )
    report = Report()
    async with _http(prepared.url, httpx.Limits(max_connections=1)) as client:
        await _knock(client, prepared.url)
        for name in chosen:
            scene = Scene(
                provider=prepared.provider,
                keys=prepared.keys,
                type=plan.type,
                recipient=plan.to,
                run=f"{plan.run}-{name}",
                now=datetime.now(UTC),
            )
            if not as_json:
                say(f"{name}: {PACKS[name].__doc__}")
            player = Player(prepared, plan, client, as_json=as_json, each=True, pack=name, report=report)
            await _play_pack(player, PACKS[name](scene))
    return report


async def _play_pack(player: Player, posts: Iterator[Expected]) -> None:
    """Post one pack; of many answers only the first are shown, and those that are not as expected."""
    number = 0
    for number, (post, expected) in enumerate(posts, 1):
        player.prepared = replace(player.prepared, expected=expected)
        player.each = player.as_json or number <= 2 * FEW
        player.report.events += 1
        await player.post(post, 1)
    if number > 2 * FEW and not player.as_json:
        say(f"... and {number - 2 * FEW} more")


async def _knock(client: httpx.AsyncClient, url: str) -> None:
    """As a provider's set-up does. It also opens the first connection, so that no answer's time includes that."""
    try:
        await client.head(url)
    except httpx.HTTPError as error:
        raise CommandError(f"nobody answers at {url}: is `receiver serve` running?") from error


def _chunk_size(prepared: Prepared, plan: Plan) -> int:
    """Many events where the provider batches, else one, so that several requests run at the same time."""
    now = datetime.now(UTC)
    two = [_sample(prepared, plan, number, now) for number in (0, 1)]
    batches = len(prepared.simulation.post(two, prepared.keys, now)) == 1
    size = CHUNK if batches else 1
    return size if plan.rate is None else max(1, min(size, int(plan.rate)))


def _sample(prepared: Prepared, plan: Plan, number: int, now: datetime) -> Any:
    occurrence = Occurrence(
        type=plan.type, recipient=plan.recipient(number), at=plan.at or now, run=plan.run, number=number
    )
    return prepared.simulation.sample(occurrence)


@dataclass(slots=True)
class Player:
    """One run: several `send` share the chunks."""

    prepared: Prepared
    plan: Plan
    client: httpx.AsyncClient
    as_json: bool
    each: bool
    pack: str | None = None
    report: Report = field(default_factory=Report)
    began: float = field(default_factory=time.monotonic)
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))  # duplicates say the same time
    bar: Progress | None = None
    task: TaskID | None = None

    async def send(self, chunks: Iterator[Sequence[int]]) -> None:
        for chunk in chunks:
            before = self.report.events
            self.report.events += len(chunk)
            if self.plan.rate is not None:
                await asyncio.sleep(self.began + before / self.plan.rate - time.monotonic())
            items = [_sample(self.prepared, self.plan, number, self.moment) for number in chunk]
            # Signed only now: a signature is good for a few minutes.
            for post in self.prepared.simulation.post(items, self.prepared.keys, datetime.now(UTC)):
                await self.post(post, len(chunk))
            if self.bar and self.task is not None:
                self.bar.advance(self.task, len(chunk))

    async def post(self, post: Post, events: int) -> None:
        url = self.prepared.url + (f"?{post.query}" if post.query else "")
        began = time.perf_counter()
        try:
            answer = await self.client.post(url, content=post.body, headers=dict(post.headers))
        except httpx.HTTPError as error:
            self._note(None, type(error).__name__, (time.perf_counter() - began) * 1000, events)
        else:
            body = answer.content[:SHOWN].decode(errors="replace").strip()
            self._note(answer.status_code, body, (time.perf_counter() - began) * 1000, events)

    def _note(self, status: int | None, body: str, milliseconds: float, events: int) -> None:
        expected = status in self.prepared.expected
        self.report.requests += 1
        self.report.expected += expected
        self.report.milliseconds.append(milliseconds)
        if self.as_json:
            json_line(
                {
                    "source": self.prepared.source,
                    "type": self.plan.type,
                    **({"pack": self.pack} if self.pack else {}),
                    "run": self.plan.run,
                    "events": events,
                    "status": status,
                    "body": body,
                    "milliseconds": round(milliseconds, 2),
                    "expected": expected,
                }
            )
        elif self.each or (not expected and self.report.unexpected <= FEW):
            verdict = "" if expected else f"  NOT AS EXPECTED ({', '.join(map(str, sorted(self.prepared.expected)))})"
            what = f"{self.prepared.source} {self.plan.type}" + (f" ({events} events)" if events > 1 else "")
            say(f"{what}: {status or 'no answer'} {body!r} in {milliseconds:.1f} ms{verdict}")
