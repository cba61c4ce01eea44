"""How well the classifier of bounces tells what is hard, on labelled diagnostics.

The shipped set, `diagnostics.jsonl`, is labelled by what the named document or server means, not by what we judge:
hard is an address that does not exist or will never accept mail. Names and numbers in it are invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import IO, Final, NamedTuple

import msgspec

from receiver.classify.bounces import Bounce, explain
from receiver.errors import ReceiverError
from receiver.event import BounceCategory

MAX_LINE: Final = 1 << 20  # bytes


class BadLine(ReceiverError):
    """A line that is no labelled diagnostic; the message has its number, and nothing of its text."""


class Labelled(msgspec.Struct, frozen=True):
    """One line of a set; what else stands in it is ignored."""

    text: str
    hard: bool
    enhanced_code: str | None = None
    smtp_code: int | None = None


class Judged(NamedTuple):
    case: Labelled
    bounce: Bounce
    rule: str

    @property
    def hard(self) -> bool:
        return self.bounce.category is BounceCategory.HARD

    @property
    def right(self) -> bool:
        return self.hard is self.case.hard


@dataclass(slots=True)
class Score:
    """How many were judged so. `wrongly_hard` would suppress a living address, `missed` keeps a dead one for now."""

    rightly_hard: int = 0
    wrongly_hard: int = 0
    missed: int = 0
    rightly_not: int = 0

    def count(self, judged: Judged) -> None:
        self.rightly_hard += judged.hard and judged.right
        self.wrongly_hard += judged.hard and not judged.right
        self.missed += judged.case.hard and not judged.right
        self.rightly_not += not judged.hard and judged.right

    @property
    def number(self) -> int:
        return self.rightly_hard + self.wrongly_hard + self.missed + self.rightly_not

    @property
    def precision(self) -> float | None:
        """The share of what was judged hard that is; None where nothing was judged hard."""
        judged = self.rightly_hard + self.wrongly_hard
        return self.rightly_hard / judged if judged else None

    @property
    def recall(self) -> float | None:
        """The share of what is hard that was judged so; None where nothing is hard."""
        hard = self.rightly_hard + self.missed
        return self.rightly_hard / hard if hard else None


def judge(cases: Iterable[Labelled]) -> Iterator[Judged]:
    for case in cases:
        yield Judged(case, *explain(diagnostic=case.text, enhanced_code=case.enhanced_code, smtp_code=case.smtp_code))


def open_shipped() -> IO[bytes]:
    return (files(__package__) / "diagnostics.jsonl").open("rb")


def read_labelled(file: IO[bytes]) -> Iterator[Labelled]:
    """The labelled diagnostics of a JSON Lines file; empty lines are passed over. Raises BadLine."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise BadLine(f"line {number} is longer than 1 MiB: one JSON object a line is expected")
        line = line.removeprefix(b"\xef\xbb\xbf").strip()
        if line:
            yield _labelled(line, number)


def _labelled(line: bytes, number: int) -> Labelled:
    try:
        return msgspec.json.decode(line, type=Labelled)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(
            f"line {number} is no labelled diagnostic ({error}); one looks like this: "
            '{"text": "550 5.1.1 user unknown", "hard": true}, with enhanced_code and smtp_code where they are known'
        ) from error
