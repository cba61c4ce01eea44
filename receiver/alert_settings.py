"""`[alerts]`: what counts as a problem, and where to tell of it."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from datetime import timedelta
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from receiver.durations import Duration

Severity = Literal["warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("warning", "critical")
SHORTEST: Final = 24  # bytes of a secret, as the Standard Webhooks specification wants


def _check_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("is not a URL")
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    try:
        usable = text.startswith("whsec_") and len(b64decode(text.removeprefix("whsec_"), validate=True)) >= SHORTEST
    except Base64Error:
        usable = False
    if not usable:
        raise ValueError("is not a Standard Webhooks secret")
    return value


class AlertSettings(BaseModel):
    """The table `[alerts]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[SecretStr, AfterValidator(_check_url)] | None = Field(
        None,
        description="where alerts are posted to, as JSON with a `text` that Slack and its like understand; "
        "without it they are logged and listed alone",
        examples=["https://hooks.slack.com/services/..."],
    )
    secret: Annotated[SecretStr, AfterValidator(_check_secret)] | None = Field(
        None,
        description="signs what is posted, as Standard Webhooks say: `whsec_` and the base64 of 24 bytes or more",
        examples=["whsec_..."],
    )
    allow_private: bool = Field(
        default=False, description="whether `url` may be a private address, or plain http", examples=[True]
    )
    min_severity: Severity = Field("warning", description="post `warning` and `critical`, or `critical` alone")
    backlog_after: Duration = Field(
        timedelta(minutes=5), description="how long an event may wait for a handler", examples=["5m"]
    )
    dead_letters: int = Field(1, ge=1, description="how many open dead letters of a handler are a problem")
    quarantine: int = Field(1, ge=1, description="how many open entries of a source in quarantine are a problem")
    block_rate: float = Field(
        0.05,
        gt=0,
        le=1,
        description="the share of a sender's mail that a mailbox provider may refuse, because of the sender or content",
        examples=[0.05],
    )
    block_volume: int = Field(
        100, ge=1, description="how many messages of a sender to a mailbox provider that share needs, within hours"
    )
    repeat_after: Duration = Field(
        timedelta(hours=24), description="how long until an open problem is posted again", examples=["24h"]
    )

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        if self.url and not self.allow_private and not self.url.get_secret_value().startswith("https://"):
            raise ValueError("has a url of plain http: use https, or allow_private = true inside your own network")
        return self

    @property
    def severities(self) -> tuple[Severity, ...]:
        """Those that are posted."""
        return SEVERITIES[SEVERITIES.index(self.min_severity) :]
