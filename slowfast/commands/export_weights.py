"""Export the weights of a checkpoint and their class names to a .safetensors or .pth file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slowfast.commands import cli
from slowfast.utils.text import count

SUFFIXES = (".safetensors", ".pth")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the weights and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _export(args.checkpoint, args.output, trained=args.trained))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("checkpoint", help="path or URL of a checkpoint or another weights file")
    parser.add_argument(
        "output",
        type=cli.path,
        help="new file, .safetensors or .pth. Its checksum is written to OUTPUT.sha256",
    )
    parser.add_argument(
        "--trained",
        action="store_true",
        help="export the trained weights (default: the EMA weights, if the checkpoint has them)",
    )
    return parser


def _export(checkpoint: str, output: Path, *, trained: bool) -> int:
    if output.suffix not in SUFFIXES:
        raise ValueError(f"{output}: the suffix of a weights file is {' or '.join(SUFFIXES)}")
    if output.exists():
        raise FileExistsError(f"{output}: exists already. Delete it, or choose another name")

    from slowfast.models.weight_files import tensors_in
    from slowfast.utils.checkpoint import load_checkpoint, save_weights

    state = load_checkpoint(checkpoint)
    uses_ema = "ema_state" in state and not trained
    weights = tensors_in(state["ema_state"] if uses_ema else state)
    if not weights:
        raise ValueError(f"{checkpoint}: holds no weights")
    save_weights(output, weights, class_names=state.get("class_names") or [])

    millions = sum(tensor.numel() for tensor in weights.values()) / 1e6
    ema = ", EMA" if uses_ema else ""
    print(f"{output}: {count(len(weights), 'tensor')}, {millions:.2f} M numbers{ema}")
    return 0
