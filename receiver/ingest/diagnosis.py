"""Why a request was refused, by trying what may have gone wrong: with other keys, another URL, another body.

For `receiver doctor`, which has time. Nothing here names a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from receiver.contract import Delivery, Fetch, Occurrence, Provider, World
from receiver.errors import Reason, Refused, Unavailable, Unreadable
from receiver.ingest.mangled import how_changed
from receiver.ingest.receive import check_address
from receiver.providers import providers
from receiver.settings import Settings
from receiver.sources import PATH, Source, find_sources

MANY: Final = 4  # providers that share a header's name, up to which they are named


@dataclass(frozen=True, slots=True)
class Finding:
    """The most likely cause of a refusal, and what to do. `mended`: with the present settings it is authentic."""

    cause: str
    advice: str
    mended: bool = False


class Clinic:
    """The configured sources, with the clock of the request that is looked at."""

    def __init__(self, settings: Settings, fetch: Fetch) -> None:
        self._now = datetime.fromtimestamp(0, UTC)
        self._world = World(fetch=fetch, now=lambda: self._now)
        self.sources, self.problems = find_sources(settings, self._world)

    async def accepts(self, source: Source, delivery: Delivery, *, of_any_age: bool = False) -> bool:
        """Whether the source would take the request, by the clock of when it came. Raises Unavailable."""
        refusal = await self.refusal(source, delivery)
        return refusal is None or (refusal.authentic and of_any_age)

    async def refusal(self, source: Source, delivery: Delivery) -> Refused | None:
        """Why the source would refuse the request now. Raises Unavailable."""
        self._now = delivery.at
        try:
            if source.settings.allow_from:
                check_address(source.settings, delivery)
            await source.provider.authenticate(delivery)
        except Refused as refusal:
            return refusal
        except Unreadable:  # authentic, and no event
            return None
        return None

    async def diagnose(self, source: Source, delivery: Delivery, reason: str, detail: str, *, whole: bool) -> Finding:
        """`reason`, `detail`: as it was refused. `whole`: its body was kept whole, so that it can be verified."""
        if not whole:
            return Finding(detail, f"Its body was too large to be kept whole, so nothing was tried. {_advice(reason)}")
        try:
            refusal = await self.refusal(source, delivery)
            if refusal is None:
                return _MENDED
            return await self._by_trying(source, delivery) or _by_reason(source, delivery, refusal)
        except Unavailable as error:
            return Finding(f"it cannot be verified from here: {error}", "Let this machine reach the provider")

    async def _by_trying(self, source: Source, delivery: Delivery) -> Finding | None:
        if await self.accepts(source, delivery, of_any_age=True):
            return _ONLY_ITS_TIME
        how = await how_changed(source, delivery)
        if how is not None:
            return Finding(f"the key is right, but something on the way {how}", _PROXY)
        return await self._of_another(source, delivery) or await self._at_another_url(source, delivery)

    async def _of_another(self, source: Source, delivery: Delivery) -> Finding | None:
        for other in self.sources.values():
            if other.name != source.name and await self.accepts(other, delivery, of_any_age=True):
                cause = f"it is authentic for the source {other.name!r}, whose key or credentials it carries"
                right = (
                    f"At the provider, give this webhook the URL that ends in {PATH}{other.name}, or give this source"
                )
                return Finding(cause, f"{right} its own key")
        return None

    async def _at_another_url(self, source: Source, delivery: Delivery) -> Finding | None:
        """Whether the signature fits another public URL, where the provider signs it."""
        for url in _urls(source, delivery):
            moved = source.settings.model_copy(update={"public_url": url})
            other = replace(source, provider=type(source.provider)(moved, self._world), settings=moved)
            if await self.accepts(other, delivery, of_any_age=True):
                cause = f"the provider calls this source {url!r}, which is not the `public_url` that is set"
                return Finding(cause, f"Set public_url = {url!r} in [sources.{source.name}]")
        return None


def _urls(source: Source, delivery: Delivery) -> Iterator[str]:
    hosts = {delivery.headers.get(name, "").split(",")[0].strip() for name in ("x-forwarded-host", "host")} - {""}
    endings = ("", "/") if not delivery.path else (f"/{delivery.path}",)
    for host in sorted(hosts):
        for scheme in ("https", "http"):
            for ending in endings:
                yield f"{scheme}://{host}{PATH}{source.name}{ending}"


def _by_reason(source: Source, delivery: Delivery, refusal: Refused) -> Finding:
    """What the request looks like, where nothing that was tried fits."""
    provider = source.provider
    carried = {name for name in delivery.headers if name in _telltale_headers()}
    own = {name for name in _telltale_headers() if provider.name in _telltale_headers()[name]}
    if own and not carried & own:
        strangers = sorted({title for name in carried for title in _telltale_headers()[name]})
        if strangers and len(strangers) <= MANY:
            titles = " or ".join(providers()[name].title for name in strangers)
            return Finding(f"it looks like a request of {titles}", f"Paste this URL into {provider.title} only")
        if provider.covers != "nothing":
            cause = f"it has none of the headers that {provider.title} signs with"
            return Finding(cause, f"{_UNSIGNED}; `receiver sources show {source.name}` says where")
    unsigned = provider.covers == "nothing" and refusal.reason == Reason.MISSING_HEADER
    return Finding(refusal.detail, _advice(Reason.MISSING_CREDENTIALS if unsigned else refusal.reason))


@cache
def _telltale_headers() -> Mapping[str, Sequence[str]]:
    """Header -> the providers that send it with each request, by what their simulators post."""
    found: dict[str, list[str]] = {}
    with TemporaryDirectory() as directory:
        for name, kind in providers().items():
            for header in _headers_of(kind, Path(directory)) - _USUAL:
                found.setdefault(header, []).append(name)
    return found


def _headers_of(kind: type[Provider], directory: Path) -> set[str]:
    simulation, now = kind.simulation, datetime.fromisoformat("2026-01-01T00:00:00Z")
    _, keys = simulation.demo(directory)
    occurrence = Occurrence(type=simulation.types[0], recipient="ada@example.com", at=now, run="doctor")
    [post, *_] = simulation.post([simulation.sample(occurrence)], keys, now)
    return {name.lower() for name in post.headers}


_USUAL: Final = {"content-type", "user-agent", "authorization", "x-webhook-secret", "accept", "content-length"}
_PROXY: Final = "Let proxies, gateways and tunnels hand the body on byte by byte: no JSON rewriting, no added line ends"
_UNSIGNED: Final = (
    "Switch its signature on there, and look whether a proxy on the way drops headers that it does not know"
)
_MENDED: Final = Finding(
    "with the present settings it is authentic", "`receiver refused release` stores it", mended=True
)
_ONLY_ITS_TIME: Final = Finding(
    "the signature is right, only its time is not",
    "Look whether this machine's clock is right (`timedatectl`). If it is, the provider was late, or somebody posted "
    "an old request again; it is in the quarantine as authentic. `tolerance` in the source's settings allows more",
)
_LOOK: Final = "`receiver refused show ID --reveal` shows it. Is it the provider at all?"
_ADVICE: Final[Mapping[str, str]] = {
    Reason.WRONG_KEY: "No key of this configuration fits: it is another account's or another webhook's, or was made "
    "anew. Copy it again from the provider's console",
    Reason.BODY_CHANGED: _PROXY,
    Reason.MISSING_HEADER: _UNSIGNED,
    Reason.MALFORMED_HEADER: _LOOK,
    Reason.MISSING_FIELD: _LOOK,
    Reason.CERTIFICATE: _LOOK,
    Reason.MISSING_CREDENTIALS: "Set the credentials at the provider, as this source asks for them",
    Reason.WRONG_CREDENTIALS: "Set the same credentials at the provider and here. In a URL, special characters of a "
    "password must be percent-encoded",
    Reason.EXPIRED_TOKEN: "Nothing, if its events come: after this the provider gets a new token. If none come, look "
    "whether /oauth/token of this service can be reached from outside",
    Reason.UNKNOWN_TOPIC: "If the topic is yours, add it to `topics` of this source",
    Reason.ADDRESS_NOT_ALLOWED: "If the address is the provider's, add it to `allow_from`; behind a proxy of yours set "
    "`trusted_proxies`",
    Reason.BAD_ENCODING: "Let proxies hand the body on as it is: only gzip and deflate can be undone",
    Reason.TOO_LARGE: "If it is the provider's, set a larger `max_body` for this source",
    Reason.TOO_SLOW: "Something between the provider and this service is slow: look at proxies and their buffers",
}


def _advice(reason: str) -> str:
    return _ADVICE.get(reason, _LOOK)
