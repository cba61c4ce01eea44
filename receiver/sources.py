"""A source: one configured account of a provider, with its own name, URL and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from receiver import oauth
from receiver.contract import Provider, SourceSettings, World
from receiver.errors import ConfigError, Problem
from receiver.faults import did_you_mean, json_list, problems_of, setting_names, split_list
from receiver.providers import provider as provider_of
from receiver.providers import provider_names
from receiver.raw_settings import resolve_files
from receiver.settings import Settings

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
PATH: Final = "/webhooks/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What `[sources.<name>]` became: its settings, and the provider's code bound to them."""

    name: str
    provider: Provider
    settings: SourceSettings


def bind_sources(settings: Settings, world: World) -> dict[str, Source]:
    """Every configured source by name. Raises ConfigError with every problem of all of them."""
    sources, problems = find_sources(settings, world)
    if problems:
        raise ConfigError(problems)
    return sources


def find_sources(settings: Settings, world: World) -> tuple[dict[str, Source], list[Problem]]:
    """The sources that can be used, and what is wrong with the others."""
    if not settings.sources:
        right = "Add a table [sources.<name>]: `receiver init` writes examples, and `receiver serve --demo` needs none"
        return {}, [Problem("sources", "is missing: no event could ever arrive", right)]
    bound, problems = dict[str, Source](), list[Problem]()
    for name in settings.sources:
        found = _bind(name, settings, world)
        if isinstance(found, Source):
            bound[name] = found
        else:
            problems += found
    return bound, [*problems, *_shared_clients(bound)]


def webhook_url(settings: Settings, name: str, listening: str | None = None) -> str:
    """The URL to give to the provider. `listening`: where the service listens, if it is known."""
    start = settings.public_url or listening or f"http://{_in_url(settings.host)}:{settings.port}"
    return f"{start}{PATH}{name}"


def source_warnings(source: Source) -> Sequence[str]:
    """What is allowed, but should be known before real mail depends on it."""
    warnings = getattr(source.provider, "warnings", None)
    return [] if warnings is None else list(warnings(source.settings))


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bind(name: str, settings: Settings, world: World) -> Source | list[Problem]:
    key, table = f"sources.{name}", settings.sources[name]
    if not NAME.fullmatch(name):
        right = "Use a to z, 0 to 9, - and _, at most 63 characters, beginning with a letter or digit"
        return [Problem(key, "is not a name that can stand in a URL", right)]
    provider = _provider(table.get("provider"), key)
    if isinstance(provider, Problem):
        return [provider]
    bound, problems = _settings(provider, name, settings)
    if bound is not None:
        problems += provider.problems(bound, key)
    if bound is None or problems:
        return problems
    return Source(name=name, provider=provider(bound, world), settings=bound)


def _shared_clients(sources: Mapping[str, Source]) -> Iterator[Problem]:
    """A client's name leads to its source, so no two may have one."""
    owners = dict[str, str]()
    for name, source in sources.items():
        if isinstance(source.settings, oauth.ClientSettings) and source.settings.client_id:
            first = owners.setdefault(source.settings.client_id, name)
            if first != name:
                yield Problem(f"sources.{name}.client_id", f"is also that of sources.{first}", oauth.RIGHT)


def _provider(word: object, key: str) -> type[Provider] | Problem:
    known = provider_names()
    right = f"One of: {', '.join(known)}"
    if word is None:
        return Problem(f"{key}.provider", "is missing", right)
    if not isinstance(word, str) or word not in known:
        wrong = f"is not a provider known here{did_you_mean(str(word), known)}"
        return Problem(f"{key}.provider", wrong, right)
    return provider_of(word)


def _settings(provider: type[Provider], name: str, settings: Settings) -> tuple[SourceSettings | None, list[Problem]]:
    model, prefix = provider.Settings, f"sources.{name}."
    table, problems = resolve_files(settings.sources[name], setting_names(model), prefix)
    if settings.public_url and "public_url" not in table:
        table["public_url"] = webhook_url(settings, name)
    origins = settings.origins
    try:
        bound = model.model_validate(_split_lists(table, model, prefix, origins))
    except ValidationError as error:
        faults = [problem for _, problem in problems_of(error, model, prefix, origins)]
        return None, [*problems, *faults]
    return bound, problems


def _split_lists(
    table: Mapping[str, Any], model: type[SourceSettings], prefix: str, origins: Mapping[str, str]
) -> dict[str, Any]:
    """Lists that came from the environment as text. A secret is never split at commas: it may have some."""
    split = dict(table)
    for key, name in setting_names(model).items():
        value, field = table.get(key), model.model_fields[name]
        if isinstance(value, str) and f"{prefix}{key}" in origins and get_origin(field.annotation) is list:
            split[key] = (json_list(value) or [value]) if _secret(field) else split_list(value)
    return split


def _secret(field: FieldInfo) -> bool:
    return SecretStr in get_args(field.annotation)
