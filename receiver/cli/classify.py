"""`receiver classify`: what the classifier makes of a bounce, and how far it can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from receiver.classify.bounces import Bounce
    from receiver.classify.evaluation import Judged, Score


def classify(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT|FILE", help="What the server said; with --evaluate, a file.")
    ] = None,
    enhanced_code: Annotated[
        str | None, typer.Option(metavar="CODE", help="The enhanced code given beside the text, such as 5.1.1.")
    ] = None,
    smtp_code: Annotated[int | None, typer.Option(metavar="CODE", help="The SMTP reply given beside it.")] = None,
    *,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Judge the labelled diagnostics of FILE, else those we ship.")
    ] = False,
    misses: Annotated[bool, typer.Option("--misses", help="With --evaluate: list the misjudged ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on one line.")] = False,
) -> None:
    """Say what a bounce's diagnostic means: for the address, or for the sender. Asks no database.

    FILE is JSON Lines, one labelled diagnostic a line, the codes where they are known:
    {"text": "550 5.1.1 user unknown", "hard": true, "enhanced_code": "5.1.1", "smtp_code": 550}

    Example: receiver classify "550 5.1.1 <ann@example.net>: user unknown"

    Example: receiver classify --evaluate reports.jsonl --misses
    """
    given = enhanced_code is not None or smtp_code is not None
    if evaluate:
        if given:
            raise typer.BadParameter("with --evaluate the codes stand in the file, beside each text")
        _evaluate(Path(text) if text is not None else None, misses=misses, as_json=as_json)
    elif misses:
        raise typer.BadParameter("--misses goes with --evaluate")
    elif text is None and not given:
        raise typer.BadParameter("say what the server said, or --evaluate")
    else:
        _show(text, enhanced_code, smtp_code, as_json=as_json)


def _show(text: str | None, enhanced_code: str | None, smtp_code: int | None, *, as_json: bool) -> None:
    from receiver.classify.bounces import explain
    from receiver.cli.output import json_line, pairs, show

    judged = _columns(*explain(diagnostic=text, enhanced_code=enhanced_code, smtp_code=smtp_code))
    if as_json:
        json_line(judged)
    else:
        show(pairs(judged))


def _columns(bounce: Bounce, rule: str) -> dict[str, Any]:
    """Named as the columns of `events`."""
    from receiver.classify.bounces import CLASSIFIER_VERSION

    return {
        "bounce_category": bounce.category.value,
        "bounce_class": bounce.bounce_class,
        "smtp_code": bounce.smtp_code,
        "enhanced_code": bounce.enhanced_code,
        "decided_by": rule,
        "classifier_version": CLASSIFIER_VERSION,
    }


def _evaluate(path: Path | None, *, misses: bool, as_json: bool) -> None:
    from receiver.cli.output import json_line, pairs, show, table

    score, missed = _judged(path, keep=misses)
    result = _result(path, score)
    if as_json:
        listed = {"misses": [_miss(one) for one in missed]} if misses else {}
        json_line(result | listed)
        return
    show(pairs({name: f"{value:.3f}" if isinstance(value, float) else value for name, value in result.items()}))
    if misses:
        rows = [
            (one.case.hard, one.bounce.category, one.bounce.bounce_class, one.rule, one.case.text) for one in missed
        ]
        table(("hard", "judged", "class", "decided by", "text"), rows, empty="none was misjudged")


def _judged(path: Path | None, *, keep: bool) -> tuple[Score, list[Judged]]:
    """The score, and the misjudged if they are wanted. Raises CommandError for a file that is no labelled set."""
    from receiver.classify.evaluation import BadLine, Score, judge, open_shipped, read_labelled
    from receiver.cli.failures import CommandError
    from receiver.cli.progress import progress

    score, missed = Score(), list["Judged"]()
    size = path.stat().st_size if path else 0
    try:
        with path.open("rb") if path else open_shipped() as file, progress("Judging", size) as at:
            for one in judge(read_labelled(file)):
                score.count(one)
                if keep and not one.right:
                    missed.append(one)
                if size and score.number % 1000 == 0:
                    at(file.tell())
    except BadLine as error:
        raise CommandError(f"{path}: {error}") from error
    if not score.number:
        raise CommandError(f"{path}: no line of it is a labelled diagnostic")
    return score, missed


def _result(path: Path | None, score: Score) -> dict[str, Any]:
    from receiver.classify.bounces import CLASSIFIER_VERSION

    return {
        "set": str(path) if path else "shipped",
        "number": score.number,
        "hard": score.rightly_hard + score.missed,
        "precision": score.precision,
        "recall": score.recall,
        "rightly_hard": score.rightly_hard,
        "wrongly_hard": score.wrongly_hard,
        "missed": score.missed,
        "rightly_not": score.rightly_not,
        "classifier_version": CLASSIFIER_VERSION,
    }


def _miss(one: Judged) -> dict[str, Any]:
    return {"text": one.case.text, "hard": one.case.hard, **_columns(one.bounce, one.rule)}
