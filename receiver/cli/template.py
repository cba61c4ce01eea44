"""The `receiver.toml` that `receiver init` writes: every setting, and the tables of some providers, commented."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from receiver.alert_settings import AlertSettings
from receiver.contract import Provider, SourceSettings
from receiver.credentials import CredentialSettings
from receiver.faults import toml_value
from receiver.oauth import ClientSettings
from receiver.page_settings import PageSettings
from receiver.policy_settings import EXAMPLE, PolicySettings
from receiver.privacy_settings import PrivacySettings
from receiver.providers import provider, provider_names
from receiver.retention_settings import RetentionSettings
from receiver.sending_settings import SendingSettings
from receiver.settings import Settings

WIDTH: Final = 100
_HEAD: Final = """\
# Settings of the receiver. `receiver check` says whether they will do.
#
# The environment wins over this file: RECEIVER_PORT=9000, RECEIVER_SOURCES__SHOP__PASSWORD=...
# Every secret can also stand in a file: secret_key_file = "/run/secrets/key", password_file = "...",
# or RECEIVER_SECRET_KEY_FILE=/run/secrets/key.
"""
USUAL: Final = ("sendgrid", "mailgun", "postmark", "ses", "resend", "standard_webhooks")
_FIRST: Final = ("database", "secret_key")
_TABLES: Final = (
    "sources", "handlers", "accounts", "rules", "sending", "retention", "privacy", "alerts", "policy", "pages",
)  # fmt: skip
_KINDS: Final = (
    ("username", "password"),
    ("bearer_token",),
    ("header_name", "header_value"),
    ("url_secret",),
    ("client_id", "client_secret"),
)
_WITH_KINDS: Final = (CredentialSettings, ClientSettings)
_FROM_ENVIRONMENT: Final = "not written here: set RECEIVER_SECRET_KEY or RECEIVER_SECRET_KEY_FILE"


def template(keys: Mapping[str, object], chosen: Sequence[str] = USUAL) -> str:
    """The file's text. `keys`: settings with keys, as they are to stand in it; without a `secret_key` it is left to
    the environment. `chosen`: providers.
    """
    parts = (
        _settings(keys),
        _retention(),
        _privacy(),
        _alerts(),
        _policy(),
        _pages(),
        _sources(chosen),
        _handlers(),
        _sending(),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _settings(keys: Mapping[str, object]) -> Iterator[str]:
    yield _HEAD
    fields = Settings.model_fields
    yield from _field("database", fields["database"])
    yield ""
    yield from _comment(fields["secret_key"].description or "")
    yield from list(_given("secret_key", keys)) or [f"# {_FROM_ENVIRONMENT}"]
    for name, field in fields.items():
        if name not in (*_FIRST, *_TABLES):
            yield ""
            yield from _field(name, field)
            yield from _given(name, keys)


def _given(name: str, keys: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{one} = {toml_value(keys[one])}" for one in (name, f"{name}_file") if one in keys)


def _field(name: str, field: FieldInfo) -> Iterator[str]:
    """The description, and the line with its default or example, commented out."""
    yield from _comment(field.description or "")
    default = None if field.default is None else _plain(field.default)
    example = (
        field.examples[0] if field.examples and (default is None or isinstance(field.default, timedelta)) else default
    )
    yield f"# {name} = {toml_value('...' if example is None else example)}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, bool, int, float, list)) else str(value)


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False):
        yield f"# {line}"


def _retention() -> Iterator[str]:
    yield ""
    yield f"# Retention: {Settings.model_fields['retention'].description}."
    yield '# A length is whole days ("90d"), weeks ("12w") or years ("2y"), or "forever".'
    yield "# [retention]"
    for name, field in RetentionSettings.model_fields.items():
        yield f"# {name} = {toml_value((field.examples or [''])[0])}  # {field.description}"


def _privacy() -> Iterator[str]:
    yield ""
    yield f"# Privacy: {Settings.model_fields['privacy'].description}."
    yield "# [privacy]"
    for name, field in PrivacySettings.model_fields.items():
        yield from _comment(field.description or "")
        yield f"# {name} = {toml_value((field.examples or [''])[0])}"


def _alerts() -> Iterator[str]:
    yield ""
    yield "# What counts as a problem, and whom to tell: `receiver alerts` lists what is open."
    yield "# [alerts]"
    for name, field in AlertSettings.model_fields.items():
        yield from _field(name, field)


def _policy() -> Iterator[str]:
    yield ""
    yield "# What bounces mean for an address: `receiver policy show` has the whole table, `receiver policy preview`"
    yield "# says what a change would do. A class says never, at_once, or when it repeats:"
    yield "# [policy]"
    yield f"# mailbox_full = {toml_value(EXAMPLE)}"
    yield from _field("release_after", PolicySettings.model_fields["release_after"])
    yield "# [policy.streams.transactional]"
    yield '# inactive_mailbox = "never"'


def _pages() -> Iterator[str]:
    yield ""
    yield "# What people see who unsubscribe, confirm a subscription, or choose what they get."
    yield "# [pages]"
    for name, field in PageSettings.model_fields.items():
        yield f"# {name} = {toml_value((field.examples or [''])[0])}  # {field.description}"


def _sources(chosen: Sequence[str]) -> Iterator[str]:
    yield ""
    yield "# Sources: one table for each account of a provider. The name stands in the URL to give to the provider:"
    yield "# https://your-host/webhooks/<name>. `receiver sources show <provider>` explains the set-up there, and what"
    yield f"# to write here; `receiver sources --all` lists all {len(provider_names())} providers."
    yield "# Every source may also say:"
    for name, field in SourceSettings.model_fields.items():
        if name != "provider":
            yield f"#   {name}: {field.description}"
    for name in chosen:
        yield ""
        yield f"# {provider(name).title}"
        for line in example(provider(name)):
            yield f"# {line}"


def example(provider: type[Provider]) -> Iterator[str]:
    """The source's table: what its set-up names is to be filled in, and the rest stands there as comments."""
    own = [*_own(provider.Settings)]
    wanted = {*_wanted(provider, own)}
    yield f"[sources.{provider.name}]"
    yield f"provider = {toml_value(provider.name)}"
    yield from (line for name in own if name in wanted for line in _lines(provider.Settings, name))
    if len(wanted) < len(own):
        yield "# may be set too, or instead:"
        yield from (f"# {line}" for name in own if name not in wanted for line in _lines(provider.Settings, name))


def _own(model: type[BaseModel]) -> Iterator[str]:
    """The settings of the provider's own, and those that it words anew."""
    for name, field in model.model_fields.items():
        shared = SourceSettings.model_fields.get(name)
        if shared is None or shared.description != field.description:
            yield name


def _wanted(provider: type[Provider], own: Sequence[str]) -> Iterator[str]:
    """What the set-up names, but of the credentials one kind, and only where they are all there is."""
    named = re.findall(r"`(\w+)`", provider.simulation.setup)
    kinds = [kind for kind in _KINDS if {*kind} <= {*own}] if issubclass(provider.Settings, _WITH_KINDS) else []
    credentials = {name for kind in kinds for name in kind}
    found = [name for name in own if name not in credentials and (name in named or _examples(provider, name))]
    yield from found
    if kinds and provider.covers == "nothing":
        first = next((name for name in named if name in credentials), None if found else "password")
        yield from (name for kind in kinds if first in kind for name in kind)


def _examples(provider: type[Provider], name: str) -> list[Any] | None:
    return provider.Settings.model_fields[name].examples


def _lines(model: type[BaseModel], name: str) -> Iterator[str]:
    """The setting with its description behind it, or above it where that is too long."""
    setting, about = f"{name} = {_example(model, name)}", model.model_fields[name].description or name
    if len(setting) + len(about) <= WIDTH:
        yield f"{setting}  # {about}"
    else:
        yield from _comment(about)
        yield setting


def _example(model: type[BaseModel], name: str) -> str:
    """An example or a default worth showing, else a place to fill in."""
    field = model.model_fields[name]
    default = field.get_default()
    if field.examples:
        return toml_value(field.examples[0])
    if isinstance(default, (bool, int, float)) or (isinstance(default, (str, list)) and default):
        return toml_value(default)
    return toml_value("..." if default is None or isinstance(default, SecretStr) else ["..."])


def _handlers() -> Iterator[str]:
    yield ""
    yield "# Handlers have settings of their own, if they declare any: ctx.settings."
    yield "# [handlers.my_handler]"
    yield "# threshold = 3"


def _sending() -> Iterator[str]:
    yield ""
    yield "# Accounts: through what mail goes out that handlers queue. `transport` is smtp or a provider."
    yield "# [accounts.main]"
    yield '# transport = "smtp"'
    yield '# from = "Shop <hello@shop.example>"'
    yield '# host = "smtp.example.net"'
    yield '# username = "..."'
    yield '# password = "..."'
    yield ""
    yield "# Rules: messages that follow events. docs/sending.md has more of them."
    yield "# [rules.welcome_2]"
    yield '# when = "clicked"'
    yield '# tag = "welcome"'
    yield '# after = "2d"'
    yield '# unless = ["unsubscribed", "clicked:offer"]'
    yield '# send = "welcome-2"'
    yield ""
    yield f"# Sending: {Settings.model_fields['sending'].description}."
    yield "# [sending]"
    for name, field in SendingSettings.model_fields.items():
        yield from _field(name, field)
