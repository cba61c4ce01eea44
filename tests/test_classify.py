"""`receiver classify`: one diagnostic explained, and the classifier judged on labelled ones."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.classify.bounces import CLASSIFIER_VERSION
from receiver.classify.evaluation import (
    MAX_LINE,
    BadLine,
    Labelled,
    Score,
    judge,
    open_shipped,
    read_labelled,
)
from tests.cli import Receiver, command

HARD = {"text": "550 5.1.1 user unknown", "hard": True}
FULL = {"text": "552 5.2.2 mailbox full", "hard": False}
MISSED = {"text": "550 no", "hard": True, "smtp_code": 550}
WRONG = {"text": "user unknown", "hard": False, "enhanced_code": "5.1.1", "smtp_code": None}


@pytest.fixture
def receiver(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """The command line in a directory without configuration: nothing of this needs any."""
    monkeypatch.chdir(tmp_path)
    return command(capsys)


def lines(*cases: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(case).encode() + b"\n" for case in cases)


async def test_one_diagnostic(receiver: Receiver) -> None:
    """classify says class, category, codes, the rule and the version, in the names of the event's columns"""
    ended = await receiver("classify", "550 5.1.1 <ann@example.net>: user unknown", "--json")
    assert ended.code == 0
    assert ended.rows == [
        {
            "bounce_category": "hard",
            "bounce_class": "invalid_recipient",
            "smtp_code": 550,
            "enhanced_code": "5.1.1",
            "decided_by": "code 5.1.1",
            "classifier_version": CLASSIFIER_VERSION,
        }
    ]


async def test_codes_beside_the_text(receiver: Receiver) -> None:
    """the codes that a provider gives beside the text count, with and without a text"""
    (said,) = (await receiver("classify", "no", "--enhanced-code", "5.2.2", "--smtp-code", "552", "--json")).rows
    assert (said["bounce_class"], said["smtp_code"], said["enhanced_code"]) == ("mailbox_full", 552, "5.2.2")
    shown = await receiver("classify", "--smtp-code", "450")
    assert "4yz is temporary" in shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--misses",),
        ("text", "--misses"),
        ("--evaluate", "--smtp-code", "550"),
        ("--evaluate", "--enhanced-code", "5.1.1"),
    ],
)
async def test_wrong_use(receiver: Receiver, arguments: tuple[str, ...]) -> None:
    """options that do not go together, and nothing at all, are wrong use"""
    ended = await receiver("classify", *arguments)
    assert (ended.code, ended.out) == (2, "")


async def test_the_shipped_set(receiver: Receiver) -> None:
    """on the shipped diagnostics "hard" is precise enough to suppress by, and finds most dead addresses"""
    (result,) = (await receiver("classify", "--evaluate", "--json")).rows
    assert result["set"] == "shipped"
    assert result["number"] >= 200
    assert result["hard"] >= 80
    assert result["precision"] >= 0.92
    assert result["recall"] >= 0.75
    assert result["number"] == sum(result[name] for name in ("rightly_hard", "wrongly_hard", "missed", "rightly_not"))


def test_the_shipped_set_repeats_nothing() -> None:
    """no diagnostic is counted twice, and each says which document its label is from"""
    with open_shipped() as file:
        rows = [json.loads(line) for line in file]
    assert len({(row["text"], row.get("smtp_code"), row.get("enhanced_code")) for row in rows}) == len(rows)
    assert all(row["document"] for row in rows)


async def test_a_file_of_ones_own(receiver: Receiver, tmp_path: Path) -> None:
    """a file is judged by its own labels; byte order mark, empty lines and unknown members do no harm"""
    path = tmp_path / "reports.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(HARD | {"id": [1, {}]}, FULL) + b"\n \r\n" + lines(MISSED, WRONG, HARD))
    (result,) = (await receiver("classify", "--evaluate", str(path), "--json", "--misses")).rows
    counts = {
        name: result[name] for name in ("number", "hard", "rightly_hard", "wrongly_hard", "missed", "rightly_not")
    }
    assert counts == {"number": 5, "hard": 3, "rightly_hard": 2, "wrongly_hard": 1, "missed": 1, "rightly_not": 1}
    assert (result["precision"], result["recall"]) == (2 / 3, 2 / 3)
    assert [(miss["text"], miss["hard"], miss["decided_by"]) for miss in result["misses"]] == [
        ("550 no", True, "nothing"),
        ("user unknown", False, "code 5.1.1"),
    ]


async def test_shown_to_people(receiver: Receiver, tmp_path: Path) -> None:
    """the figures are shown without --json; the misjudged only with --misses, made safe for a terminal"""
    path = tmp_path / "reports.jsonl"
    path.write_bytes(lines(HARD, MISSED | {"text": "550 \x1b[31mno"}))
    shown = await receiver("classify", "--evaluate", str(path))
    assert "0.500" in shown.out
    assert "[31m" not in shown.out
    listed = await receiver("classify", "--evaluate", str(path), "--misses")
    assert "550 \\x1b[31mno" in listed.out
    assert "\x1b" not in listed.out


async def test_no_rate_without_a_denominator(receiver: Receiver, tmp_path: Path) -> None:
    """where nothing is hard and nothing judged so, precision and recall are null, not zero"""
    path = tmp_path / "reports.jsonl"
    path.write_bytes(lines(FULL))
    (result,) = (await receiver("classify", "--evaluate", str(path), "--json")).rows
    assert (result["precision"], result["recall"], result["rightly_not"]) == (None, None, 1)


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "cAnArY"',
        b'{"text": "cAnArY"}',
        b'{"hard": true}',
        b'{"text": "cAnArY", "hard": "yes"}',
        b'{"text": "cAnArY", "hard": 1}',
        b'{"text": null, "hard": true}',
        b'{"text": "cAnArY", "hard": true, "smtp_code": "550"}',
        b'{"text": "cAnArY", "hard": true, "enhanced_code": 5.1}',
        b'["cAnArY", true]',
        b"text;hard",
        b'{"text": "\xff", "hard": true}',
        b'{"text": "cAnArY", "hard": true, "more": ' + b"[" * 100_000,
        b"x" * (MAX_LINE + 1),
    ],
    ids=range(13),  # a test's directory bears its name
)
async def test_a_bad_line(receiver: Receiver, tmp_path: Path, line: bytes) -> None:
    """a line that is no labelled diagnostic is refused with its number, and what it says is not repeated"""
    path = tmp_path / "reports.jsonl"
    path.write_bytes(lines(HARD) + b"\n" + line + b"\n" + lines(HARD))
    ended = await receiver("classify", "--evaluate", str(path))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"receiver: {path}: line 3 is ")
    assert ended.err.count("\n") == 1
    assert "cAnArY" not in ended.err


async def test_no_set(receiver: Receiver, tmp_path: Path) -> None:
    """an empty file, a directory and a file that is not there are said so in one line"""
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    for name, message in (("empty.jsonl", "no line of it"), (".", "Is a directory"), ("gone", "No such file")):
        ended = await receiver("classify", "--evaluate", name)
        assert ended.code == 1
        assert message in ended.err
        assert ended.err.count("\n") == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_CASES = st.fixed_dictionaries(
    {"text": st.text() | _JSON, "hard": st.booleans() | _JSON},
    optional={"enhanced_code": st.none() | st.text() | _JSON, "smtp_code": st.none() | st.integers() | _JSON},
)


@given(st.lists(st.binary() | _JSON.map(lambda value: json.dumps(value).encode()) | _CASES.map(lines), max_size=5))
@example([b'{"text": "\\ud800", "hard": true}'])
@example([b'{"text": "", "hard": true, "smtp_code": 1' + b"0" * 5000 + b"}"])
@example([b'{"text": "", "hard": true, "text": "", "hard": false}'])
def test_any_file_is_judged_or_refused(parts: list[bytes]) -> None:
    """whatever a file holds, each line is judged, or the first bad one refused: nothing else can happen"""
    score = Score()
    with suppress(BadLine):
        for judged in judge(read_labelled(io.BytesIO(b"\n".join(parts)))):
            assert isinstance(judged.case, Labelled)
            score.count(judged)
    assert 0 <= (score.precision or 0) <= 1
    assert 0 <= (score.recall or 0) <= 1
