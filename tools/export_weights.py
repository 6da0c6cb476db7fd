"""Write the weights of a checkpoint and the names of their classes, nothing else, to a .safetensors or .pth file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli

from slowfast.models.weights import tensors_in
from slowfast.utils.checkpoint import load_checkpoint, save_weights
from slowfast.utils.text import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint or another file of weights")
    parser.add_argument(
        "--trained",
        action="store_true",
        help="export the trained weights (default: those of the EMA if the checkpoint has them)",
    )
    parser.add_argument(
        "output",
        type=_cli.path,
        help="new file, .safetensors or .pth; its checksum goes to OUTPUT.sha256",
    )
    args = parser.parse_args(arguments)
    try:
        export(args.checkpoint, args.output, averaged=not args.trained)
    except (ValueError, OSError) as error:
        return _cli.report(error)
    return 0


def export(checkpoint: str, output: Path, *, averaged: bool) -> None:
    """Write the weights of a file to another one.

    Args:
        checkpoint: Path or address of a file of weights.
        output: A new file. `<name>.sha256` beside it takes its checksum.
        averaged: Whether to take the moving average of the weights, as a test does, where there is one.

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
    weights = tensors_in(state["ema_state"] if takes_average else state)
    if not weights:
        raise ValueError(f"{checkpoint}: holds no weights")
    save_weights(output, weights, class_names=state.get("class_names") or [])
    size = sum(tensor.numel() for tensor in weights.values())
    ema = ", EMA" if takes_average else ""
    print(f"{output}: {count(len(weights), 'tensor')}, {size / 1e6:.2f} M numbers{ema}")


if __name__ == "__main__":
    sys.exit(main())
