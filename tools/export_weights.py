"""Write the weights of a checkpoint and the names of their classes, nothing else, to a .safetensors or .pth file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slowfast.models.weights import tensors_in
from slowfast.utils.checkpoint import load_checkpoint, save_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="of a run, or any other file of weights; a path or an address")
    parser.add_argument(
        "--trained",
        action="store_true",
        help="the trained weights, where there are averaged ones (TRAIN.EMA_DECAY) too",
    )
    parser.add_argument("output", type=Path, help="a new file; its suffix says the format: .safetensors or .pth")
    args = parser.parse_args(arguments)
    try:
        export(args.checkpoint, args.output, averaged=not args.trained)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def export(checkpoint: str, output: Path, *, averaged: bool) -> None:
    """Write the weights of a file to another one.

    Args:
        checkpoint: path or address of a file of weights.
        output: a new file.
        averaged: take the moving average of the weights, as a test does, where there is one.

    Raises:
        ValueError: the suffix of `output` is not known, or the file has no weights.
        FileNotFoundError: there is no checkpoint.
        FileExistsError: there is such an output.
    """
    if output.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{output}: a file of weights ends in .safetensors or .pth")
    if output.exists():
        raise FileExistsError(f"{output}: is there already; delete it, or choose another name")
    state = load_checkpoint(checkpoint)
    takes_average = averaged and "ema_state" in state
    weights = state["ema_state"] if takes_average else tensors_in(state)
    if not weights:
        raise ValueError(f"{checkpoint}: holds no weights")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_weights(output, weights, class_names=state.get("class_names") or [])
    size = sum(tensor.numel() for tensor in weights.values())
    print(f"{output}: {len(weights)} tensors, {size / 1e6:.2f} M numbers{', averaged' if takes_average else ''}")


if __name__ == "__main__":
    sys.exit(main())
