"""The configuration: `receiver.toml`, with the environment (`RECEIVER_...`) over it.

What a source's table may say is the business of its provider (`receiver/sources.py`); here it stays raw.
No message, `repr` or traceback holds a value, because any value may be a secret in the wrong place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from receiver.alert_settings import AlertSettings
from receiver.errors import ConfigError, Problem
from receiver.faults import problems_of, right_value, split_list
from receiver.networks import Networks
from receiver.page_settings import PageSettings
from receiver.policy_settings import PolicySettings
from receiver.privacy_settings import PrivacySettings
from receiver.raw_settings import Raw, read_raw, resolve_files
from receiver.retention_settings import RetentionSettings
from receiver.sending_settings import SendingSettings

CONFIG_FILE: Final = "receiver.toml"
CONFIG_VARIABLE: Final = "RECEIVER_CONFIG"
EMBEDDED: Final = "embedded"
SHORTEST_KEY: Final = 32  # characters of secret_key
KEYS: Final = ("secret_key", "previous_secret_keys", "address_key")
_SECRETS: Final = ("database", *KEYS)  # may be given as ..._file
_ALERT_SECRETS: Final = ("url", "secret")  # likewise, in the table `[alerts]`
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_MAKE_KEY: Final = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"


def _check_database(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text == EMBEDDED:
        return value
    try:
        parts = urlsplit(text)
        places = [(one.hostname, one.port) for one in _each_host(parts)]
        local = not parts.netloc.rpartition("@")[2]  # no host at all: libpq's socket, as in postgresql:///mydb
        usable = local or bool(parse_qs(parts.query).get("host")) or all(host for host, _ in places)
        usable = usable and all(port != 0 for _, port in places)
    except ValueError:  # its message quotes what follows the host, which may be half a password
        usable, parts = False, urlsplit("")
    if not text.strip():
        raise ValueError("is empty")
    if parts.scheme.partition("+")[0] in ("postgresql", "postgres") and "+" in parts.scheme:
        raise ValueError("names a driver: write postgresql:// alone")
    if parts.scheme not in ("postgresql", "postgres") or not usable or any(ord(char) < 33 for char in text):
        raise ValueError("is not the address of a Postgres database")
    return value


def _check_secret_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.strip():
        raise ValueError("is empty")
    if len(text) < SHORTEST_KEY:
        raise ValueError(f"has only {len(text)} characters")
    if len(set(text)) < 8:
        raise ValueError("repeats a few characters and can be guessed")
    return value


def _check_host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError("is not a host name or an address")
    return value


def _check_port(value: object) -> object:
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "was set by Kubernetes for a service called receiver (say enableServiceLinks: false in the pod)"
        )
    return value


def _check_public_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if not usable or parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("is not the start of a URL")
    return value.rstrip("/")


def _check_header(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("is not the name of a header")
    return value


def _listed(value: object) -> object:
    return split_list(value) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Host = Annotated[str, AfterValidator(_check_host)]
Port = Annotated[int, BeforeValidator(_check_port), Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """What the service is told. `sources` and `handlers` hold raw tables, checked by those they are for."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=False)

    database: Annotated[SecretStr, AfterValidator(_check_database)] | None = Field(
        None,
        description="where the events are kept: the URL of a Postgres database, or `embedded` for trying",
        examples=["postgresql://receiver@db.example.net/receiver"],
    )
    secret_key: Annotated[SecretStr, AfterValidator(_check_secret_key)] | None = Field(
        None,
        description=f"a random text of at least {SHORTEST_KEY} characters, which encrypts what is kept for "
        f"people. Make one with: {_MAKE_KEY}",
    )
    previous_secret_keys: list[Annotated[SecretStr, AfterValidator(_check_secret_key)]] = Field(
        [],
        repr=False,
        description="former secret keys: what they encrypted can be read, and links that they signed still work",
    )
    address_key: Annotated[SecretStr, AfterValidator(_check_secret_key)] | None = Field(
        None,
        description="the first secret key there was, once `secret_key` has been changed: addresses that must not be "
        "mailed are known by hashes under it, so it stays for ever",
    )
    host: Host = Field("127.0.0.1", description="address the webhooks are received on", examples=["0.0.0.0"])  # noqa: S104 - an example of what an operator may choose
    port: Port = Field(8080, description="port the webhooks are received on, 0 to 65535", examples=[8080])
    reuse_port: bool = Field(
        False,
        description="other processes may listen on the same port at the same time, for restarts without a gap",
        examples=[True],
    )
    admin_host: Host = Field(
        "127.0.0.1", description="address for metrics, readiness and the API", examples=["127.0.0.1"]
    )
    admin_port: Port = Field(8081, description="port for metrics, readiness and the API, 0 to 65535", examples=[8081])
    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = Field(
        None,
        description="how providers, and the readers of your mail, reach this service",
        examples=["https://hooks.example.net"],
    )
    data_dir: Path = Field(
        Path(".receiver"),
        description="private directory for the run files and the embedded database",
        examples=["/var/lib/receiver"],
    )
    handlers_dir: Path = Field(Path("handlers"), description="directory with your handlers", examples=["handlers"])
    handler_packages: Annotated[list[str], BeforeValidator(_listed)] = Field(
        [], description="installed packages whose handlers run too", examples=[["acme-handlers"]]
    )
    handlers: dict[str, dict[str, Any]] = Field(
        {}, repr=False, description="settings of handlers, one table `[handlers.<name>]` each"
    )
    sources: dict[str, dict[str, Any]] = Field(
        {}, repr=False, description="accounts of providers, one table `[sources.<name>]` each"
    )
    accounts: dict[str, dict[str, Any]] = Field(
        {}, repr=False, description="what mail is sent through, one table `[accounts.<name>]` each"
    )
    rules: dict[str, dict[str, Any]] = Field(
        {}, repr=False, description="messages that follow events, one table `[rules.<name>]` each"
    )
    sending: SendingSettings = Field(
        SendingSettings(), description="when mail may go out, and how often to one person, in one table `[sending]`"
    )
    alerts: AlertSettings = Field(
        AlertSettings(), description="what is a problem and whom to tell, in one table `[alerts]`"
    )
    pages: PageSettings = Field(
        PageSettings(), description="what the pages say that people see, in one table `[pages]`"
    )
    max_in_flight: Annotated[ByteSize, Field(ge=1 << 20)] = Field(
        ByteSize(64 << 20),
        description="bytes of request bodies held at one time, at least 1MiB",
        examples=["64MiB"],
    )
    body_timeout: float = Field(
        10.0, ge=1, le=600, description="seconds a request's body may take to arrive, 1 to 600", examples=[10]
    )
    trusted_proxies: Annotated[Networks, BeforeValidator(_listed)] = Field(
        [],
        description="addresses and networks of the proxies in front, whose word on the client's address is believed",
        examples=[["127.0.0.1", "10.0.0.0/8"]],
    )
    proxy_header: Annotated[str, AfterValidator(_check_header)] = Field(
        "X-Forwarded-For",
        description="the header in which they give it: the one that they themselves write",
        examples=["Forwarded"],
    )
    retention: RetentionSettings = Field(
        RetentionSettings(), description="how long what is stored is kept, in one table `[retention]`"
    )
    privacy: PrivacySettings = Field(
        PrivacySettings(), description="what is not stored of events, in one table `[privacy]`"
    )
    policy: PolicySettings = Field(
        PolicySettings(), description="what bounces mean for an address, in one table `[policy]`"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="`debug`, `info`, `warning` or `error`", examples=["info"]
    )
    log_format: Annotated[Literal["console", "json"], BeforeValidator(_lower)] = Field(
        "console", description="`console` for people or `json` for machines", examples=["json"]
    )
    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _config: Path | None = PrivateAttr(default=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - `read_settings` hands over what it read
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def embedded(self) -> bool:
        """Whether the database is the embedded one."""
        return self.database is not None and self.database.get_secret_value() == EMBEDDED

    @property
    def config(self) -> Path | None:
        """The file that these settings were read from, whether it is there or not."""
        return self._config

    @property
    def origins(self) -> Mapping[str, str]:
        """Dotted key -> the environment variable that set it."""
        return self._origins

    def origin(self, key: str) -> str | None:
        """The environment variable that set `key` (dotted), or None."""
        return self._origins.get(key)


def load_settings(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. Raises ConfigError with every problem found.

    `config`: path of the file; without it `RECEIVER_CONFIG`, else `receiver.toml` if there is one.
    """
    settings, problems = read_settings(config, environ)
    if problems:
        raise ConfigError(problems)
    return settings


def read_settings(
    config: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, list[Problem]]:
    """As `load_settings`, but leaves out what is wrong, so that the rest can be checked too."""
    environ = os.environ if environ is None else environ
    path, named = config_path(config, environ)
    raw = read_raw(path, environ, required=named)
    values, problems = resolve_files(raw.values, _SECRETS, "")
    if isinstance(table := values.get("alerts"), dict):
        values["alerts"], missing = resolve_files(table, _ALERT_SECRETS, "alerts.")
        problems += missing
    problems = [*raw.problems, *problems]
    settings, wrong = _validate(values, raw)
    if settings is None:
        keep = {key: value for key, value in values.items() if key not in wrong}
        settings, _ = _validate(keep, raw)
    assert settings is not None  # every key that was wrong is gone, and none is required
    settings._config = path  # noqa: SLF001 - pydantic's way to give a private attribute its value
    return settings, [*problems, *(problem for found in wrong.values() for problem in found)]


def config_path(config: Path | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The configuration file, and whether it has to be there because somebody named it."""
    named = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    return (named, True) if named else (Path(CONFIG_FILE), False)


def missing_settings(settings: Settings, *, secret_key: bool = True) -> list[Problem]:
    """What a service cannot do without, and does not make up: a database, and (`secret_key`) a secret key."""
    wanted = ["database", "secret_key"] if secret_key else ["database"]
    return [
        Problem(name, "is missing", right_value(type(settings), name))
        for name in wanted
        if getattr(settings, name) is None
    ]


def _validate(values: Mapping[str, Any], raw: Raw) -> tuple[Settings | None, dict[str, list[Problem]]]:
    wrong: dict[str, list[Problem]] = {}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for key, problem in problems_of(error, Settings, "", raw.origins):
            wrong.setdefault(key, []).append(problem)
        return None, wrong
    settings._origins = raw.origins  # noqa: SLF001 - likewise
    return settings, wrong


def _each_host(parts: SplitResult) -> list[SplitResult]:
    """A URL of each server, where one names several: `postgresql://one:5432,other:5432/name`."""
    user, at, places = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{place}") for place in places.split(",")]


def hide_password(database: str) -> str:
    """A database's URL without its password, and else as it is, so that programs can use it."""
    try:
        parts = urlsplit(database)
        _ = [one.port for one in _each_host(parts)]
    except ValueError:  # not checked by us; its message may quote a part of the password
        return "(a database URL)"
    user, at, place = parts.netloc.rpartition("@")
    query = "&".join(part for part in parts.query.split("&") if not part.lower().startswith("password="))
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}{at}{place}", query=query))


def without_password(database: str) -> str:
    """A database's URL for people: who and where, no password, whatever form it was given in."""
    try:
        parts = urlsplit(database)
        places = [(one.hostname, one.port) for one in _each_host(parts)]
    except ValueError:  # likewise
        return "(a database URL)"
    sockets = parse_qs(parts.query).get("host", [""])[0]
    user = f"{parts.username}@" if parts.username else ""
    place = ",".join(f"{host or ''}{f':{port}' if port else ''}" for host, port in places) or sockets
    return f"{parts.scheme}://{user}{place}{parts.path if parts.path != '/' else ''}"
