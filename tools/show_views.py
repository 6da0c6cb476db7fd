"""Show what the model sees of a video: `python tools/show_views.py --cfg X [--row N | --video FILE] [KEY VALUE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli
from PIL import Image

from slowfast.config import load_cfg
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import SPLITS, build_loader
from slowfast.datasets.catalog import format_of
from slowfast.utils import plugins
from slowfast.utils.text import count, printable
from slowfast.visualization.contact_sheet import draw_sheet, format_looks, look_at

# One video in this process, whatever machine the config is for.
ALONE = [
    "NUM_GPUS",
    "0",
    "NUM_SHARDS",
    "1",
    "SHARD_ID",
    "0",
    "TRAIN.BATCH_SIZE",
    "1",
    "DATA_LOADER.NUM_WORKERS",
    "0",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, write the contact sheets, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", required=True, help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument(
        "--split",
        action="append",
        choices=SPLITS,
        help="split to show; can be repeated (default: all)",
    )
    parser.add_argument("--row", type=int, default=0, help="row of the list, from 0 (default: 0)")
    parser.add_argument("--video", help="file or frame folder to show in place of a row")
    parser.add_argument(
        "--epoch",
        type=_cli.number(int, least=0),
        default=0,
        help="epoch of the training views, from 0 (default: 0)",
    )
    parser.add_argument(
        "--out",
        type=_cli.path,
        default=Path("views.png"),
        help="contact sheet, to whose name the split is added (default: views.png)",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = parser.parse_intermixed_args(arguments)
    if Image.registered_extensions().get(args.out.suffix.lower()) not in Image.SAVE:
        parser.error(f"argument --out: {args.out} has no suffix of an image file; use .png or .jpg")
    given = (
        None if args.video is None else Annotations([str(_cli.path(args.video).absolute())], [0])
    )
    try:
        plugins.import_plugins(args.imports)
        cfg = load_cfg(args.cfg, [*args.opts, *ALONE])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        for split in args.split or SPLITS:
            loader = build_loader(cfg, split, annotations=given)
            row = 0 if given else args.row
            if not 0 <= row < len(loader.dataset):
                videos = count(len(loader.dataset), "video")
                raise ValueError(f"--row is {row}, but the list of {split} has {videos}, from 0")
            if split == "train":
                loader.set_epoch(args.epoch)
            looks = look_at(loader, row)
            bgr = format_of(cfg, split).is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL
            path = args.out.with_stem(f"{args.out.stem}_{split}")
            draw_sheet(looks, mean=cfg.DATA.MEAN, std=cfg.DATA.STD, bgr=bgr).save(path)
            name = printable(loader.dataset.annotations[row].name)
            print(f"{split}: {name}\n{format_looks(looks)}\ncontact sheet: {path}\n")
    except (ValueError, OSError) as error:
        return _cli.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
