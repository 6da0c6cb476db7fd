"""Train probes on stored features.

Both are folders with features, such as OUTPUT_DIR/features/train. Every combination of --head, --lr
and --weight-decay is trained at once. The best one on the validation videos is tested. These are a
part of the training list that is held out, or the features of --val. The folder of --out gets
probe.json with all scores and head.safetensors. See docs/probes.md.

Exit status: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.utils.text import count, printable

if TYPE_CHECKING:
    import torch

    from slowfast.inference.feature_files import StoredFeatures
    from slowfast.probing.labeled_features import LabeledFeatures
    from slowfast.probing.selection import ProbeReport

HEADS = ("linear", "mlp", "attentive")
OPTIMIZERS = ("adamw", "sgd")
# Of the attentive probes of Assran et al., V-JEPA 2, arXiv:2506.09985, which last 20 epochs.
LRS = (1e-4, 3e-4, 1e-3, 3e-3, 5e-3)
WEIGHT_DECAYS = (0.01, 0.1, 0.4, 0.8)

CHECKPOINT_SUFFIXES = (".pyth", ".pth")
RESULT_NAME = "probe.json"
HEAD_NAME = "head.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the probes, print their scores, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _probe(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("train", type=cli.path, metavar="TRAIN_FEATURES", help="to train on")
    parser.add_argument("test", type=cli.path, metavar="TEST_FEATURES", help="to test on")
    parser.add_argument(
        "--val",
        type=cli.path,
        metavar="FEATURES",
        help="features to select on (default: a part of TRAIN_FEATURES that is held out)",
    )
    parser.add_argument(
        "--hold-out",
        type=cli.number(float, least=0.01, most=0.9),
        default=0.1,
        metavar="SHARE",
        help="share of the videos of each class to hold out without --val (default: 0.1)",
    )
    _add_training(parser)
    parser.add_argument("--device", default="", help="device (default: cuda if there is one)")
    parser.add_argument(
        "--out",
        type=cli.path,
        metavar="DIR",
        help="new folder of the result (default: probe, beside TRAIN_FEATURES)",
    )
    parser.add_argument(
        "--export",
        type=cli.path,
        metavar="FILE",
        help="new checkpoint with the backbone and the best head, to test and to load",
    )
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add what the probes are and how they are trained."""
    parser.add_argument(
        "--head",
        nargs="+",
        choices=HEADS,
        default=["linear"],
        help="kinds of heads (default: linear)",
    )
    parser.add_argument(
        "--lr",
        nargs="+",
        type=cli.number(float, least=0),
        default=LRS,
        metavar="RATE",
        help=f"learning rates (default: {' '.join(map(str, LRS))})",
    )
    parser.add_argument(
        "--weight-decay",
        nargs="+",
        type=cli.number(float, least=0),
        default=WEIGHT_DECAYS,
        metavar="DECAY",
        help=f"weight decays (default: {' '.join(map(str, WEIGHT_DECAYS))})",
    )
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="adamw", help="optimizer (default: adamw)"
    )
    parser.add_argument(
        "--epochs",
        type=cli.number(int, least=1),
        default=20,
        metavar="N",
        help="passes over the features (default: 20)",
    )
    parser.add_argument(
        "--batch-size",
        type=cli.number(int, least=1),
        default=256,
        metavar="N",
        help="features per step (default: 256)",
    )
    parser.add_argument(
        "--seed",
        type=cli.number(int, least=0),
        default=0,
        metavar="N",
        help="seed of the initial weights, of the order and of the held-out part (default: 0)",
    )


def _probe(args: argparse.Namespace) -> int:
    train = args.train if args.train.name else args.train.absolute()
    out = args.out or train.parent / "probe"
    if args.export and args.export.suffix not in CHECKPOINT_SUFFIXES:
        raise cli.UsageError(
            f"{args.export}: the suffix of a checkpoint is {' or '.join(CHECKPOINT_SUFFIXES)}"
        )
    for path in (out / RESULT_NAME, args.export):
        if path is not None and path.exists():
            raise FileExistsError(f"{path}: exists already. Delete it, or choose another name")

    from slowfast.inference.feature_files import open_features
    from slowfast.probing.labeled_features import label_features
    from slowfast.probing.probes import Schedule, make_grid
    from slowfast.probing.selection import select_probe
    from slowfast.utils.progress import start_logging

    device = _choose_device(args.device)
    start_logging(is_main=True)
    train, test = open_features(args.train), open_features(args.test)
    given_val = open_features(args.val) if args.val else None
    _check(train, test, given_val)
    if args.export:
        from slowfast.probed import check_exportable

        check_exportable(train.record)

    fit, val = _split(args, label_features(train), given_val)
    schedule = Schedule(args.optimizer, args.epochs, args.batch_size, args.seed)
    report = select_probe(
        make_grid(args.head, lrs=args.lr, weight_decays=args.weight_decay),
        train=fit,
        val=val,
        test=label_features(test),
        schedule=schedule,
        device=device,
    )

    features = {"train": train, "test": test, "val": given_val or train}
    content = {
        "features": {name: _describe(stored) for name, stored in features.items()},
        "hold_out": None if given_val else args.hold_out,
        **report.as_json(schedule),
    }
    _write(out, report, content, class_names=train.record.class_names)
    print(_format(report))
    print(printable(f"result and head: {out}"))
    if args.export:
        from slowfast.probed import save_probed_model

        kind = report.scores[report.best].settings.head
        save_probed_model(args.export, train.record, kind=kind, head=report.head)
        print(printable(f"backbone with this head: {args.export}"))
    return 0


def _choose_device(name: str) -> "torch.device":
    """Return the device with a name, or the first GPU if there is one and no name.

    Raises:
        UsageError: If there is no such device.
    """
    import torch

    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise cli.UsageError(f"--device {name}: there is no such device ({reason})") from error
    return device


def _check(train: "StoredFeatures", test: "StoredFeatures", val: "StoredFeatures | None") -> None:
    """Raise ValueError if the features do not belong together, or a list is used twice."""
    from slowfast.probing.labeled_features import check_same_features, have_same_list

    others = [test] if val is None else [test, val]
    for other in others:
        check_same_features(train, other)
        if have_same_list(train, other):
            raise ValueError(
                f"{other.folder}: has the videos of {train.folder}, which the probes are trained "
                "on. Name features of other videos"
            )
    if val is not None and have_same_list(val, test):
        raise ValueError(
            f"{val.folder}: has the videos of {test.folder}. A probe that is selected on the test "
            "videos has no valid accuracy there. Name features of other videos with --val"
        )


def _split(
    args: argparse.Namespace, train: "LabeledFeatures", val: "StoredFeatures | None"
) -> "tuple[LabeledFeatures, LabeledFeatures]":
    """Return the videos to train on and those to select on."""
    from slowfast.probing.labeled_features import hold_out, label_features

    if val is not None:
        return train, label_features(val)
    return hold_out(train, fraction=args.hold_out, seed=args.seed)


def _describe(features: "StoredFeatures") -> dict[str, object]:
    record = features.record
    names = ("weights_sha256", "paths_sha256", "stage", "tokens", "per")
    identity = {name: record.identity[name] for name in names}
    return {"folder": str(features.folder), "list": record.list_path, **identity}


def _write(
    out: Path, report: "ProbeReport", content: dict[str, object], *, class_names: list[str]
) -> None:
    from slowfast.utils.checkpoint import save_weights
    from slowfast.utils.files import write_json

    save_weights(out / HEAD_NAME, report.head.state_dict(), class_names=class_names)
    write_json(out / RESULT_NAME, content)


def _format(report: "ProbeReport") -> str:
    """Return the table of all probes, and the test of the best one."""
    lines = [f"{'head':<9}  {'lr':>8}  {'weight decay':>12}  {'val top-1':>9}  {'val NLL':>9}"]
    for number, (settings, top1, nll) in enumerate(report.scores):
        mark = "  best" if number == report.best else ""
        lines.append(
            f"{settings.head:<9}  {settings.lr:>8g}  {settings.weight_decay:>12g}  "
            f"{top1:>9.2f}  {nll:>9.4f}{mark}"
        )

    metrics = report.metrics
    low, high = metrics.intervals["top1"]
    scored = f"{metrics.num_scored} of {count(metrics.num_videos, 'video')} scored"
    lines += [
        f"trained on {count(report.num_train, 'video')}, selected on {report.num_val}",
        f"test: top-1 {metrics.top1:.2f} (95 % interval {low:.2f} to {high:.2f}), "
        f"top-5 {metrics.top5:.2f}, {scored}",
    ]
    return "\n".join(lines)
