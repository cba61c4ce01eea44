"""`receiver contacts add`, `edit`, `tag`, `untag` and `unsubscribe`: one person, by hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="An e-mail address.")]
ExternalId = Annotated[str | None, typer.Option("--external-id", help="Your own id of the person.")]
Name = Annotated[str | None, typer.Option("--name", help="The person's name.")]
Locale = Annotated[str | None, typer.Option("--locale", help="Language tag, such as de-AT.")]
TimeZone = Annotated[str | None, typer.Option("--time-zone", help="Such as Europe/Vienna.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An attribute: JSON, such as 7 or true, else a text."),
]
Tags = Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags.")]


def add(  # noqa: PLR0917 - the options of the command
    context: typer.Context,
    address: Address,
    external_id: ExternalId = None,
    name: Name = None,
    locale: Locale = None,
    time_zone: TimeZone = None,
    set_: Set = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Tag the person; may be repeated.")] = None,
) -> None:
    """Add one person. It subscribes to nothing: `receiver contacts subscribe` does.

    Example: receiver contacts add ada@example.com --name "Ada Lovelace" --tag vip --set plan=pro
    """
    from receiver.cli.keeping import add as do
    from receiver.cli.place import find_place, run_async

    values = _values(external_id, name, locale, time_zone, set_, None)
    run_async(do(find_place(context), address, values | {"tags": list(tag or [])}))


def edit(  # noqa: PLR0913, PLR0917 - the options of the command
    context: typer.Context,
    address: Address,
    external_id: ExternalId = None,
    name: Name = None,
    locale: Locale = None,
    time_zone: TimeZone = None,
    set_: Set = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="NAME", help="Remove an attribute.")] = None,
    new: Annotated[
        str | None, typer.Option("--address", metavar="NEW", help="The person's new address; the old one is kept.")
    ] = None,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why the address changes.")] = "",
) -> None:
    """Change what is given of one person; the rest stays. What the person has said goes along to a new address.

    Example: receiver contacts edit ada@example.com --set plan=free --unset trial

    Example: receiver contacts edit ada@example.com --address ada@example.org --why "wrote to support"
    """
    from receiver.cli.keeping import edit as do
    from receiver.cli.place import find_place, run_async

    values = _values(external_id, name, locale, time_zone, set_, unset)
    if not values and new is None:
        raise typer.BadParameter("say what to change, such as --name")
    run_async(do(find_place(context), address, values, new, why))


def tag(context: typer.Context, address: Address, tags: Tags) -> None:
    """Tag one person.

    Example: receiver contacts tag ada@example.com vip "early bird"
    """
    from receiver.cli.keeping import tag as do
    from receiver.cli.place import find_place, run_async

    run_async(do(find_place(context), address, add=tags, remove=[]))


def untag(context: typer.Context, address: Address, tags: Tags) -> None:
    """Take tags away from one person.

    Example: receiver contacts untag ada@example.com vip
    """
    from receiver.cli.keeping import tag as do
    from receiver.cli.place import find_place, run_async

    run_async(do(find_place(context), address, add=[], remove=tags))


def unsubscribe(
    context: typer.Context,
    address: Address,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic's name.")],
    wording: Annotated[
        str | None, typer.Option("--wording", metavar="TEXT", help="What the person said; it is kept.")
    ] = None,
) -> None:
    """Unsubscribe one person from a topic. From all marketing mail: `receiver suppressions add --reason unsubscribe`.

    Example: receiver contacts unsubscribe ada@example.com news --wording "asked us on the phone"
    """
    from receiver.cli.keeping import unsubscribe as do
    from receiver.cli.place import find_place, run_async

    run_async(do(find_place(context), address, topic, wording))


def _values(
    external_id: str | None,
    name: str | None,
    locale: str | None,
    time_zone: str | None,
    set_: list[str] | None,
    unset: list[str] | None,
) -> dict[str, Any]:
    """What was given, checked as a row of a file is."""
    from receiver.contacts import people
    from receiver.contacts.people import WrongRow

    try:
        fields = {
            "external_id": external_id,
            "name": name,
            "locale": people.locale(locale),
            "time_zone": people.time_zone(time_zone),
        }
    except WrongRow as error:
        raise typer.BadParameter(str(error)) from None
    attributes: dict[str, Any] = dict.fromkeys(unset or [])
    for one in set_ or []:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--set {one}: say NAME=VALUE")
        attributes[key] = people.json_cell(value)
    given: dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
    return given | ({"attributes": attributes} if attributes else {})
