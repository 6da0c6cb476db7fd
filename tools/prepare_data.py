"""Write the lists of own videos: `python tools/prepare_data.py VIDEOS LISTS`, VIDEOS holding a folder per class."""

import argparse
import sys
from pathlib import Path

from slowfast.datasets.prepare import write_folder_lists


def main() -> int:
    """Write the lists and say what they hold; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, help="folder with one folder of videos per class")
    parser.add_argument("lists", type=Path, help="folder for train.csv, val.csv, test.csv and classes.txt")
    parser.add_argument("--val", type=float, default=0.1, metavar="SHARE", help="of each class for validation")
    parser.add_argument("--test", type=float, default=0.1, metavar="SHARE", help="of each class for the test")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    args = parser.parse_args()
    try:
        shares = {"val": args.val, "test": args.test}
        counts = write_folder_lists(args.videos, args.lists, shares=shares, seed=args.seed)
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    num_classes = len((args.lists / "classes.txt").read_text().splitlines())
    print(f"{args.lists}: {', '.join(f'{count} {split}' for split, count in counts.items())} videos")
    print(
        f"train: python tools/run_net.py --cfg configs/own_videos.yaml MODEL.NUM_CLASSES {num_classes} "
        f"DATA.PATH_TO_DATA_DIR '{args.lists}' DATA.PATH_PREFIX '{args.videos}' "
        f"DATA.CLASS_NAMES '{args.lists / 'classes.txt'}'"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
