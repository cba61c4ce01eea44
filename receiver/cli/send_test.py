"""`receiver send-test`: one message right away, to see whether an account works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from receiver.cli.place import Place
    from receiver.sending.accounts import Account
    from receiver.sending.transport import Outcome


def send_test(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="An account, as the configuration names it.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Who gets it: an address of your own.")],
    template: Annotated[
        str | None, typer.Option("--template", help="This one, with the values of `sample` in its meta.toml.")
    ] = None,
) -> None:
    """Send one message right away through an account, and say what the server answered; exit 1 if it did not take it.

    It goes past the outbox and the guard: nothing is stored, and pauses and suppressions are not looked at.

    Example: receiver send-test main me@example.com --template welcome
    """
    from receiver.cli.failures import CommandError
    from receiver.cli.lines import say
    from receiver.cli.place import find_place, run_async
    from receiver.contacts.addresses import WrongAddress, entered
    from receiver.sending.transport import Sent

    try:
        to = entered(address).display
    except WrongAddress as error:
        raise typer.BadParameter(str(error)) from error
    place = find_place(context)
    outcome = run_async(_send(place, _account(place, account), to, template))
    if not isinstance(outcome, Sent):
        raise CommandError(f"not sent ({_kind(outcome)}): {outcome.detail}")
    say(f"sent through {account}: {outcome.detail or 'it was taken'}")
    if outcome.provider_message_id:
        say(f"the provider calls it {outcome.provider_message_id}")


def _account(place: Place, name: str) -> Account:
    from receiver.cli.failures import CommandError
    from receiver.sending.accounts import bind_accounts

    accounts = bind_accounts(place.settings)
    if name not in accounts:
        known = ", ".join(accounts) or "none: add a table [accounts.<name>]"
        raise CommandError(f"there is no account {name} in the configuration: it has {known}")
    return accounts[name]


def _kind(outcome: Outcome) -> str:
    """The sender tries again where a server has no STARTTLS, as it may be somebody between; a person sets it right."""
    from receiver.sending.smtp import WITHOUT_STARTTLS

    wrong_setting = outcome.detail.endswith(WITHOUT_STARTTLS)
    return "a setting of the account" if wrong_setting else type(outcome).__name__.lower()


async def _send(place: Place, account: Account, to: str, template: str | None) -> Outcome:
    from receiver.cli.failures import CommandError
    from receiver.cli.templates import rendered
    from receiver.sending.templates import Templates, Unfit
    from receiver.sending.trying import trial

    templates = Templates(place.settings.sending.templates_dir)
    content = None if template is None else rendered(templates, template, None, sample=True)
    stream = "transactional" if template is None else templates.meta(template).stream
    try:
        return await account.transport.send(trial(account, to, content, stream=stream))
    except Unfit as error:
        raise CommandError(error.detail) from error
    finally:
        await account.transport.aclose()
