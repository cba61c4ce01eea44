"""What the configuration says about contacts, as every process that runs handlers reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.contacts.rules import rules_of
from receiver.settings import load_settings

CONFIG = """
[sources.shop]
provider = "resend"
complaint = "all"
trust_resubscribe = true

[sources.plain]
provider = "resend"
complaint = "marketing"
trust_resubscribe = false
"""


@pytest.mark.parametrize("environment", [False, True])
def test_sources(tmp_path: Path, *, environment: bool) -> None:
    """sources are named for whom a complaint ends all mail, and who is believed, from a file or the environment"""
    path = tmp_path / "receiver.toml"
    path.write_text('[sources.plain]\nprovider = "resend"\n' if environment else CONFIG, encoding="utf-8")
    variables = {
        "RECEIVER_SOURCES__SHOP__COMPLAINT": "all",
        "RECEIVER_SOURCES__SHOP__TRUST_RESUBSCRIBE": "true",
        "RECEIVER_SOURCES__PLAIN__TRUST_RESUBSCRIBE": "false",
    }
    rules = rules_of(load_settings(path, variables if environment else {}))
    assert rules.total_complaints == rules.trusted == frozenset({"shop"})
