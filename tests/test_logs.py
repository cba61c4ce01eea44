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


def fail(text: str = HOSTILE) -> None:
    raise ValueError(text)


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


def test_every_line_has_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    """a line goes by its action: the one it was given, its name, its library, or `said` for a handler's sentence"""
    set_up_logs("info", "json")
    log = structlog.get_logger("x")
    log.info("it stops", action="stopping")
    log.info("lease_lost")
    log.info("Something a handler has to say")
    logging.getLogger("uvicorn.error").warning("trouble")
    said = [json.loads(line)["action"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["stopping", "lease_lost", "said", "uvicorn.error"]


def test_no_address_at_info(capsys: pytest.CaptureFixture[str]) -> None:
    """at info and above no mail address is written, wherever in a line it stands; debug lines show them"""
    set_up_logs("debug", "json")
    log = structlog.get_logger("x")
    log.info(
        "mailed ada@one.test",
        to="ada@one.test",
        nested={"ada@one.test": ["Ada <ada%40one.test>"]},
        error=OSError("ada@one.test"),
    )
    try:
        fail("no such ada@one.test")
    except ValueError:
        log.exception("failed")
    logging.getLogger("someone").warning("lost %s", "ada@one.test")
    assert "one.test" not in capsys.readouterr().err
    log.debug("mailed", to="ada@one.test")
    assert "ada@one.test" in capsys.readouterr().err
