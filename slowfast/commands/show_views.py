"""Show the model's views of a video, as tables and contact sheets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from slowfast.commands import cli
from slowfast.config import load_cfg
from slowfast.preparation.splits import SPLITS
from slowfast.utils import plugins
from slowfast.utils.text import count, printable

# One video in this process, whatever machine the config is for.
ONE_PROCESS = {
    "NUM_GPUS": "0",
    "NUM_SHARDS": "1",
    "SHARD_ID": "0",
    "TRAIN.BATCH_SIZE": "1",
    "DATA_LOADER.NUM_WORKERS": "0",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, write the contact sheets, and return the exit status."""
    parser = _make_parser()
    args = parser.parse_intermixed_args(arguments)
    if Image.registered_extensions().get(args.out.suffix.lower()) not in Image.SAVE:
        parser.error(f"argument --out: {args.out} has no suffix of an image file. Use .png or .jpg")
    return cli.run(lambda: _show(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_experiment_parser(__doc__)
    parser.add_argument(
        "--split",
        action="append",
        choices=SPLITS,
        help="split to show; can be repeated (default: all)",
    )
    parser.add_argument(
        "--row", type=int, default=0, metavar="N", help="row of the list, from 0 (default: 0)"
    )
    parser.add_argument(
        "--video", metavar="FILE", help="video file or frame folder to show instead of a row"
    )

    parser.add_argument(
        "--epoch",
        type=cli.number(int, least=0),
        default=0,
        metavar="N",
        help="epoch of the training views, from 0 (default: 0)",
    )
    parser.add_argument(
        "--out",
        type=cli.path,
        default=Path("views.png"),
        metavar="FILE",
        help="contact sheet, with the split added to its name (default: views.png)",
    )
    return parser


def _show(args: argparse.Namespace) -> int:
    from slowfast.datasets.annotations import Annotations
    from slowfast.datasets.build import build_loader
    from slowfast.datasets.catalog import build_format
    from slowfast.visualization.contact_sheet import draw_sheet, format_views, sample_views

    plugins.import_plugins(args.imports)
    one_process = [word for setting in ONE_PROCESS.items() for word in setting]
    cfg = load_cfg(args.cfg, [*args.opts, *one_process])
    annotations, row = None, args.row
    if args.video is not None:
        annotations, row = Annotations([str(cli.path(args.video).absolute())], [0]), 0

    args.out.parent.mkdir(parents=True, exist_ok=True)
    for split in args.split or SPLITS:
        loader = build_loader(cfg, split, annotations=annotations)
        if not 0 <= row < len(loader.dataset):
            num_videos = count(len(loader.dataset), "video")
            raise ValueError(f"--row is {row}, but the list of {split} has {num_videos}, from 0")
        if split == "train":
            loader.set_epoch(args.epoch)

        sampled_views = sample_views(loader, row)
        is_bgr = build_format(cfg, split).is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL
        sheet = draw_sheet(sampled_views, mean=cfg.DATA.MEAN, std=cfg.DATA.STD, bgr=is_bgr)
        path = args.out.with_stem(f"{args.out.stem}_{split}")
        sheet.save(path)
        name = printable(loader.dataset.annotations[row].name)
        print(f"{split}: {name}\n{format_views(sampled_views)}\ncontact sheet: {path}\n")
    return 0
