"""Position of a training run in epochs and steps."""

from typing import NamedTuple


class Position(NamedTuple):
    """Finished epochs, and finished steps of the epoch after them.

    Positions compare in the order in which a run reaches them. As text, a position names the next
    step and counts from 1, as log lines do.
    """

    epoch: int
    step: int

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step + 1}"
