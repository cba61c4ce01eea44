"""What handlers import: `from receiver import handler, Event, EventType, Context, Done, Skip, RetryAfter, GiveUp`.

The names are loaded when first used: every module of the package passes through here, and a command line that only asks
whether the service is up need not load the database driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from receiver.contacts.handling import Contact, Contacts, Sendable
    from receiver.contacts.suppressing import Suppression
    from receiver.endpoint import Endpoint
    from receiver.event import Actor, BounceCategory, Event, EventType, RejectReason
    from receiver.plugins.context import Context
    from receiver.plugins.handlers import Handler, handler
    from receiver.plugins.outcomes import Done, GiveUp, Outcome, RetryAfter, Skip
    from receiver.plugins.sync import SyncContext

__all__ = [
    "Actor",
    "BounceCategory",
    "Contact",
    "Contacts",
    "Context",
    "Done",
    "Endpoint",
    "Event",
    "EventType",
    "GiveUp",
    "Handler",
    "Outcome",
    "RejectReason",
    "RetryAfter",
    "Sendable",
    "Skip",
    "Suppression",
    "SyncContext",
    "handler",
]

_HOME: Final = {
    "receiver.contacts.handling": ("Contact", "Contacts", "Sendable"),
    "receiver.contacts.suppressing": ("Suppression",),
    "receiver.endpoint": ("Endpoint",),
    "receiver.event": ("Actor", "BounceCategory", "Event", "EventType", "RejectReason"),
    "receiver.plugins.context": ("Context",),
    "receiver.plugins.handlers": ("Handler", "handler"),
    "receiver.plugins.outcomes": ("Done", "GiveUp", "Outcome", "RetryAfter", "Skip"),
    "receiver.plugins.sync": ("SyncContext",),
}


if not TYPE_CHECKING:  # a type checker that saw it would take every name for a right one

    def __getattr__(name: str) -> Any:
        for module, names in _HOME.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module 'receiver' has no attribute {name!r}")
