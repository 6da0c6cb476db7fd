"""From videos on disk to the lists that training reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slowfast.datasets.annotations import VIDEO_SUFFIXES


def write_folder_lists(
    videos: Path, lists: Path, *, shares: Mapping[str, float], seed: int = 0, separator: str = ","
) -> dict[str, int]:
    """Write train.csv, val.csv, test.csv and classes.txt for a folder of class folders.

    Each class is split by itself, so that all splits hold all classes in about the same proportion. Paths in the lists
    are relative to `videos` (DATA.PATH_PREFIX).

    Args:
        videos: holds one folder per class, with video files anywhere below it.
        lists: where the lists go; made where it is missing.
        shares: of the videos of each class, for val and test; the rest is for train.
        seed: of the split.
        separator: between path and label.

    Returns:
        the number of videos of each split.

    Raises:
        FileNotFoundError: there is no such folder, or it has no class folders with videos.
        FileExistsError: a list is there already.
        ValueError: a class has too few videos for one in each split.
    """
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: no such folder")
    found = {folder.name: videos_below(folder) for folder in sorted(videos.iterdir()) if folder.is_dir()}
    names = [name for name, paths in found.items() if paths]
    if not names:
        raise FileNotFoundError(f"{videos}: no class folders with videos ({', '.join(VIDEO_SUFFIXES)})")
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names):
        for split, paths in _split(found[name], shares=shares, rng=np.random.default_rng((seed, label))).items():
            if not paths:
                raise ValueError(f"{videos / name}: {len(found[name])} videos leave none for {split}; add some")
            rows[split] += [f"{path.relative_to(videos)}{separator}{label}\n" for path in paths]
    targets = {split: lists / f"{split}.csv" for split in rows}
    for target in targets.values():
        if target.exists():
            raise FileExistsError(f"{target} is there already; remove it or choose another folder")
    lists.mkdir(parents=True, exist_ok=True)
    for split, target in targets.items():
        target.write_text("".join(rows[split]), encoding="utf-8")
    (lists / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return {split: len(lines) for split, lines in rows.items()}


def videos_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)


def _split(paths: list[Path], *, shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, list[Path]]:
    order = [paths[number] for number in rng.permutation(len(paths))]
    num_val, num_test = (max(round(len(paths) * shares[split]), 1) for split in ("val", "test"))
    return {
        "val": sorted(order[:num_val]),
        "test": sorted(order[num_val : num_val + num_test]),
        "train": sorted(order[num_val + num_test :]),
    }
