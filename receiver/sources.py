"""A source: one configured account of a provider, with its own name, URL and secrets."""

from __future__ import annotations

from dataclasses import dataclass

from receiver.contract import Provider, SourceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What `[sources.<name>]` became: its settings, and the provider's code bound to them."""

    name: str
    provider: Provider
    settings: SourceSettings
