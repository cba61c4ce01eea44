"""Whether what runs beside this command is well."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from receiver.cli.failures import CommandError
from receiver.cli.place import Place

TIMEOUT: Final = 4.0  # seconds; a container's health check usually allows five


def service_health(place: Place, *, live: bool) -> list[str]:
    """A line for people for each process that runs here.

    Raises CommandError where one does not answer, or is not ready.
    """
    path = "/healthz" if live else "/readyz"
    urls = [f"{one}{path}" for one in sorted(run.admin_url for run in place.runs) or [_configured(place)]]
    with ThreadPoolExecutor(len(urls)) as all_at_once:
        answers = list(all_at_once.map(_ask, urls))
    wrong = [answer for answer in answers if isinstance(answer, CommandError)]
    if wrong:
        raise CommandError("; ".join(str(one) for one in wrong))
    return [f"ok: {url} answers {status}" for url, status in zip(urls, answers, strict=True)]


def _ask(url: str) -> int | CommandError:
    """The status, or what is wrong."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy: it is local
    try:
        with opener.open(url, timeout=TIMEOUT) as answer:
            answer.read(65536)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return CommandError(f"not ready: {url} answers {error.code}{_reasons(error.read(65536))}")
    except OSError as error:
        return CommandError(f"{url} does not answer: {getattr(error, 'reason', None) or error}")


def _configured(place: Place) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.settings.admin_host, place.settings.admin_host)  # noqa: S104 - listening on all
    return f"http://{f'[{host}]' if ':' in host else host}:{place.settings.admin_port}"


def _reasons(body: bytes) -> str:
    try:
        parts = json.loads(body)["parts"]
        return ": " + ", ".join(f"{name} ({wrong})" for name, wrong in parts.items() if wrong != "ok")
    except (ValueError, KeyError, TypeError, AttributeError):  # not our service, or one of another release
        return ""


async def worker_health(place: Place) -> str:
    """One line for people. Raises CommandError where no worker of this host has renewed its place lately."""
    from receiver.cli.database import connected
    from receiver.store.queries import live_workers

    host = socket.gethostname()
    async with connected(place.database()) as connection:
        names = [name for name in await live_workers(connection) if name.startswith(f"{host}:")]
    if not names:
        raise CommandError(f"no worker runs on {host}")
    return f"ok: {', '.join(names)}"
