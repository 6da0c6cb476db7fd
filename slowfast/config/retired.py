"""Config keys of published configs that have no effect here, each with the reason or a remedy."""

_DEMO = "slowfast predict WEIGHTS VIDEO --annotate OUT.mp4 shows predictions on a video"
_DETECTION = "models here classify whole videos, and detect nothing in them"

RETIRED = {
    "AUG.COLOR_JITTER": "RandAugment replaces it",
    "AUG.RE_SPLIT": "no published recipe keeps a clean split",
    "DATA.DECODING_BACKEND": "PyAV decodes everything, with exact frame numbers",
    "DATA.INPUT_CHANNEL_NUM": "a training reads frames of three channels",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "one decoder thread per worker never deadlocks",
    **dict.fromkeys(
        (
            "DEMO.ENABLE",
            "DEMO.INPUT_VIDEO",
            "DEMO.OUTPUT_FILE",
            "DEMO.OUTPUT_FPS",
            "DEMO.DISPLAY_WIDTH",
            "DEMO.DISPLAY_HEIGHT",
            "DEMO.INPUT_FORMAT",
            "DEMO.CLIP_VIS_SIZE",
            "DEMO.SLOWMO",
        ),
        _DEMO,
    ),
    "DEMO.LABEL_FILE_PATH": "weights know their class names, or slowfast predict --class-names",
    "DEMO.WEBCAM": "slowfast predict WEIGHTS /dev/video0 --stream follows a camera",
    **dict.fromkeys(
        ("DEMO.BUFFER_SIZE", "DEMO.NUM_CLIPS_SKIP", "DEMO.FPS"),
        "slowfast predict --window and --stride choose the clips of a long video",
    ),
    **dict.fromkeys(
        ("DEMO.THREAD_ENABLE", "DEMO.NUM_VIS_INSTANCES"),
        "slowfast predict reads and draws in threads of its own",
    ),
    **dict.fromkeys(
        (
            "DEMO.VIS_MODE",
            "DEMO.COMMON_CLASS_THRES",
            "DEMO.UNCOMMON_CLASS_THRES",
            "DEMO.COMMON_CLASS_NAMES",
        ),
        "slowfast predict shows the best classes",
    ),
    **dict.fromkeys(
        (
            "DEMO.DETECTRON2_CFG",
            "DEMO.DETECTRON2_WEIGHTS",
            "DEMO.DETECTRON2_THRESH",
            "DEMO.PREDS_BOXES",
            "DEMO.GT_BOXES",
            "DEMO.STARTING_SECOND",
        ),
        _DETECTION,
    ),
    "LOG_MODEL_INFO": "parameters and multiply-adds are always logged",
    "MODEL.ARCH": "MODEL.MODEL_NAME names the model",
    "MODEL.DROPOUT_RATE": "UNIFORMER.HEAD_DROPOUT_RATE is the dropout before the head",
    "TENSORBOARD.CLASS_NAMES_PATH": "DATA.CLASS_NAMES names the classes, in the same kind of file",
    **dict.fromkeys(
        (
            "TENSORBOARD.MODEL_VIS.COLORMAP",
            "TENSORBOARD.MODEL_VIS.TOPK_PREDS",
        ),
        "slowfast report RUN shows the predictions for the videos of a test",
    ),
    **dict.fromkeys(
        (
            "TENSORBOARD.MODEL_VIS.GRAD_CAM.ENABLE",
            "TENSORBOARD.MODEL_VIS.GRAD_CAM.LAYER_LIST",
            "TENSORBOARD.MODEL_VIS.GRAD_CAM.USE_TRUE_LABEL",
            "TENSORBOARD.MODEL_VIS.GRAD_CAM.COLORMAP",
        ),
        "slowfast explain draws what a trained model looks at",
    ),
    "TENSORBOARD.PREDICTIONS_PATH": "slowfast report RUN draws the page of a finished test",
    "TENSORBOARD.WRONG_PRED_VIS.TAG": "the tag of the worst mistakes is val/mistakes",
    "TEST.CHECKPOINT_TYPE": "the type of a checkpoint is read from the file",
    "TRAIN.CHECKPOINT_TYPE": "the type of a checkpoint is read from the file",
    "UNIFORMER.REPRESENTATION_SIZE": "no published model has a layer before its head",
    "UNIFORMER.STAGE_TYPE": "stages 1 and 2 are local, stages 3 and 4 are global",
}

# Retired keys of which another value would have to change what is trained: the one value that they
# may have, alone or in a list, and what to do instead.
ONLY_VALUES = {
    "DATA.INPUT_CHANNEL_NUM": (
        3,
        "a training from a config reads RGB or BGR. For other channels, call "
        "slowfast.create_model(..., in_chans=...) and train the model in a loop of your own",
    ),
}
