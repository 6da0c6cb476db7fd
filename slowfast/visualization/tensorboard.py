"""TensorBoard scalars."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ScalarWriter:
    """Writes named scalars over the step number. The first write creates the event file.

    Args:
        log_dir: Directory of the event files. If it is empty, nothing is written.
    """

    def __init__(self, log_dir: str) -> None:
        self._log_dir = log_dir
        self._writer: SummaryWriter | None = None

    def write(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each name, such as `train/loss`."""
        if not self._log_dir:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._log_dir)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file and close it."""
        if self._writer is not None:
            self._writer.close()
