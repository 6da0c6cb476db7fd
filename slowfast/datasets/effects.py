"""Interface of the effects of RandAugment operations, which compute one region at a time."""

from typing import NamedTuple, Protocol

from slowfast.datasets.boxes import Box, Planes


class EffectStep(NamedTuple):
    """One use of an effect."""

    argument: float  # in the unit of the operation
    region: Box  # available region of the input
    wanted: Box  # region of the output to compute
    frame: Box  # the whole frame


class Effect(Protocol):
    """What an operation does to all frames of a clip."""

    def input_region(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        """Return the region of the input that the wanted region of the output depends on."""
        ...

    def apply(self, planes: Planes, step: EffectStep) -> Planes:
        """Return the wanted region of the output.

        Args:
            planes: The region of the input, shape (3, T, region.height, region.width).
            step: Argument and regions. The input region is that of `input_region`.

        Returns:
            Shape (3, T, wanted.height, wanted.width).
        """
        ...
