"""Write the embedded dataset."""

import argparse
import os
import time
from collections.abc import Sequence

from slowfast.commands import cli
from slowfast.preparation.motion_classes import CLASSES, VIDEOS_PER_CLASS
from slowfast.utils.text import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the dataset, print where it is, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(
        lambda: _write(args), interrupted="stopped. The same command makes all videos again"
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("folder", type=cli.path, help="folder of the dataset")
    parser.add_argument(
        "--frames",
        action="store_true",
        help="write folders of JPEG files (default: video files)",
    )
    parser.add_argument(
        "--seed",
        type=cli.number(int, least=0),
        default=0,
        metavar="N",
        help="seed of the videos (default: 0)",
    )

    for split, num_videos in VIDEOS_PER_CLASS.items():
        parser.add_argument(
            f"--{split}",
            type=cli.number(int, least=1),
            default=num_videos,
            metavar="N",
            help=f"number of {split} videos per class (default: {num_videos})",
        )
    return parser


def _write(args: argparse.Namespace) -> int:
    from slowfast.preparation.motion import make_motion

    videos_per_class = {split: getattr(args, split) for split in VIDEOS_PER_CLASS}
    start = time.perf_counter()
    is_new = make_motion(
        args.folder,
        seed=args.seed,
        videos_per_class=videos_per_class,
        as_frames=args.frames,
        num_processes=len(os.sched_getaffinity(0)),
    )

    state = f"made in {time.perf_counter() - start:.0f}s" if is_new else "there already"
    num_videos = count(sum(videos_per_class.values()) * len(CLASSES), "video")
    print(f"{args.folder}: {num_videos} of {len(CLASSES)} classes, {state}")
    return 0
