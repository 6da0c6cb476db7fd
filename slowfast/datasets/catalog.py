"""The data sets we know: where their lists lie, who reads them, and how clips are taken from their videos."""

from collections.abc import Callable, Mapping, Sequence
from os.path import join
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast.datasets import published_lists
from slowfast.datasets.annotations import Annotations, read_frame_list, read_path_list
from slowfast.datasets.class_name_files import read_class_names


class Source(NamedTuple):
    """All that a reader of lists may ask for."""

    list_path: str
    part: str  # what the files call the split
    num_classes: int
    class_names: Sequence[str]  # in the order of the labels; empty where the list has numbers
    separator: str  # DATA.PATH_LABEL_SEPARATOR
    video_template: str  # path of a video, from the fields of its row
    prefix: str  # DATA.PATH_PREFIX


class Format(NamedTuple):
    """How one kind of data set lies on disk and how clips are taken from it."""

    list_templates: tuple[
        str, ...
    ]  # file names of a list, {} stands for the split; the first one there is read
    split_names: Mapping[str, tuple[str, ...]]  # what the files call our splits
    read: Callable[[Source], Annotations]
    class_names: Callable[[str, int], list[str]] | None = (
        None  # from the list for training and the number of classes
    )
    video_template: str = ""  # DATA.VIDEO_TEMPLATE, where that is ""
    is_frames: bool = False  # folders of JPEG files, not video files
    is_bgr: bool = False  # channels of the frames that the model sees; else RGB
    is_segmented: bool = False  # one frame per segment of the whole video, not a dense clip
    target_fps: float = 0.0  # frames/s that published models saw; 0: the video's own


_SAME = {"train": ("train",), "val": ("val",), "test": ("test",)}
_VALIDATION = {
    "train": ("train",),
    "val": ("validation",),
    "test": ("validation",),
}  # tests are published on it
_KINETICS = Format(
    ("{}.csv",),
    # The published lists of UCF101 have no test.csv, and Kinetics is tested on the videos for validation.
    {"train": ("train",), "val": ("val",), "test": ("test", "val")},
    lambda source: read_path_list(
        source.list_path, separator=source.separator, num_classes=source.num_classes
    ),
)
_SSV1 = Format(
    ("somesomev1_rgb_{}_split.txt",),
    _VALIDATION,
    lambda source: read_frame_list(source.list_path, num_classes=source.num_classes),
    is_frames=True,
    is_bgr=True,
    is_segmented=True,
)

DATASETS = {
    "kinetics": _KINETICS,
    "kinetics_sparse": _KINETICS._replace(is_segmented=True),
    "kinetics_official": Format(
        ("{}.csv",),
        # Some distributions have no labels for the test, and results are published on the list for validation.
        {"train": ("train",), "val": ("val", "validate"), "test": ("test", "val", "validate")},
        lambda source: published_lists.read_kinetics(
            source.list_path,
            part=source.part,
            video_template=source.video_template,
            class_names=source.class_names,
        ),
        published_lists.published_names,
        video_template="{youtube_id}_{time_start:06d}_{time_end:06d}.mp4",
    ),
    "ssv1": _SSV1,
    "ssv2": _SSV1._replace(list_templates=("somesomev2_rgb_{}_split.txt",)),
    "sth": _SSV1,
    "ssv1_official": _SSV1._replace(
        list_templates=("something-something-v1-{}.csv",),
        read=lambda source: published_lists.read_something_v1(
            source.list_path, video_template=source.video_template, class_names=source.class_names
        ),
        class_names=published_lists.something_v1_names,
        video_template="{id}",
    ),
    "ssv2_official": Format(
        ("something-something-v2-{}.json", "{}.json"),
        _VALIDATION,
        lambda source: published_lists.read_something_v2(
            source.list_path, video_template=source.video_template, class_names=source.class_names
        ),
        published_lists.something_v2_names,
        video_template="{id}.webm",
        is_bgr=True,
        is_segmented=True,
        target_fps=30.0,  # they were trained on frames that `ffmpeg -r 30` wrote
    ),
    "ucf101": Format(
        ("{}list01.txt",),
        {"train": ("train",), "val": ("test",), "test": ("test",)},
        lambda source: published_lists.read_ucf101(
            source.list_path, class_names=source.class_names
        ),
        published_lists.ucf101_names,
    ),
    "hmdb": Format(
        ("{}.txt",),
        {"train": ("train",), "val": ("val",), "test": ("val",)},
        lambda source: read_frame_list(source.list_path, num_classes=source.num_classes),
        is_frames=True,
        is_bgr=True,
    ),
    "hmdb51": Format(
        ("*_test_split1.txt",),
        _SAME,
        lambda source: published_lists.read_hmdb51(
            source.list_path, part=source.part, class_names=source.class_names
        ),
        published_lists.hmdb51_names,
    ),
    "folders": Format(
        ("{}",),
        _SAME,
        lambda source: published_lists.read_class_folders(
            source.list_path, prefix=source.prefix, class_names=source.class_names
        ),
        published_lists.folder_names,
    ),
}


def add_dataset(name: str, form: Format) -> None:
    """Make a data set of one's own known to TRAIN.DATASET and TEST.DATASET.

    Raises:
        ValueError: the name is taken.
    """
    if name in DATASETS:
        raise ValueError(f"there is a data set {name!r} already; choose another name")
    DATASETS[name] = form


def format_of(cfg: CfgNode, split: str) -> Format:
    """Return the format of the data set that a split (train | val | test) is of."""
    return DATASETS[cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET]


def list_path(cfg: CfgNode, split: str) -> str:
    """Return where the list of a split (train | val | test) lies: a file, or a folder or pattern of several."""
    return _find_list(cfg, format_of(cfg, split), split=split)[0]


def build_annotations(cfg: CfgNode, split: str) -> Annotations:
    """Return the list of a split (train | val | test).

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty or has bad rows, or its classes are unknown.
    """
    form = format_of(cfg, split)
    path, part = _find_list(cfg, form, split=split)
    return form.read(
        Source(
            path,
            part,
            num_classes=cfg.MODEL.NUM_CLASSES,
            class_names=_class_names(cfg, form) if form.class_names else [],
            separator=cfg.DATA.PATH_LABEL_SEPARATOR,
            video_template=cfg.DATA.VIDEO_TEMPLATE or form.video_template,
            prefix=cfg.DATA.PATH_PREFIX,
        )
    )


def build_class_names(cfg: CfgNode) -> list[str]:
    """Return the names of the classes in the order of their labels, as `known_class_names`, or numbers."""
    return known_class_names(cfg) or [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]


def known_class_names(cfg: CfgNode) -> list[str]:
    """Return the names of the classes in the order of their labels: of DATA.CLASS_NAMES or of the data set, or [].

    Raises:
        FileNotFoundError: the file of names is missing.
        ValueError: there is not one name for each of MODEL.NUM_CLASSES.
    """
    return _class_names(cfg, format_of(cfg, "test"))


def _class_names(cfg: CfgNode, form: Format) -> list[str]:
    num_classes = cfg.MODEL.NUM_CLASSES
    if cfg.DATA.CLASS_NAMES:
        origin, names = cfg.DATA.CLASS_NAMES, read_class_names(cfg.DATA.CLASS_NAMES)
    elif form.class_names:
        train_list, _ = _find_list(cfg, form, split="train")
        origin, names = f"the data set of {train_list}", form.class_names(train_list, num_classes)
    else:
        return []
    if len(set(names)) < len(names):
        raise ValueError(
            f"{origin}: the class {next(name for name in names if names.count(name) > 1)!r} is there twice"
        )
    if len(names) != num_classes:
        raise ValueError(f"{origin} has {len(names)} names, but MODEL.NUM_CLASSES is {num_classes}")
    return names


def _find_list(cfg: CfgNode, form: Format, *, split: str) -> tuple[str, str]:
    """Where a list lies, and what its files call the split."""
    templates = (
        (cfg.DATA.LABEL_PATH_TEMPLATE,) if cfg.DATA.LABEL_PATH_TEMPLATE else form.list_templates
    )
    places = [
        (join(cfg.DATA.PATH_TO_DATA_DIR, template.format(part)), part)
        for part in form.split_names[split]
        for template in templates
    ]
    path = published_lists.first_existing([path for path, _ in places])
    return next(place for place in places if place[0] == path)
