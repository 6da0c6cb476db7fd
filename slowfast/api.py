"""Models by name, after timm's habits: creating one, and listing models and published weights."""

import difflib
import os
from collections.abc import Mapping, Sequence
from os.path import isfile, join
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode
from torch import nn

from slowfast.config import default_cfg, parse_cfg
from slowfast.config.tree import value_at
from slowfast.models.build import (
    MODELS,
    build_filled_model,
    build_model,
    find_problems,
    require_method,
)
from slowfast.models.heads import HEADS
from slowfast.models.recipes import (
    ARCHITECTURE_KEYS,
    MODEL_RECIPES,
    same_weights,
    weights_recipe,
)
from slowfast.models.uniformer_config import UNIFORMERS
from slowfast.models.weight_files import FileShape, shape_of_file
from slowfast.models.weights import read_weights
from slowfast.models.zoo import find_published, find_weights, published, weights_folder
from slowfast.utils.plugins import import_installed_plugins

# Arguments of `create_model` and the config keys that they stand for.
_KEYS = {
    "num_classes": ("MODEL.NUM_CLASSES",),
    "num_frames": ("DATA.NUM_FRAMES",),
    "crop_size": ("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE"),
    "drop_path": ("UNIFORMER.DROP_DEPTH_RATE",),
    "head": ("MODEL.HEAD",),
}


# ---- Models ----------------------------------------------------------------------------------


def list_models() -> list[str]:
    """Return the names that `create_model` takes, those of models that you added at the end."""
    import_installed_plugins()
    added = [name for name in MODELS if name not in MODEL_RECIPES and name not in UNIFORMERS]
    return [*MODEL_RECIPES, *added]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    num_frames: int | None = None,
    crop_size: int | None = None,
    drop_path: float | None = None,
    head: str | None = None,
) -> nn.Module:
    """Return a model with random or trained weights, on the CPU and in training mode.

    Its attributes and methods are those of timm's models:

    - `num_classes`, `num_features` (channels C of the last stage and of pooled features);
    - `forward(frames)`: logits (B, num_classes) of float32 frames (B, in_chans, T, H, W). In
      training mode, the light models return the logits of two heads, see
      `slowfast.models.uniformer_light.LightOutputs`;
    - `forward_features(frames)`: the last stage, (B, C, T', H', W');
    - `forward_head(x, pre_logits=False)`: logits, or pooled features (B, C), of the last stage;
    - `forward_stages(frames)`: the output of every stage, a list of volumes;
    - `reset_classifier(num_classes)`: a new classifier, or none with 0;
    - `default_cfg`: the clips that the weights were trained for, a dict with `num_frames`,
      `sampling_rate` (None for one frame of each segment of a video), `target_fps` (0 for the frame
      rate of the video), `short_side` and `crop_size` in pixels, `mean` and `std` of each channel
      for values in [0, 1], and `channel_order` ("RGB", "BGR", or None for other channels).

    A model that you added has those that you gave it, and always `default_cfg`.

    Args:
        name: Name of the model, one of `list_models`.
        num_classes: Number of classes. 0 for a model that returns the pooled features. None for the
            number in the weights, or 400. With another number than that in the weights, the head
            stays random, and the log says so.
        in_chans: Number of channels of the frames. None for the number in the weights, or 3. The
            first convolution of weights for three channels is adapted: summed for one channel,
            otherwise repeated and scaled.
        weights: Published name (see `list_weights`), path or address of a file, or `hf:org/name`.
            None for random weights.
        num_frames: Number of frames of a clip. None for that of the weights or the model.
        crop_size: Height and width of a clip in pixels. None for that of the weights or the model.
        drop_path: Drop path rate of the last block of UniFormer. None for the published one.
        head: Kind of the head: linear, mlp or attentive. None for the kind in the weights, or
            linear. With another kind than that in the weights, the head stays random.

    Raises:
        FileNotFoundError: If there is no such file of weights. For a published name, the message
            says where to download it.
        OSError: If the weights cannot be read.
        ValueError: If there is no such model, an argument is out of range or not supported by the
            model, or the weights are damaged or of another model.
    """
    import_installed_plugins()
    _check_name(name)
    _check_ranges(
        num_classes=num_classes, in_chans=in_chans, num_frames=num_frames, crop_size=crop_size
    )
    _check_support(name, drop_path=drop_path, head=head)

    source = _read(weights, is_known=name in MODEL_RECIPES)
    in_chans = in_chans or source.shape.in_chans or 3
    arguments = {
        "num_classes": num_classes or source.shape.num_classes or None,
        "num_frames": num_frames,
        "crop_size": crop_size,
        "drop_path": None if drop_path is None else float(drop_path),
        "head": head or source.shape.head or None,
    }
    cfg = _build_cfg(name, source, arguments=arguments)

    if source.path:
        may_replace_head = num_classes is not None or head is not None
        model, _ = build_filled_model(
            cfg,
            source.state,
            path=source.path,
            in_chans=in_chans,
            may_replace_head=may_replace_head,
        )
    else:
        model = build_model(cfg, in_chans=in_chans)
    if num_classes == 0:
        require_method(model, "reset_classifier")
        model.reset_classifier(0)  # type: ignore[operator]
    vars(model)["default_cfg"] = _build_default_cfg(cfg, in_chans=in_chans)
    return model


class _Source(NamedTuple):
    """A file of weights and what it says about its model. Empty for random weights."""

    path: str
    state: Mapping[str, Any]
    shape: FileShape


def _read(weights: str | os.PathLike[str] | None, *, is_known: bool) -> _Source:
    """Read the weights of a model, whose layers have known names unless a user added it."""
    if weights is None:
        return _Source("", {}, FileShape(num_classes=0, in_chans=0, head=""))

    if not isinstance(weights, str | os.PathLike):
        raise ValueError(f"weights is {weights!r}. Use a published name, a path or an address")
    path = find_weights(os.fspath(weights), key="weights")
    state = read_weights(path)
    if is_known:
        return _Source(path, state, shape_of_file(state))
    return _Source(path, state, FileShape(len(state["class_names"]), in_chans=0, head=""))


def _check_name(name: str) -> None:
    names = list_models()
    if name in names:
        return
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), names, 3, 0.5)
    nearest = f"The nearest names are {', '.join(near)}. " if near else ""
    raise ValueError(f"there is no model {name!r}. {nearest}slowfast.list_models() lists all")


def _check_ranges(**numbers: int | None) -> None:
    for argument, number in numbers.items():
        smallest = 0 if argument == "num_classes" else 1
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if number is not None and not (is_whole and number >= smallest):
            remedy = "0 for a model that returns features" if smallest == 0 else "such as 3"
            raise ValueError(
                f"{argument} is {number!r}. Use a whole number of {smallest} or more, {remedy}"
            )


def _check_support(name: str, *, drop_path: float | None, head: str | None) -> None:
    if drop_path is not None:
        if not name.startswith("uniformer_"):
            raise ValueError(f"drop_path is {drop_path!r}, but only UniFormer has it, not {name}")
        is_number = isinstance(drop_path, int | float) and not isinstance(drop_path, bool)
        if not (is_number and 0 <= drop_path <= 1):
            raise ValueError(f"drop_path is {drop_path!r}. Use a number from 0 to 1")
    if head is not None and head not in HEADS:
        raise ValueError(f"head is {head!r}. Choose one of: {', '.join(HEADS)}")


def _in_arguments(problems: Sequence[str]) -> str:
    """Return problems with the names of arguments in the place of config keys."""
    text = "\n  ".join(problems)
    for argument, keys in _KEYS.items():
        for key in keys:
            text = text.replace(key, argument)
    return text


# ---- Configs ---------------------------------------------------------------------------------


def _build_cfg(name: str, source: _Source, *, arguments: Mapping[str, Any]) -> CfgNode:
    """Return the config of a model with the clips of its weights or of the arguments.

    Raises:
        ValueError: If the weights are those of another model, or the model cannot take the clips.
    """
    recipe = MODEL_RECIPES.get(name, {"MODEL.MODEL_NAME": name})
    text = source.state.get("cfg")
    if isinstance(text, str):
        cfg = parse_cfg(text, origin=source.path).clone()
        cfg.defrost()
        for key in recipe.keys() & {*ARCHITECTURE_KEYS}:
            if not same_weights(value_at(cfg, key), recipe[key]):
                raise ValueError(
                    f"{source.path}: was trained with {key} {value_at(cfg, key)}, but {name} has "
                    f"{recipe[key]}. slowfast.load opens it whatever its model"
                )
    else:
        entry = find_published(source.path)
        cfg = default_cfg()
        cfg.merge_from_list(_pairs({**recipe, **(weights_recipe(entry) if entry else {})}))

    crop_size = cfg.DATA.TEST_CROP_SIZE
    for argument, value in arguments.items():
        if value is not None:
            cfg.merge_from_list(_pairs(dict.fromkeys(_KEYS[argument], value)))
    # Another crop shows the same share of a frame.
    short_side = cfg.DATA.TEST_SHORT_SIDE * cfg.DATA.TEST_CROP_SIZE / crop_size
    cfg.DATA.TEST_SHORT_SIDE = round(short_side)

    if problems := find_problems(cfg):
        raise ValueError(f"{name}: {_in_arguments(problems)}")
    return cfg


def _pairs(settings: Mapping[str, Any]) -> list[Any]:
    """Return keys and values in turn, as `merge_from_list` takes them."""
    return [part for setting in settings.items() for part in setting]


def _build_default_cfg(cfg: CfgNode, *, in_chans: int) -> dict[str, Any]:
    """Return the clips that a model takes, as plain data."""
    from slowfast.datasets.catalog import DATASETS  # It imports the readers of lists.

    dataset = DATASETS.get(cfg.TEST.DATASET)
    is_bgr = (dataset is not None and dataset.is_bgr) != cfg.DATA.REVERSE_INPUT_CHANNEL
    is_segmented = dataset is not None and dataset.is_segmented

    order = "BGR" if is_bgr else "RGB"
    return {
        "num_frames": cfg.DATA.NUM_FRAMES,
        "sampling_rate": None if is_segmented else cfg.DATA.SAMPLING_RATE,
        "target_fps": cfg.DATA.TARGET_FPS,
        "short_side": cfg.DATA.TEST_SHORT_SIDE or cfg.DATA.TEST_CROP_SIZE,
        "crop_size": cfg.DATA.TEST_CROP_SIZE,
        "mean": _per_channel(cfg.DATA.MEAN, in_chans),
        "std": _per_channel(cfg.DATA.STD, in_chans),
        "channel_order": order if in_chans == 3 else None,
    }


def _per_channel(values: Sequence[float], in_chans: int) -> list[float]:
    """Return a value for each channel, as the first convolution treats the channels."""
    if in_chans == 1:
        return [sum(values) / len(values)]
    return [values[channel % len(values)] for channel in range(in_chans)]


# ---- Published weights -----------------------------------------------------------------------


class PublishedWeights(NamedTuple):
    """A published file of weights.

    Attributes:
        name: Name for the argument `weights` of `create_model`.
        model: Name of its model.
        dataset: Dataset whose classes its head predicts.
        num_frames: Frames of a clip. 0 for weights of images.
        sampling_rate: Frames of the video per frame of the clip. 0 if a clip has one frame of each
            segment of the video.
        top1: Published top-1 accuracy in percent.
        file: Name of the file.
        page: Web page or address to download it from.
        path: Path of the file in the folder WEIGHTS_DIR. None if it is not there.
    """

    name: str
    model: str
    dataset: str
    num_frames: int
    sampling_rate: int
    top1: float
    file: str
    page: str
    path: str | None


def list_weights() -> list[PublishedWeights]:
    """Return all published files of weights.

    The environment variable WEIGHTS_DIR names the folder that holds those that you downloaded.
    """
    folder = weights_folder()
    records = []
    for name, entry in published().items():
        path = join(folder, entry.file)
        records.append(
            PublishedWeights(
                name=name,
                model=entry.model,
                dataset=entry.dataset,
                num_frames=entry.num_frames,
                sampling_rate=entry.sampling_rate,
                top1=entry.top1,
                file=entry.file,
                page=entry.page,
                path=path if folder and isfile(path) else None,
            )
        )
    return records
