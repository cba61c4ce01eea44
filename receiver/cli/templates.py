"""`receiver templates`: the team's templates, seen before anybody gets them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli import options
from receiver.cli.options import AsJson

if TYPE_CHECKING:
    from receiver.sending.content import Content
    from receiver.sending.templates import Templates

group = options.group("Templates of messages: `list` and `preview`.")


@group.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the templates in `templates_dir`, and what is wrong with them; exit 1 if anything is.

    Example: receiver templates
    """
    from receiver.cli.output import json_line, table

    templates = _templates(context)
    rows = [_described(templates, name) for name in templates.names()]
    if as_json:
        for row in rows:
            json_line(row)
    else:
        empty = f"no templates in {templates.directory}: one is {templates.directory}/NAME/subject.txt and body.html"
        table(("name", "stream", "topic", "parts", "wrong"), (list(row.values()) for row in rows), empty=empty)
    if any(row["wrong"] for row in rows):
        raise typer.Exit(1)


@group.command()
def preview(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The template.")],
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help="Its values, an object.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the HTML there.")] = None,
    *,
    sample: Annotated[
        bool, typer.Option("--sample", help="The values of `sample` in meta.toml, also beneath those of --data.")
    ] = False,
) -> None:
    """Show a template with values: those of `sample` in its meta.toml, if none are given.

    Example: receiver templates preview welcome --html welcome.html
    """
    from receiver.cli.lines import note, say, write
    from receiver.printable import printable

    content = rendered(_templates(context), name, data, sample=sample or data is None)
    say(f"Subject: {content.subject}")
    say("")
    write("".join(f"{printable(line)}\n" for line in (content.text or "").splitlines()))
    if html is not None:
        if content.html is None:
            note(f"{name} has no HTML part")
        else:
            html.write_text(content.html, encoding="utf-8")
            note(f"wrote {html}")


def rendered(templates: Templates, name: str, data: str | None, *, sample: bool) -> Content:
    """A template with values given by hand. Raises CommandError."""
    from receiver.cli.failures import CommandError
    from receiver.sending.templates import Unfit
    from receiver.sending.trying import preview

    given = object_of(data)
    try:
        values = {**(templates.meta(name).sample if sample else {}), **given}
        return preview(templates, name, values)
    except Unfit as error:
        hint = "" if data else "; here its values are those of `sample` in its meta.toml, where none are given"
        raise CommandError(f"{error.detail}{hint if error.reason == 'wrong_template' else ''}") from error


def object_of(text: str | None) -> dict[str, Any]:
    import json

    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise typer.BadParameter(f"--data is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise typer.BadParameter('--data is not an object such as {"name": "Ada"}')
    return found


def _templates(context: typer.Context) -> Templates:
    from receiver.cli.place import find_place
    from receiver.sending.templates import Templates

    return Templates(find_place(context).settings.sending.templates_dir)


def _described(templates: Templates, name: str) -> dict[str, Any]:
    from receiver.sending.templates import HTML, SUBJECT, TEXT, Meta, Unfit

    parts = [part for part in (SUBJECT, TEXT, HTML) if (templates.directory / name / part).is_file()]
    problems = [one.wrong for one in templates.problems() if one.key == f"templates.{name}"]
    try:
        meta = templates.meta(name)
    except Unfit:
        meta = Meta()
    return {"name": name, "stream": meta.stream, "topic": meta.topic, "parts": parts, "wrong": problems or None}
