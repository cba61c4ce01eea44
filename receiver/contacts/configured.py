"""The bounce policy as `[policy]` says it, over what this release says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from receiver.contacts.policy import DEFAULT, NEVER, Action, Policy, Repeated
from receiver.policy_settings import ClassSettings, PolicySettings, Repeats


class Effective(NamedTuple):
    """What a class of bounce means. `stream`: empty for every kind of mail that has no rule of its own."""

    rule: str
    stream: str
    action: Action
    is_set: bool


def policy_of(settings: PolicySettings) -> Policy:
    """The policy that these settings describe."""
    actions = {**DEFAULT, **_actions(settings, DEFAULT)}
    streams = {name: MappingProxyType(_actions(one, actions)) for name, one in settings.streams.items()}
    return Policy(MappingProxyType(actions), MappingProxyType(streams))


def effective(settings: PolicySettings) -> Iterator[Effective]:
    """The whole table, every class once, and again for each stream that says otherwise."""
    policy = policy_of(settings)
    for rule in ClassSettings.model_fields:
        yield Effective(rule, "", policy.rule(rule, ""), rule in settings.rules)
        for stream, own in sorted(policy.streams.items()):
            if rule in own:
                yield Effective(rule, stream, own[rule], is_set=True)


def _actions(settings: ClassSettings, below: Mapping[str, Action]) -> dict[str, Action]:
    return {name: _action(rule, below.get(name, NEVER)) for name, rule in settings.rules.items()}


def _action(rule: Literal["never", "at_once"] | Repeats, below: Action) -> Action:
    """A table changes what it names, over the rule that holds without it where that one counts too."""
    if not isinstance(rule, Repeats):
        return rule
    before = below if isinstance(below, Repeated) else Repeated()
    return replace(
        before,
        messages=before.messages if rule.messages is None else rule.messages,
        over=before.over if rule.over is None else rule.over,
        expires=before.expires if rule.expires is None else rule.expires,
        unless_provider_agrees=(
            before.unless_provider_agrees if rule.unless_provider_agrees is None else rule.unless_provider_agrees
        ),
    )
