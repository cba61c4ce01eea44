"""Everything that must be right before the service starts, in one place for `serve`, `work` and `check`."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.text import Text

from receiver.cli.database import connected
from receiver.cli.dispatching import find_handlers
from receiver.cli.lines import say
from receiver.cli.output import show
from receiver.cli.place import Place, run_async
from receiver.cli.world import local_world
from receiver.contract import World
from receiver.errors import ConfigError, Problem
from receiver.plugins.handlers import Handler
from receiver.printable import printable
from receiver.settings import Settings, missing_settings, without_password
from receiver.sources import Source, find_sources, source_warnings, webhook_url
from receiver.store.address_keys import check_address_key
from receiver.store.log import check_generation
from receiver.store.schema import check as check_schema

if TYPE_CHECKING:
    from receiver.sending.accounts import Account

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What can be built from. `handlers`: None where this process runs none, and then it sends nothing either."""

    settings: Settings
    sources: Mapping[str, Source]
    handlers: Sequence[Handler] | None
    accounts: Mapping[str, Account]


def check_service(settings: Settings, problems: Sequence[Problem], world: World, *, dispatch: bool) -> Checked:
    """Raises ConfigError with every problem of settings, sources and handlers together."""
    sources, wrong_sources = find_sources(settings, world)
    handlers, fault = find_handlers(settings) if dispatch else (None, None)
    accounts, wrong_accounts = _sending(settings) if dispatch else ({}, [])
    found = [*problems, *_missing(settings, problems), *wrong_sources, *wrong_accounts]
    found += fault.problems if fault else ()
    if found:
        raise ConfigError(found) from (fault.__cause__ if fault else None)
    return Checked(settings=settings, sources=sources, handlers=handlers, accounts=accounts)


def check_worker(settings: Settings) -> Checked:
    """As `check_service`; a worker needs no sources, and may find its database in the run file."""
    handlers, fault = find_handlers(settings)
    accounts, wrong_accounts = _sending(settings)
    missing = [one for one in missing_settings(settings) if one.key == "secret_key"]
    found = [*missing, *wrong_accounts, *(fault.problems if fault else ())]
    if not handlers and not fault:
        right = "Name the directory of your handlers, or installed packages that offer some"
        found.append(Problem("handlers_dir", "holds no handlers, so this process would do nothing", right))
    if found:
        raise ConfigError(found) from (fault.__cause__ if fault else None)
    return Checked(settings=settings, sources={}, handlers=handlers, accounts=accounts)


def _sending(settings: Settings) -> tuple[Mapping[str, Account], list[Problem]]:
    """The accounts, and what is wrong with them or with templates. What sends is loaded only where there is some."""
    if not settings.accounts:
        return {}, []
    from receiver.sending.accounts import find_accounts
    from receiver.sending.templates import Templates

    accounts, problems = find_accounts(settings)
    return accounts, [*problems, *Templates(settings.sending.templates_dir).problems()]


def _missing(settings: Settings, problems: Sequence[Problem]) -> list[Problem]:
    """Not what is there, but wrong."""
    wrong = {problem.key.partition(" ")[0].removesuffix("_file") for problem in problems}
    return [problem for problem in missing_settings(settings) if problem.key not in wrong]


def check_all(place: Place, problems: Sequence[Problem], *, database: bool) -> None:
    """`receiver check`: what is right on standard output, warnings with it. Raises ConfigError, CommandError."""
    checked = check_service(place.settings, problems, local_world(), dispatch=True)
    settings = checked.settings
    assert settings.database is not None
    _ok(f"webhooks: on {settings.host}, port {settings.port}")
    _ok(f"administration: on {settings.admin_host}, port {settings.admin_port}")
    _ok(f"database: {'embedded' if settings.embedded else without_password(settings.database.get_secret_value())}")
    for name, source in checked.sources.items():
        _ok(f"source {name}: {source.provider.title}, {webhook_url(settings, name)}")
    for handler in checked.handlers or ():
        changed = handler.run.changed()
        _ok(f"handler {handler.name}: {handler.origin}{f' ({changed})' if changed else ''}")
    for name, account in checked.accounts.items():
        _ok(f"account {name}: {account.settings.transport}, {', '.join(account.settings.streams)}")
    _ok(f"alerts: {'posted' if settings.alerts.url else 'logged and listed, [alerts] url is not set'}")
    if database:
        version, fingerprint = run_async(_check_database(place))
        _ok(f"schema: version {version}")
        _ok(f"address key: fits the database (fingerprint {fingerprint})")
    for warning in warnings_of(checked):
        show(Text(f"WARNING  {printable(warning)}", style="bold yellow"))


async def _check_database(place: Place) -> tuple[int, str]:
    """Its version, and the fingerprint of our address key. Raises SchemaError as a start would; changes nothing."""
    fingerprint = place.vault().address_fingerprint
    async with connected(place.database()) as connection:
        version = await check_schema(connection)
        await check_address_key(connection, fingerprint, note=False)
        await check_generation(connection)
        return version, fingerprint


def _ok(text: str) -> None:
    say(f"ok  {text}")


def warnings_of(checked: Checked) -> Iterator[str]:
    """What works, but should be known."""
    settings = checked.settings
    if settings.embedded:
        yield "database: the embedded Postgres is for trying and developing, not for real mail"
    if settings.admin_host not in LOOPBACK:
        yield f"admin_host: {settings.admin_host} shows metrics and readiness to whoever reaches it"
    if settings.host not in LOOPBACK and settings.public_url is None:
        yield "public_url: is not set, so the URLs shown here are not those to give to providers"
    if checked.handlers is not None and not checked.handlers:
        yield f"handlers: there are none in {settings.handlers_dir}, so events are only stored"
    yield from _open_file(settings)
    if any(not one.prefixlen for one in settings.trusted_proxies):
        yield "trusted_proxies: has every address in it, so that anybody can claim any address"
    behind = settings.host in LOOPBACK and not settings.trusted_proxies
    marketing = [name for name, one in checked.accounts.items() if "marketing" in one.settings.streams]
    if marketing and not (settings.public_url or "").startswith("https://"):
        yield f"accounts.{marketing[0]}: marketing mail needs a public_url of https, or nobody could unsubscribe"
    for name, source in checked.sources.items():
        if source.settings.allow_from and behind:
            yield f"sources.{name}.allow_from: requests come from a proxy on this machine: name it in trusted_proxies"
        yield from (f"sources.{name}: {warning}" for warning in source_warnings(source))


def _open_file(settings: Settings) -> Iterator[str]:
    path = settings.config
    if path is None or not path.exists() or not path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return
    yield f"{path}: others on this machine can read it (chmod 600), and it may hold secrets"
