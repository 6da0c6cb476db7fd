"""Config keys that published configs set and that have no effect here, each with the reason."""

RETIRED = {
    "AUG.COLOR_JITTER": "RandAugment replaces it",
    "AUG.RE_SPLIT": "no published recipe keeps a clean split",
    "DATA.DECODING_BACKEND": "PyAV decodes everything, with exact frame numbers",
    "DATA.INPUT_CHANNEL_NUM": "a training reads frames of three channels",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "one decoder thread per worker never deadlocks",
    "LOG_MODEL_INFO": "parameters and multiply-adds are always logged",
    "MODEL.ARCH": "MODEL.MODEL_NAME names the model",
    "MODEL.DROPOUT_RATE": "UNIFORMER.HEAD_DROPOUT_RATE is the dropout before the head",
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
