"""`[policy]`: what bounces mean, as people write it, check it and look at it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from receiver.classify.bounce_rules import CATEGORY
from receiver.contacts.configured import policy_of
from receiver.contacts.policy import DEFAULT, Policy, Repeated
from receiver.contacts.rules import rules_of
from receiver.policy_settings import ClassSettings, PolicySettings
from receiver.settings import load_settings
from tests.cli import Receiver, command_for

CHANGED: Final = """
[policy]
inactive_mailbox = "never"
mailbox_full = { messages = 3, expires = ["14d"] }
network = { messages = 20, over = "30d" }
bad_domain = { over = "2d" }

[policy.streams.transactional]
mailbox_full = "at once"
"""


@pytest.fixture
def receiver(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Receiver:
    return command_for("postgresql://nobody@127.0.0.1:1/none", tmp_path, capsys, monkeypatch)


def test_every_class_has_a_setting() -> None:
    """each class of bounce, and each category for what has no class, can be set, and nothing else"""
    assert set(ClassSettings.model_fields) == {*CATEGORY, "hard", "soft", "block"} - {"suppressed_echo"}
    assert set(DEFAULT) <= set(ClassSettings.model_fields)


def test_without_settings_the_policy_is_the_usual_one() -> None:
    """an empty table changes nothing"""
    assert policy_of(PolicySettings()) == Policy()


def test_settings_change_what_they_name(tmp_path: Path) -> None:
    """what a table leaves out stays as it is without it; a stream's rule holds for that stream alone"""
    (tmp_path / "receiver.toml").write_text(CHANGED)
    settings = load_settings(tmp_path / "receiver.toml", {})
    policy = rules_of(settings).policy  # as handlers get it
    assert policy.rule("inactive_mailbox", "") == "never"
    full = Repeated(messages=3, over=timedelta(days=7), expires=(timedelta(days=14),))
    assert [policy.rule("mailbox_full", stream) for stream in ("", "transactional")] == [full, "at_once"]
    assert policy.rule("network", "marketing") == Repeated(messages=20, over=timedelta(days=30))
    domain = Repeated(messages=2, over=timedelta(days=2), expires=(), unless_provider_agrees=True)
    assert policy.rule("bad_domain", "") == domain
    assert policy.rule("expired", "transactional") == Repeated()


def test_the_environment(tmp_path: Path) -> None:
    """rules can be set in the environment, a table as JSON"""
    (tmp_path / "receiver.toml").write_text(CHANGED)
    environ = {
        "RECEIVER_POLICY__MAILBOX_FULL": '{"messages": 4}',
        "RECEIVER_POLICY__RELEASE_AFTER": "5d",
        "RECEIVER_POLICY__STREAMS__TRANSACTIONAL__SOFT": "never",
    }
    settings = load_settings(tmp_path / "receiver.toml", environ).policy
    policy = policy_of(settings)
    assert policy.rule("mailbox_full", "") == Repeated(messages=4)
    assert [policy.rule(name, "transactional") for name in ("soft", "mailbox_full")] == ["never", "at_once"]
    assert settings.release_after == timedelta(days=5)


WRONG: Final[list[tuple[str, str]]] = [
    ("mailbox_ful = 'never'", "policy.mailbox_ful: is not a setting (did you mean mailbox_full?)"),
    ("mailbox_full = 'sometimes'", "policy.mailbox_full: is neither never nor at_once, nor a table"),
    ("mailbox_full = 5", "policy.mailbox_full: is neither never nor at_once, nor a table"),
    ("mailbox_full = { after = 5 }", "policy.mailbox_full: has the key 'after', and may have messages, over, expires"),
    ("mailbox_full = { messages = 1 }", "policy.mailbox_full: has messages that are no number from 2 to 50"),
    ("mailbox_full = { over = '7 moons' }", "policy.mailbox_full: has over that is not a length of time such as 7d"),
    ("mailbox_full = { expires = '30d' }", "policy.mailbox_full: has expires that is no list"),
    (
        "mailbox_full = { unless_provider_agrees = 1 }",
        "policy.mailbox_full: has unless_provider_agrees that is neither",
    ),
    ("release_after = 3", "policy.release_after: is not a length of time in quotes"),
    ("[policy.streams.shop]\nsofd = 'never'", "policy.streams.shop.sofd: is not a setting (did you mean soft?)"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
async def test_wrong_settings(receiver: Receiver, tmp_path: Path, text: str, expected: str) -> None:
    """a wrong rule stops the start, and the message says which it is, what is wrong, and what a right one looks like"""
    (tmp_path / "receiver.toml").write_text(f"[policy]\n{text}\n")
    ended = await receiver("check")
    assert ended.code == 2
    assert expected in ended.err


async def test_showing_it(receiver: Receiver, tmp_path: Path) -> None:
    """`receiver policy` shows every class, what it does, and what was set"""
    (tmp_path / "receiver.toml").write_text(CHANGED)
    rows = (await receiver("policy", "--json")).rows
    everywhere: dict[str, Any] = {row["class"]: row for row in rows if row["stream"] is None}
    assert set(everywhere) == set(ClassSettings.model_fields)
    assert {name for name, row in everywhere.items() if row["set"]} == {
        *("inactive_mailbox", "mailbox_full", "network", "bad_domain"),
    }
    assert [(row["class"], row["action"]) for row in rows if row["stream"] == "transactional"] == [
        ("mailbox_full", "at_once")
    ]
    shown = await receiver("policy", "show")
    assert "3 messages in a row over 7 days: for 14 days, then for good" in shown.out
    assert "counts for 3 days after it" in shown.err
