"""What the alert webhook is told: JSON that Slack and its like show, signed as Standard Webhooks say."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from receiver.alert_settings import AlertSettings
from receiver.errors import Unavailable
from receiver.outbound import Outbound
from receiver.signers.standard_webhooks import signed_headers
from receiver.store.alerts import Alert

_WORDS: Final = {"warning": "Warning", "critical": "CRITICAL"}


class Notices:
    """The way to `[alerts] url`, through the guarded client. `close` it."""

    def __init__(self, settings: AlertSettings) -> None:
        assert settings.url is not None, "without a URL nobody is told"
        self._url = settings.url.get_secret_value()
        self._keys = [settings.secret.get_secret_value()] if settings.secret else []
        parts = urlsplit(self._url)
        self.host = parts.hostname or ""
        here = (self.host, parts.port or (443 if parts.scheme == "https" else 80))
        self._outbound = Outbound(allow=[here] if settings.allow_private else ())

    async def send(self, alert: Alert) -> None:
        """Tell of a problem or of its end. Raises Unavailable (Forbidden: nothing was sent)."""
        before = f"-{alert.notified_at.timestamp():.0f}" if alert.notified_at else ""
        await self.post(f"alert-{alert.id}-{_event(alert)}{before}", _event(alert), _text(alert), _data(alert))

    async def send_test(self) -> None:
        """A trial, so that somebody sees where alerts go. Raises as `send`."""
        text = "Test: alerts of the email event receiver arrive here."
        await self.post(f"alert-test-{time.time_ns()}", "test", text, {})

    async def post(self, id_: str, event: str, text: str, data: dict[str, Any]) -> None:
        """One request. The id stays the same when a notice is sent again, so that it can be told from a new one."""
        moment = datetime.now(UTC)
        value = {"type": f"alert.{event}", "timestamp": moment.isoformat(), "text": text, "data": data}
        body = json.dumps(value).encode()
        headers = {"content-type": "application/json"}
        if self._keys:
            headers |= signed_headers(self._keys, id_, int(moment.timestamp()), body)
        answer = await self._outbound.post(self._url, body, headers)
        if not 200 <= answer.status < 300:
            raise Unavailable(f"{self.host} answered {answer.status}")

    async def close(self) -> None:
        """Close all connections."""
        await self._outbound.aclose()


def _event(alert: Alert) -> str:
    if alert.resolved_at is not None:
        return "resolved"
    if alert.notified_at is None:
        return "opened"
    return "escalated" if alert.escalated else "still_open"


def _text(alert: Alert) -> str:
    if alert.resolution is not None:
        return f"Resolved: {alert.resolution}"
    return f"{_WORDS[alert.severity]}: {alert.text}"


def _data(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "key": alert.key,
        "kind": alert.kind,
        "severity": alert.severity,
        "text": alert.text,
        "since": alert.since.isoformat(),
        "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at else None,
        "resolution": alert.resolution,
    }
