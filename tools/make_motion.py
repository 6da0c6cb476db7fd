"""Make the embedded data set: `python tools/make_motion.py FOLDER [--frames] [--seed N]`."""

import argparse
import os
import sys
import time
from pathlib import Path

from slowfast.datasets.motion import CLASSES, VIDEOS_PER_CLASS, make_motion


def main() -> int:
    """Write the data set and say where it lies; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", action="store_true", help="JPEG folders instead of video files")
    parser.add_argument("--seed", type=int, default=0)
    for split, count in VIDEOS_PER_CLASS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"{split} videos per class")
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
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    state = f"made in {time.perf_counter() - start:.0f}s" if is_new else "there already"
    print(f"{args.folder}: {sum(counts.values()) * len(CLASSES)} videos of {len(CLASSES)} classes, {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
