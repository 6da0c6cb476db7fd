"""The data sets we know: where their lists lie, who reads them, and how clips are taken from their videos."""

from os.path import join
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast.datasets.annotations import Annotations, read_class_names, read_frame_list, read_path_list


class Format(NamedTuple):
    """How one kind of data set lies on disk and how clips are taken from it."""

    list_template: str  # file name of a list, {} stands for the split
    split_names: dict[str, str]  # what the files call our splits
    is_frames: bool  # folders of JPEG files, read as BGR, not video files
    is_segmented: bool  # one frame per segment of the whole video, not a dense clip


_KINETICS = Format("{}.csv", {"train": "train", "val": "val", "test": "test"}, is_frames=False, is_segmented=False)
_SSV1 = Format(
    "somesomev1_rgb_{}_split.txt",
    {"train": "train", "val": "validation", "test": "validation"},
    is_frames=True,
    is_segmented=True,
)
_SSV2 = _SSV1._replace(list_template="somesomev2_rgb_{}_split.txt")
DATASETS = {"kinetics": _KINETICS, "ssv1": _SSV1, "ssv2": _SSV2, "sth": _SSV1}


def format_of(cfg: CfgNode, split: str) -> Format:
    """Return the format of the data set that a split (train | val | test) is of."""
    return DATASETS[cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET]


def list_path(cfg: CfgNode, split: str) -> str:
    """Return where the list of a split (train | val | test) lies."""
    form = format_of(cfg, split)
    template = cfg.DATA.LABEL_PATH_TEMPLATE or form.list_template
    return join(cfg.DATA.PATH_TO_DATA_DIR, template.format(form.split_names[split]))


def build_annotations(cfg: CfgNode, split: str) -> Annotations:
    """Return the list of a split (train | val | test).

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty or has a bad line.
    """
    num_classes = cfg.MODEL.NUM_CLASSES
    if format_of(cfg, split).is_frames:
        return read_frame_list(list_path(cfg, split), num_classes=num_classes)
    return read_path_list(list_path(cfg, split), separator=cfg.DATA.PATH_LABEL_SEPARATOR, num_classes=num_classes)


def build_class_names(cfg: CfgNode) -> list[str]:
    """Return the names of the classes in the order of their labels: of DATA.CLASS_NAMES, or else their numbers.

    Raises:
        ValueError: the file has not one name for each of MODEL.NUM_CLASSES.
    """
    if not cfg.DATA.CLASS_NAMES:
        return [str(label) for label in range(cfg.MODEL.NUM_CLASSES)]
    names = read_class_names(cfg.DATA.CLASS_NAMES)
    if len(names) != cfg.MODEL.NUM_CLASSES:
        raise ValueError(
            f"{cfg.DATA.CLASS_NAMES} has {len(names)} names, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}"
        )
    return names
