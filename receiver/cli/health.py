"""Whether the service beside this command is well."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Final

from receiver.cli.failures import CommandError
from receiver.cli.place import Place

TIMEOUT: Final = 4.0  # seconds; a container's health check usually allows five


def service_health(place: Place, *, live: bool) -> str:
    """One line for people. Raises CommandError where the service does not answer, or is not ready."""
    url = _url(place, "/healthz" if live else "/readyz")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy: it is local
    try:
        with opener.open(url, timeout=TIMEOUT) as answer:
            answer.read(65536)
            return f"ok: {url} answers {answer.status}"
    except urllib.error.HTTPError as error:
        raise CommandError(f"not ready: {url} answers {error.code}{_reasons(error.read(65536))}") from error
    except OSError as error:
        raise CommandError(f"{url} does not answer: {getattr(error, 'reason', None) or error}") from error


def _url(place: Place, path: str) -> str:
    if place.run:
        return f"{place.run.admin_url}{path}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.settings.admin_host, place.settings.admin_host)  # noqa: S104 - listening on all
    return f"http://{f'[{host}]' if ':' in host else host}:{place.settings.admin_port}{path}"


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
        names = [name for name in await live_workers(connection) if name.startswith(host)]
    if not names:
        raise CommandError(f"no worker runs on {host}")
    return f"ok: {', '.join(names)}"
