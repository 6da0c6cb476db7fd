"""Show what the model sees of a video: `python tools/show_views.py --cfg X [--row N | --video FILE] [KEY VALUE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slowfast.config import load_cfg
from slowfast.datasets import SPLITS, build_loader
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.formats import format_of
from slowfast.utils import plugins
from slowfast.visualization.views import draw_sheet, format_looks, look_at

# One video in this process, whatever machine the config is for.
ALONE = ["NUM_GPUS", "0", "NUM_SHARDS", "1", "SHARD_ID", "0", "TRAIN.BATCH_SIZE", "1", "DATA_LOADER.NUM_WORKERS", "0"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, write the contact sheets, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", required=True, help="YAML file of the experiment")
    plugins.add_argument(parser)
    parser.add_argument("--split", action="append", choices=SPLITS, help="train, val or test; can be repeated; all")
    parser.add_argument("--row", type=int, default=0, help="of the list, from 0")
    parser.add_argument("--video", help="a file or frame folder, in place of a row of the list")
    parser.add_argument("--epoch", type=int, default=0, help="of training, from 0")
    parser.add_argument("--out", type=Path, default=Path("views.png"), help="contact sheet; the split is added")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override config keys")
    args = parser.parse_intermixed_args(arguments)
    given = None if args.video is None else Annotations([str(Path(args.video).absolute())], [0])
    try:
        plugins.import_plugins(args.imports)
        cfg = load_cfg(args.cfg, [*args.opts, *ALONE])
        for split in args.split or SPLITS:
            loader = build_loader(cfg, split, annotations=given)
            row = 0 if given else args.row
            if not 0 <= row < len(loader.dataset):
                raise ValueError(f"--row is {row}, but the list of {split} has {len(loader.dataset)} videos, from 0")
            if split == "train":
                loader.set_epoch(args.epoch)
            looks = look_at(loader, row)
            bgr = format_of(cfg, split).is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL
            path = args.out.with_stem(f"{args.out.stem}_{split}")
            draw_sheet(looks, mean=cfg.DATA.MEAN, std=cfg.DATA.STD, bgr=bgr).save(path)
            print(f"{split}: {loader.dataset.annotations[row].path}\n{format_looks(looks)}\ncontact sheet: {path}\n")
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
