"""Several live keys of an account, while one takes the place of another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydantic import SecretStr

from receiver.sending.transport import Outcome, Pause


class Keys:
    """The one that was taken last is used; where it is refused, the next is tried."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._keys = keys
        self._good = 0

    async def use(self, attempt: Callable[[SecretStr], Awaitable[Outcome]]) -> Outcome:
        """What became of it with the first key that is not refused. Nothing was sent with one that was."""
        outcome: Outcome = Pause(detail="there is no key")
        for offset in range(len(self._keys)):
            number = (self._good + offset) % len(self._keys)
            outcome = await attempt(self._keys[number])
            if not isinstance(outcome, Pause):
                self._good = number
                break
        return outcome
