"""Config keys that build each model by its name, and that test published weights as published."""

from collections.abc import Mapping
from typing import Any

from slowfast.models.zoo import Published

Settings = Mapping[str, Any]  # values by full config key

_UNIFORMER = {
    "MODEL.MODEL_NAME": "Uniformer",
    "UNIFORMER.EMBED_DIM": [64, 128, 320, 512],
    "DATA.TRAIN_CROP_SIZE": 224,
    "DATA.TEST_CROP_SIZE": 224,
}
_LIGHT_UNIFORMER = {
    "MODEL.MODEL_NAME": "Uniformer_light_fp32",
    "UNIFORMER.EMBED_DIM": [56, 112, 224, 448],
    "UNIFORMER.DEPTH": [2, 5, 8, 2],
    "UNIFORMER.HEAD_DIM": 28,
    "UNIFORMER.MLP_RATIO": 3.0,
    "UNIFORMER.DROP_DEPTH_RATE": 0.05,
    "DATA.TRAIN_CROP_SIZE": 128,
    "DATA.TRAIN_JITTER_SCALES": [160, 192],
    "DATA.TEST_CROP_SIZE": 128,
}
_XS_SHARES = [[], [], [1, *[0.5] * 8], [0.5, 0.5, 0.5]]
_TORCHVISION = {
    "DATA.TARGET_FPS": 15.0,
    "DATA.NUM_FRAMES": 16,
    "DATA.SAMPLING_RATE": 1,
    "DATA.USE_OFFSET_SAMPLING": True,
    "DATA.TRAIN_CROP_SIZE": 224,
    "DATA.TEST_SHORT_SIDE": 256,
    "DATA.TEST_CROP_SIZE": 224,
    "DATA.ENSEMBLE_METHOD": "probabilities",
    "TEST.NUM_ENSEMBLE_VIEWS": 5,
    "TEST.NUM_SPATIAL_CROPS": 1,
}
_CONVOLUTIONAL = {
    **_TORCHVISION,
    "DATA.MEAN": [0.43216, 0.394666, 0.37645],
    "DATA.STD": [0.22803, 0.22145, 0.216989],
}
_RESNET = {
    **_CONVOLUTIONAL,
    "DATA.TRAIN_CROP_SIZE": 112,
    "DATA.TRAIN_JITTER_SCALES": [128, 160],
    "DATA.TEST_SHORT_SIDE": 128,
    "DATA.TEST_CROP_SIZE": 112,
}
_MVIT = {**_TORCHVISION, "DATA.TARGET_FPS": 7.5}
_SWIN = {
    **_TORCHVISION,
    "DATA.NUM_FRAMES": 32,
    "DATA.MEAN": [0.485, 0.456, 0.406],
    "DATA.STD": [0.229, 0.224, 0.225],
    "TEST.NUM_ENSEMBLE_VIEWS": 12,
}

# Keys that make a model the one that its name says.
ARCHITECTURE_KEYS = ("MODEL.MODEL_NAME", "UNIFORMER.EMBED_DIM", "UNIFORMER.DEPTH")


def same_weights(value: Any, other: Any) -> bool:
    """Return whether models with one of two values of an architecture key have the same weights.

    Uniformer_light and Uniformer_light_fp32 differ only under autocast.
    """
    in_float32 = "Uniformer_light_fp32"
    value, other = (
        in_float32 if setting == "Uniformer_light" else setting for setting in (value, other)
    )
    return bool(value == other)


# The model and the clips of each name. A test compares them with configs/models.
MODEL_RECIPES: Mapping[str, Settings] = {
    "uniformer_small": {
        **_UNIFORMER,
        "UNIFORMER.DEPTH": [3, 4, 8, 3],
        "UNIFORMER.DROP_DEPTH_RATE": 0.1,
    },
    "uniformer_base": {
        **_UNIFORMER,
        "UNIFORMER.DEPTH": [5, 8, 20, 7],
        "UNIFORMER.DROP_DEPTH_RATE": 0.3,
    },
    "uniformer_xxs": _LIGHT_UNIFORMER,
    "uniformer_xxs_ls": {**_LIGHT_UNIFORMER, "MODEL.MODEL_NAME": "Uniformer_light_ls_fp32"},
    "uniformer_xs": {
        **_LIGHT_UNIFORMER,
        "UNIFORMER.EMBED_DIM": [64, 128, 256, 512],
        "UNIFORMER.DEPTH": [3, 5, 9, 3],
        "UNIFORMER.HEAD_DIM": 32,
        "UNIFORMER.DROP_DEPTH_RATE": 0.1,
        "UNIFORMER.PRUNE_RATIO": _XS_SHARES,
        "UNIFORMER.TRADE_OFF": _XS_SHARES,
        "DATA.TRAIN_CROP_SIZE": 192,
        "DATA.TRAIN_JITTER_SCALES": [224, 288],
        "DATA.TEST_CROP_SIZE": 192,
    },
    "mc3_18": {"MODEL.MODEL_NAME": "mc3_18", **_RESNET},
    "mvit_v1_b": {"MODEL.MODEL_NAME": "mvit_v1_b", **_MVIT},
    "mvit_v2_s": {"MODEL.MODEL_NAME": "mvit_v2_s", **_MVIT},
    "r2plus1d_18": {"MODEL.MODEL_NAME": "r2plus1d_18", **_RESNET},
    "r3d_18": {"MODEL.MODEL_NAME": "r3d_18", **_RESNET},
    "s3d": {
        "MODEL.MODEL_NAME": "s3d",
        **_CONVOLUTIONAL,
        "DATA.NUM_FRAMES": 128,
        "DATA.USE_OFFSET_SAMPLING": False,
        "TEST.NUM_ENSEMBLE_VIEWS": 1,
    },
    "swin3d_b": {"MODEL.MODEL_NAME": "swin3d_b", **_SWIN},
    "swin3d_s": {"MODEL.MODEL_NAME": "swin3d_s", **_SWIN},
    "swin3d_t": {"MODEL.MODEL_NAME": "swin3d_t", **_SWIN},
}

_DENSE = {
    "TEST.DATASET": "kinetics",
    "TEST.NUM_ENSEMBLE_VIEWS": 4,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "DATA.USE_OFFSET_SAMPLING": True,
}
_SEGMENTS = {
    "TEST.NUM_ENSEMBLE_VIEWS": 1,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "DATA.SAMPLING_RATE": 4,  # as published, and ignored
}
_SPARSE = {
    "TEST.DATASET": "kinetics_sparse",
    "TEST.NUM_ENSEMBLE_VIEWS": 1,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "DATA.USE_OFFSET_SAMPLING": True,
}
_SHORT = {**_DENSE, "TEST.NUM_ENSEMBLE_VIEWS": 5, "TEST.NUM_SPATIAL_CROPS": 3}
_IMAGE_TEMPLATE = "img_{:05d}.jpg"

# How the weights of UniFormer are tested on each dataset. A test compares them with exp.
_DATASET_RECIPES: Mapping[str, Settings] = {
    "Kinetics-400": {**_DENSE, "MODEL.NUM_CLASSES": 400},
    "Kinetics-600": {**_DENSE, "MODEL.NUM_CLASSES": 600},
    "Something-Something V1": {**_SEGMENTS, "TEST.DATASET": "ssv1", "MODEL.NUM_CLASSES": 174},
    "Something-Something V2": {
        **_SEGMENTS,
        "TEST.DATASET": "ssv2",
        "DATA.IMAGE_TEMPLATE": _IMAGE_TEMPLATE,
        "MODEL.NUM_CLASSES": 174,
    },
    "UCF101": {**_SHORT, "MODEL.NUM_CLASSES": 101},
    "HMDB51": {
        **_SHORT,
        "TEST.DATASET": "hmdb",
        "DATA.IMAGE_TEMPLATE": _IMAGE_TEMPLATE,
        "MODEL.NUM_CLASSES": 101,
    },
    "ImageNet-1K": {"MODEL.NUM_CLASSES": 1000},
}


def weights_recipe(entry: Published) -> dict[str, Any]:
    """Return the config keys with which published weights are tested, beside those of the model."""
    settings: dict[str, Any] = {"MODEL.NUM_CLASSES": 400}
    if entry.model.startswith("uniformer"):
        settings |= _DATASET_RECIPES[entry.dataset]
    if entry.dataset.startswith("Kinetics") and entry.num_frames and not entry.sampling_rate:
        settings |= _SPARSE
        settings["DATA.SAMPLING_RATE"] = 128 // entry.num_frames  # as published, and ignored
    if entry.crop_size:
        settings |= dict.fromkeys(("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE"), entry.crop_size)
    if entry.num_frames:
        settings["DATA.NUM_FRAMES"] = entry.num_frames
    if entry.sampling_rate:
        settings["DATA.SAMPLING_RATE"] = entry.sampling_rate
    return settings
