"""Catalog of the known datasets: where their lists are, who reads them, and how clips are taken."""

from collections.abc import Callable, Mapping
from os.path import join
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast.datasets import published_class_names, published_lists
from slowfast.datasets.annotation_lists import Source, read_frame_list, read_path_list
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.class_name_files import read_class_names
from slowfast.datasets.list_cache import read_once
from slowfast.datasets.records import NO_LABEL
from slowfast.datasets.text_files import first_existing
from slowfast.utils.text import count


class Format(NamedTuple):
    """Format of a dataset on disk, and how clips are taken from its videos.

    Attributes:
        list_templates: File names of a list, in which {} stands for the name of the split. The
            first one that exists is read.
        split_names: Names that the files may use for each of our splits.
        read: Reader of a list.
        class_names: Reader of the class names. It takes the path of the training list and the
            number of classes. None if lists hold labels instead of class names.
        video_template: Default of DATA.VIDEO_TEMPLATE.
        is_frames: Whether videos are folders of JPEG files instead of video files.
        is_bgr: Whether the model sees the channels in the order BGR instead of RGB.
        is_segmented: Whether a clip has one frame from each segment of the whole video instead of
            densely sampled frames.
        target_fps: Frame rate of the videos that published models were trained on. 0 stands for the
            frame rate of each video.
    """

    list_templates: tuple[str, ...]
    split_names: Mapping[str, tuple[str, ...]]
    read: Callable[[Source], Annotations]
    class_names: Callable[[str, int], list[str]] | None = None
    video_template: str = ""
    is_frames: bool = False
    is_bgr: bool = False
    is_segmented: bool = False
    target_fps: float = 0.0


_SAME_NAMES = {"train": ("train",), "val": ("val",), "test": ("test",)}
# Results on Something-Something are published for the validation split.
_SOMETHING_NAMES = {"train": ("train",), "val": ("validation",), "test": ("validation",)}

_KINETICS = Format(
    list_templates=("{}.csv",),
    # Kinetics is tested on its validation videos. The lists of UCF101 have no test.csv either.
    split_names={"train": ("train",), "val": ("val",), "test": ("test", "val")},
    read=read_path_list,
)

_SOMETHING_V1_FRAMES = Format(
    list_templates=("somesomev1_rgb_{}_split.txt",),
    split_names=_SOMETHING_NAMES,
    read=read_frame_list,
    is_frames=True,
    is_bgr=True,
    is_segmented=True,
)

DATASETS = {
    "kinetics": _KINETICS,
    "kinetics_sparse": _KINETICS._replace(is_segmented=True),
    "kinetics_official": Format(
        list_templates=("{}.csv",),
        # Some distributions have test lists without labels.
        split_names={
            "train": ("train",),
            "val": ("val", "validate"),
            "test": ("test", "val", "validate"),
        },
        read=published_lists.read_kinetics,
        class_names=published_class_names.read_kinetics_names,
        video_template="{youtube_id}_{time_start:06d}_{time_end:06d}.mp4",
    ),
    "ssv1": _SOMETHING_V1_FRAMES,
    "ssv2": _SOMETHING_V1_FRAMES._replace(list_templates=("somesomev2_rgb_{}_split.txt",)),
    "sth": _SOMETHING_V1_FRAMES,
    "ssv1_official": _SOMETHING_V1_FRAMES._replace(
        list_templates=("something-something-v1-{}.csv",),
        read=published_lists.read_something_v1,
        class_names=published_class_names.read_something_v1_names,
        video_template="{id}",
    ),
    "ssv2_official": Format(
        list_templates=("something-something-v2-{}.json", "{}.json"),
        split_names=_SOMETHING_NAMES,
        read=published_lists.read_something_v2,
        class_names=published_class_names.read_something_v2_names,
        video_template="{id}.webm",
        is_bgr=True,
        is_segmented=True,
        target_fps=30.0,  # published models were trained on the frames of `ffmpeg -r 30`
    ),
    "ucf101": Format(
        list_templates=("{}list01.txt",),
        split_names={"train": ("train",), "val": ("test",), "test": ("test",)},
        read=published_lists.read_ucf101,
        class_names=published_class_names.read_ucf101_names,
    ),
    "hmdb": Format(
        list_templates=("{}.txt",),
        split_names={"train": ("train",), "val": ("val",), "test": ("val",)},
        read=read_frame_list,
        is_frames=True,
        is_bgr=True,
    ),
    "hmdb51": Format(
        list_templates=("*_test_split1.txt",),
        split_names=_SAME_NAMES,
        read=published_lists.read_hmdb51,
        class_names=published_class_names.read_hmdb51_names,
    ),
    "folders": Format(
        list_templates=("{}",),
        split_names=_SAME_NAMES,
        read=published_lists.read_class_folders,
        class_names=published_class_names.read_folder_names,
    ),
}


def add_dataset(name: str, dataset_format: Format) -> None:
    """Add a dataset of your own to the names that TRAIN.DATASET and TEST.DATASET accept.

    Raises:
        ValueError: If the name is taken.
    """
    if name in DATASETS:
        raise ValueError(f"there is already a dataset {name!r}. Choose another name")
    DATASETS[name] = dataset_format


def build_format(cfg: CfgNode, split: str) -> Format:
    """Return the format of the dataset that a split (train | val | test) belongs to."""
    return DATASETS[cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET]


def build_source(cfg: CfgNode, split: str) -> Source:
    """Return what a reader needs to parse the list of a split (train | val | test).

    Raises:
        FileNotFoundError: If the class names that the list needs are missing.
        ValueError: If there is not exactly one name for each class.
    """
    dataset_format = build_format(cfg, split)
    list_path, split_name = _find_list(cfg, dataset_format, split=split)

    class_names: list[str] = []
    if dataset_format.class_names:
        class_names = _build_class_names(cfg, dataset_format)

    return Source(
        list_path,
        num_classes=cfg.MODEL.NUM_CLASSES,
        split_name=split_name,
        class_names=tuple(class_names),
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        video_template=cfg.DATA.VIDEO_TEMPLATE or dataset_format.video_template,
        path_prefix=cfg.DATA.PATH_PREFIX,
        may_lack_labels=split == "test",
    )


def build_annotations(cfg: CfgNode, split: str) -> Annotations:
    """Return the annotations of a split (train | val | test).

    A process parses a list once, unless its files change.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If the list is empty, has invalid rows, or its class names are unknown. If it
            has no labels, and they are needed for training or validation.
    """
    source = build_source(cfg, split)
    read = build_format(cfg, split).read
    annotations = read_once(read, source, list_path=source.list_path)

    if split != "test" and not annotations.is_labeled:
        purpose = {"train": "training", "val": "validation"}[split]
        raise ValueError(
            f"{source.list_path} has no labels: {count(len(annotations), 'video')} with the label "
            f"{NO_LABEL}. Label the videos for {purpose}. Only a test list may be without labels"
        )
    return annotations


def build_class_names(cfg: CfgNode) -> list[str]:
    """Return the class names in the order of the labels, or the labels if there are no names.

    Raises:
        FileNotFoundError: If the file of class names does not exist.
        ValueError: If there is not exactly one name for each class.
    """
    names = build_known_class_names(cfg)
    return names or [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]


def build_known_class_names(cfg: CfgNode) -> list[str]:
    """Return the class names in the order of the labels, [] if there are none.

    They come from DATA.CLASS_NAMES, or else from the dataset.

    Raises:
        FileNotFoundError: If the file of class names does not exist.
        ValueError: If there is not exactly one name for each class.
    """
    return _build_class_names(cfg, build_format(cfg, "test"))


def _build_class_names(cfg: CfgNode, dataset_format: Format) -> list[str]:
    num_classes = cfg.MODEL.NUM_CLASSES
    if cfg.DATA.CLASS_NAMES:
        origin = cfg.DATA.CLASS_NAMES
        names = read_once(read_class_names, origin, list_path=origin)
    elif dataset_format.class_names:
        train_list, _ = _find_list(cfg, dataset_format, split="train")
        origin = f"the dataset of {train_list}"
        read = dataset_format.class_names
        names = read_once(read, train_list, num_classes, list_path=train_list, with_siblings=True)
    else:
        return []

    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{origin}: the class {repeated!r} occurs more than once")
    if len(names) != num_classes:
        raise ValueError(f"{origin} has {len(names)} names, but MODEL.NUM_CLASSES is {num_classes}")
    return [*names]


def _find_list(cfg: CfgNode, dataset_format: Format, *, split: str) -> tuple[str, str]:
    """Return the path of a list, and the name of the split in the files."""
    templates = dataset_format.list_templates
    if cfg.DATA.LABEL_PATH_TEMPLATE:
        templates = (cfg.DATA.LABEL_PATH_TEMPLATE,)

    split_names: dict[str, str] = {}  # by path, in the order of preference
    for split_name in dataset_format.split_names[split]:
        for template in templates:
            path = join(cfg.DATA.PATH_TO_DATA_DIR, template.format(split_name))
            split_names.setdefault(path, split_name)

    path = first_existing([*split_names])
    return path, split_names[path]
