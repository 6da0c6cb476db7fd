"""RandAugment on clips: timm's policies draw the operations, which all frames of a clip share.

Each operation computes only the region of the frame that the final crop depends on.
"""

import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.affine_effects import KERNELS, MATRICES, Warp
from slowfast.datasets.boxes import Box, Planes, cut_out
from slowfast.datasets.color_effects import COLOR_EFFECTS
from slowfast.datasets.effects import Effect, EffectStep


@cache
def _timm_policies() -> ModuleType:
    """Return the module `timm.data.auto_augment`, without importing timm.

    Its packages would import all models of timm, torchvision and torch's compiler, which takes a
    second in each process, while this module needs none of them.
    """
    timm = find_spec("timm")
    if timm is None or timm.origin is None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    path = Path(timm.origin).parent / "data" / "auto_augment.py"
    spec = spec_from_file_location("timm.data.auto_augment", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Operation(NamedTuple):
    """A drawn operation."""

    name: str
    argument: float = 0.0  # in the unit of the operation, 0 if it takes none


class RandAugment:
    """RandAugment with timm's policies. The draws are timm's and the results Pillow's.

    Colors and sharpness are bit-identical to Pillow. Rotations, shears and translations are summed
    in float32 instead of Pillow's float64. Fewer than one value in a thousand differs, by one
    level.

    Args:
        policy: Policy in timm's notation. `rand-m7-n4-mstd0.5-inc1` has magnitude 7 and 4
            operations.
        interpolation: Interpolation of rotations, shears and translations: nearest | bilinear |
            bicubic.

    Raises:
        ValueError: If timm does not know the policy or the interpolation does not exist.

    Source: Cubuk et al., RandAugment, arXiv:1909.13719.
    """

    def __init__(self, policy: str, *, interpolation: str) -> None:
        if interpolation not in KERNELS:
            raise ValueError(
                f"{interpolation!r} is not an interpolation. Choose from {', '.join(KERNELS)}"
            )
        try:
            self._policy = _timm_policies().rand_augment_transform(policy, {"interpolation": None})
        except (AssertionError, ValueError, TypeError) as error:
            raise ValueError(
                f"{policy!r} is not a RandAugment policy such as rand-m7-n4-mstd0.5-inc1"
            ) from error

        kernel = KERNELS[interpolation]
        warps = {name: Warp(matrix, kernel) for name, matrix in MATRICES.items()}
        self._effects: dict[str, Effect] = {**COLOR_EFFECTS, **warps}

        # timm would now call a function on an image. Return what it drew instead.
        for operation in self._policy.ops:
            operation.aug_fn = _make_recorder(operation.name.removesuffix("Increasing"))

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Return the operations for one clip, in the order in which to apply them."""
        policy = self._policy
        chosen = rng.choice(
            len(policy.ops),
            policy.num_layers,
            replace=policy.choice_weights is None,
            p=policy.choice_weights,
        )

        # timm's operations draw from Python's global generator, so seed it and restore it.
        state = random.getstate()
        random.seed(int(rng.integers(2**32)))
        try:
            drawn = [policy.ops[index](None) for index in chosen]
        finally:
            random.setstate(state)
        return tuple(operation for operation in drawn if operation is not None)

    def apply(
        self, frames: NDArray[np.uint8], operations: tuple[Operation, ...], *, box: Box
    ) -> Planes:
        """Return a box of the augmented frames.

        Args:
            frames: Frames of shape (T, H, W, 3).
            operations: Operations that `draw` returned.
            box: Region of the augmented frames.

        Returns:
            Shape (3, T, box.height, box.width). A view of the frames if there are no operations.
        """
        frame = Box(0, 0, *frames.shape[1:3])

        # Walk backward from the wanted box to the region of the input that it depends on.
        wanted, steps = box, []
        for name, argument in reversed(operations):
            effect = self._effects[name]
            region = effect.input_region(wanted, argument=argument, frame=frame)
            steps.append((effect, EffectStep(argument, region, wanted, frame)))
            wanted = region

        planes = cut_out(frames.transpose(3, 0, 1, 2), wanted)
        for effect, step in reversed(steps):
            planes = effect.apply(planes, step)
        return planes


def _make_recorder(name: str) -> Callable[..., Operation]:
    return lambda image, *arguments, **options: Operation(name, *arguments)
