"""Logs: what strangers wrote cannot forge a line or drive a terminal, and libraries do not chatter."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from receiver.logs import Format, set_up_logs
from receiver.printable import printable

HOSTILE = "a\x1b]0;owned\x07\r\n\u2028\u202eb\x9b\udc80"


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    """Logging is a state of the process: other tests get theirs back."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


def fail() -> None:
    raise ValueError(HOSTILE)


@pytest.mark.parametrize("format_", ["console", "json"])
def test_hostile_texts(capsys: pytest.CaptureFixture[str], format_: Format) -> None:
    """neither a value, a key, a nested value nor an exception's text reaches the terminal unescaped"""
    set_up_logs("info", format_)
    log = structlog.get_logger("x")
    log.info(
        "event", action="event", text=HOSTILE, nested={HOSTILE: [HOSTILE]}, other=HOSTILE.encode("utf-8", "replace")
    )
    logging.getLogger("someone").warning("said %s", HOSTILE)
    try:
        fail()
    except ValueError:
        log.exception("failed", action="failed")
    lines = capsys.readouterr().err.split("\n")
    assert all(printable(line) == line for line in lines)
    assert "owned" in lines[0]
    if format_ == "json":
        assert [json.loads(line)["level"] for line in lines if line] == ["info", "warning", "error"]


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """the level holds for our logs; libraries that write URLs are heard from warnings on only"""
    set_up_logs("debug", "json")
    structlog.get_logger("x").debug("ours", action="ours")
    for name in ("httpx", "asyncpg", "httpcore"):
        logging.getLogger(name).info("POST https://user:password@host/")
        logging.getLogger(name).warning("trouble")
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["ours", "trouble", "trouble", "trouble"]
    set_up_logs("warning", "json")
    structlog.get_logger("x").info("quiet", action="quiet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["plain", "grüße 漢字 👩‍🚀".replace("\u200d", ""), "[bold]x[/bold]", "a\\x1b"])
def test_printable_leaves_text_alone(text: str) -> None:
    """ordinary text of any language stays as it is"""
    assert printable(text) == text


def test_printable_escapes() -> None:
    """controls, line separators, direction marks and lone surrogates are written as escapes"""
    assert printable(HOSTILE) == "a\\x1b]0;owned\\x07\\r\\n\\u2028\\u202eb\\x9b\\udc80"
