"""How a handler is run: what its author chooses in `@handler(...)`, and operators change in the configuration."""

from __future__ import annotations

import random
from typing import Final, TypedDict

from pydantic import BaseModel, ConfigDict, Field

TABLE: Final = "run"  # [handlers.<name>.run]: beside the handler's own settings, never among them


class Execution(BaseModel):
    """Numbers that say how a handler is run. All delays and times are seconds."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    max_attempts: int = Field(8, ge=1, le=1000, description="failures after which an event becomes a dead letter")
    first_delay: float = Field(2.0, gt=0, le=86_400, description="seconds until the first retry")
    delay_factor: float = Field(4.0, ge=1, le=100, description="how many times longer each next wait is")
    longest_delay: float = Field(3600.0, gt=0, le=2_592_000, description="the longest wait between two attempts")
    timeout: float = Field(30.0, gt=0, le=86_400, description="seconds that one call may take")
    concurrency: int = Field(1, ge=1, le=64, description="batches that one worker runs at the same time")
    batch_size: int = Field(500, ge=1, le=100_000, description="the most events of one transaction, and of one call")
    ordered: bool = Field(False, description="later events of a recipient wait behind one that failed")
    breaker: int = Field(10, ge=0, le=100_000, description="failures in a row that open the breaker; 0: it has none")

    def changed(self) -> str:
        """What differs from the defaults, for people."""
        defaults = type(self).model_fields
        told = ((name, getattr(self, name)) for name in defaults)
        return ", ".join(
            name if value is True else f"{name} {value:g}" for name, value in told if value != defaults[name].default
        )

    def backoff(self, attempts: int) -> float:
        """Seconds to wait after so many failures: longer each time, with jitter, so that not all come back at once."""
        steps = min(attempts - 1, 1000)
        try:
            delay = min(self.first_delay * self.delay_factor**steps, self.longest_delay)
        except OverflowError:
            delay = self.longest_delay
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret


class Options(TypedDict, total=False):
    """The same as keywords of `@handler(...)`."""

    max_attempts: int
    first_delay: float
    delay_factor: float
    longest_delay: float
    timeout: float
    concurrency: int
    batch_size: int
    ordered: bool
    breaker: int
