"""Scalars for TensorBoard."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter


class ScalarWriter:
    """Writes named scalars over the step number.

    Args:
        log_dir: folder of the event files; None writes nothing.
    """

    def __init__(self, log_dir: str | None) -> None:
        self._writer = SummaryWriter(log_dir) if log_dir else None

    def write(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each name, such as `train/loss`."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is still in memory."""
        if self._writer is not None:
            self._writer.close()
