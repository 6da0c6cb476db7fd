"""Make the embedded data set: `python tools/make_motion.py FOLDER [--frames] [--seed N]`."""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _cli

from slowfast.preparation.motion import CLASSES, VIDEOS_PER_CLASS, make_motion
from slowfast.utils.text import count


def main() -> int:
    """Write the data set and say where it lies; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=_cli.path, help="folder for the data set")
    parser.add_argument(
        "--frames",
        action="store_true",
        help="write folders of JPEG files (default: video files)",
    )
    parser.add_argument(
        "--seed",
        type=_cli.number(int, least=0),
        default=0,
        help="seed of the videos (default: 0)",
    )
    for split, number in VIDEOS_PER_CLASS.items():
        parser.add_argument(
            f"--{split}",
            type=_cli.number(int, least=1),
            default=number,
            metavar="N",
            help=f"number of {split} videos per class (default: {number})",
        )
    args = parser.parse_args()
    counts = {split: getattr(args, split) for split in VIDEOS_PER_CLASS}
    start = time.perf_counter()
    try:
        is_new = make_motion(
            args.folder,
            seed=args.seed,
            videos_per_class=counts,
            as_frames=args.frames,
            num_processes=len(os.sched_getaffinity(0)),
        )
    except OSError as error:
        return _cli.report(error)
    state = f"made in {time.perf_counter() - start:.0f}s" if is_new else "there already"
    num_videos = sum(counts.values()) * len(CLASSES)
    print(f"{args.folder}: {count(num_videos, 'video')} of {len(CLASSES)} classes, {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
