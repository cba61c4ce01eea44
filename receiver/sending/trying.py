"""Messages that are tried out: templates with values given by hand, and one message past the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from receiver.sending.accounts import Account
from receiver.sending.compose import message_of, stranger
from receiver.sending.content import Content
from receiver.sending.message import Message
from receiver.sending.templates import Templates

NOWHERE: Final = "https://example.com/unsubscribe"  # for previews, in which nobody can leave
SOMEBODY: Final = "ada@example.com"
_TEXT: Final = "This message was sent to see whether the account works. It does."


def preview(templates: Templates, name: str, data: Mapping[str, Any]) -> Content:
    """The template with these values; `contact` is somebody of whom nothing is known. Raises Unfit."""
    return templates.render(name, {"contact": stranger(SOMEBODY), "unsubscribe_url": NOWHERE, **data})


def trial(account: Account, to: str, content: Content | None, *, stream: str = "transactional") -> Message:
    """A message to one address: this content, or a few words. It has no row in `sends`. Raises Unfit."""
    content = content or Content(subject=f"A test of the account {account.name}", text=_TEXT)
    row = {"id": uuid4(), "recipient": to, "broadcast_id": None, "template": "test", "topic": None, "brand": ""}
    return message_of({**row, "stream": stream}, account.settings, content, stranger(to), {})
