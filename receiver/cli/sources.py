"""`receiver sources`: what is configured, and what to paste into the providers' consoles."""

from __future__ import annotations

from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from receiver.cli import options
from receiver.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from receiver.cli.place import Place
    from receiver.contract import Provider
    from receiver.sources import Source

HEAD: Final = ("name", "provider", "label", "url", "state", "last event")
WIDTH: Final = 120  # columns that those of HEAD want; in fewer, each line would be folded into four
WIDEST: Final = 100  # columns of what is to be read
COVERS: Final = {
    "body": "the whole body: nothing in it can be changed or invented without the secret",
    "fields": "the fields that say what happened",
    "token": "a time and a token, not the body: TLS alone protects what the events say",
    "nothing": "nothing of the body: whoever knows the credentials can say anything, and TLS alone protects it",
}

group = options.group("The configured accounts of providers: `list` (also without saying so) and `show`.")


@group.command("list")
def list_(
    context: typer.Context,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also every provider that is known here.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the sources with their webhook URLs.

    Example: receiver sources

    Example: receiver sources --all --json
    """
    from receiver.cli.place import find_place, run_async

    run_async(_list(find_place(context), every=all_, as_json=as_json))


@group.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A source's name, or a provider's.")],
    *,
    page: Annotated[bool, typer.Option("--page", help="The provider's whole page, as Markdown.")] = False,
) -> None:
    """Show how to set a source up at its provider: the URL to paste, what to tick, and what its proof protects.

    Example: receiver sources show postmark
    """
    from receiver.cli.lines import say
    from receiver.cli.place import find_place
    from receiver.cli.provider_page import markdown
    from receiver.sources import webhook_url

    place = find_place(context)
    configured = place.settings.sources
    provider = provider_named(str(configured.get(name, {}).get("provider", name)), [*configured])
    if page:
        say(markdown(provider))
        return
    what = "source" if name in configured else "not configured, it could be the source"
    say(f"{provider.title}: {what} {name!r}")
    for line in _explained(provider, webhook_url(place.settings, name, place.url), configured.get(name)):
        say(line)


def provider_named(word: str, others: Sequence[str] = ()) -> type[Provider]:
    """The provider of that name. Raises CommandError, with a guess among `others` too."""
    from receiver.cli.failures import CommandError
    from receiver.faults import did_you_mean
    from receiver.providers import provider, provider_names

    known = provider_names()
    if word not in known:
        raise CommandError(f"there is no source or provider {word!r}{did_you_mean(word, [*others, *known])}")
    return provider(word)


def _explained(provider: type[Provider], url: str, table: Mapping[str, Any] | None) -> Iterator[str]:
    """`table`: the source's own, if it is configured; some proofs depend on it."""
    from receiver.cli.prose import filled, for_terminal
    from receiver.cli.provider_page import LABELS, answers
    from receiver.cli.template import example

    width = min(get_terminal_size().columns, WIDEST)
    yield f"URL: {url}"
    yield ""
    yield from for_terminal(provider.simulation.setup, url, width)
    if table is None:
        yield ""
        yield "Then write into receiver.toml (what is left out has a default):"
        yield from (f"  {line}" for line in example(provider))
    covers_with = getattr(provider, "covers_with", None)
    yield ""
    yield from filled(
        f"Its proof covers {COVERS[covers_with(table) if covers_with and table else provider.covers]}.", width
    )
    yield from filled(f"Without a success: {provider.reply.retries}", width)
    yield from filled("We answer: " + "; ".join(f"{what} {code}" for what, code in answers(provider)) + ".", width)
    yield from filled(f"This rests on: {LABELS[provider.basis]}.", width)


async def _list(place: Place, *, every: bool, as_json: bool) -> None:
    from receiver.cli.output import json_line, narrow, table

    rows = [*await _configured(place), *(_known(place) if every else [])]
    if as_json:
        for row in rows:
            json_line(row)
        return
    names = [name for name in HEAD if every or name != "label"]
    if narrow(WIDTH):
        names = ["name", "label", "state"] if every else ["name", "url", "state"]
    empty = "no sources are configured; `receiver sources --all` lists the providers, `receiver init` writes a file"
    table(names, ([row[name.replace(" ", "_")] for name in names] for row in rows), empty=empty)


async def _configured(place: Place) -> list[dict[str, Any]]:
    from receiver.cli.world import local_world
    from receiver.sources import find_sources, webhook_url

    settings = place.settings
    if not settings.sources:
        return []
    bound, _ = find_sources(settings, local_world())
    last = await _last_events(place, list(settings.sources))
    return [
        {
            "name": name,
            "provider": str(raw.get("provider", "")),
            "label": _label(raw.get("provider")),
            "url": webhook_url(settings, name, place.url),
            "configured": True,
            "state": _state(bound.get(name)),
            "last_event": last.get(name),
        }
        for name, raw in settings.sources.items()
    ]


def _label(word: object) -> str | None:
    from receiver.cli.provider_page import LABEL
    from receiver.providers import provider, provider_names

    return LABEL[provider(word).basis] if isinstance(word, str) and word in provider_names() else None


def _state(source: Source | None) -> str:
    from receiver.sources import source_warnings

    if source is None:
        return "wrong: see `receiver check`"
    return "ok, with warnings" if source_warnings(source) else "ok"


async def _last_events(place: Place, names: list[str]) -> dict[str, Any]:
    """When each source's last event of the last 31 days came; nothing where the database cannot be asked."""
    from datetime import UTC, datetime, timedelta

    from receiver.cli.database import connected
    from receiver.cli.failures import CommandError
    from receiver.errors import ConfigError
    from receiver.store.queries import last_events

    try:
        async with connected(place.database()) as connection:
            found = await last_events(connection, names, since=datetime.now(UTC) - timedelta(days=31))
    except (CommandError, ConfigError):  # the list of sources is worth showing without it
        return {}
    return dict(found)


def _known(place: Place) -> list[dict[str, Any]]:
    """The providers that no source uses."""
    from receiver.providers import providers
    from receiver.sources import webhook_url

    used = {raw.get("provider") for raw in place.settings.sources.values()}
    return [
        {
            "name": name,
            "provider": name,
            "label": _label(name),
            "url": webhook_url(place.settings, name, place.url),
            "configured": False,
            "state": "not configured",
            "last_event": None,
        }
        for name in providers()
        if name not in used
    ]
