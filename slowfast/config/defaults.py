"""Every config key with its default, unit and meaning, and the keys that published configs set without effect.

A key lives here only while some code reads it; the change that stops reading a key moves it to `RETIRED`.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from fvcore.common.config import CfgNode

_C = CfgNode()

# ---- The machine -----------------------------------------------------------------------------------------------------
_C.NUM_GPUS = 1  # processes on this machine, one GPU each (with DIST_BACKEND gloo: CPU processes); 0: one CPU process
_C.NUM_SHARDS = 1  # machines in the job
_C.SHARD_ID = 0  # number of this machine, from 0
_C.DIST_BACKEND = "nccl"  # nccl: one GPU per process; gloo: processes on the CPU
_C.DIST_TIMEOUT = (
    1800.0  # seconds to wait for a process that does not come, or is late in a collective
)
_C.RNG_SEED = 0  # seed of everything random in the run
_C.OUTPUT_DIR = "./output"  # local folder of checkpoints, logs and results
_C.LOG_PERIOD = 10  # steps between two lines of progress

# ---- Training --------------------------------------------------------------------------------------------------------
_C.TRAIN = CfgNode()
_C.TRAIN.ENABLE = True  # train before testing
_C.TRAIN.DATASET = "kinetics"  # a name in slowfast.datasets.DATASETS
_C.TRAIN.BATCH_SIZE = 64  # videos per step and machine, shared by its processes
_C.TRAIN.DROP_LAST = True  # leave out the last incomplete step of an epoch; False: keep it
_C.TRAIN.SAMPLING = "uniform"  # uniform: every video once an epoch | balanced: classes equally
_C.TRAIN.EVAL_PERIOD = 10  # epochs between two validations; the last epoch is always validated
_C.TRAIN.CHECKPOINT_PERIOD = 10  # epochs between two checkpoints; the last epoch is always saved
_C.TRAIN.CHECKPOINT_MINUTES = 30.0  # between two checkpoints within an epoch; 0: none
_C.TRAIN.SAVE_LATEST = False  # a checkpoint after every epoch, and only the newest is kept
_C.TRAIN.KEEP_LAST = 0  # checkpoints at the ends of epochs that are kept; 0: all
_C.TRAIN.KEEP_EVERY = 0  # those after each so many epochs are kept as well; 0: none for that
_C.TRAIN.CHECKPOINT_FILE_PATH = (
    ""  # file, address or published name to start from; "": UNIFORMER.PRETRAIN_NAME
)
_C.TRAIN.BEST_METRIC = (
    "top1"  # top1 | loss: which validation is the best, for best.pyth and early stopping
)
_C.TRAIN.EARLY_STOP_PATIENCE = (
    0  # validations in a row without a better one that end the training; 0: never
)
_C.TRAIN.AUTO_RESUME = (
    True  # resume the run in OUTPUT_DIR; False: set it aside (a restart of a job resumes its own)
)
_C.TRAIN.RESUME_WITH_CHANGES = (
    False  # continue although settings of the model, the data or the recipe have changed
)
_C.TRAIN.REHEARSE = (
    True  # train, save, load, validate and test on a few videos before the first epoch
)
_C.TRAIN.EMA_DECAY = 0.0  # share of the moving average of the weights that a step keeps, such as 0.9999; 0: no average
_C.TRAIN.AMP = "auto"  # off | bf16 | fp16 | auto: bf16 where the GPU computes in it, else fp16 on a GPU, else off
_C.TRAIN.TF32 = (
    False  # a GPU computes float32 in TF32, 10 bits of mantissa: faster; no effect in bf16 and fp16
)
_C.TRAIN.COMPILE = (
    False  # compile the blocks of the model (torch.compile), which takes minutes at the start
)
_C.TRAIN.STATIC_GRAPH = (
    False  # tell DDP that all steps use the same parameters; has no effect with accumulation
)
_C.TRAIN.GRADIENT_BUCKET_VIEW = (
    True  # gradients lie in the buffers that DDP sends: one copy of them less
)
_C.TRAIN.GRADIENT_DTYPE = (
    "fp32"  # in which gradients travel between processes: fp32 | bf16, half as much
)
_C.TRAIN.PREFETCH = True  # copy the next batch to the GPU while it computes, in tests as well

# ---- Testing ---------------------------------------------------------------------------------------------------------
_C.TEST = CfgNode()
_C.TEST.ENABLE = True  # test after training, or alone with TRAIN.ENABLE False
_C.TEST.DATASET = "kinetics"  # a name in slowfast.datasets.DATASETS, for validation and test
_C.TEST.BATCH_SIZE = 64  # views in one forward pass and machine, shared by its processes
_C.TEST.CHECKPOINT_FILE_PATH = (
    ""  # file, address or published name; "": the newest checkpoint in OUTPUT_DIR
)
_C.TEST.TEST_BEST = (
    False  # with no file given, test the checkpoint with the best validation: OUTPUT_DIR/best.pyth
)
_C.TEST.EMA = True  # validate, keep as best and test the averaged weights of TRAIN.EMA_DECAY, where there are any
_C.TEST.ALLOW_UNSCORED = False  # exit status 0 although some videos are unreadable
_C.TEST.NUM_ENSEMBLE_VIEWS = 10  # temporal clips per video
_C.TEST.NUM_SPATIAL_CROPS = 3  # spatial crops per clip: 1 (center) or 3

# ---- Videos and views ------------------------------------------------------------------------------------------------
_C.DATA = CfgNode()
_C.DATA.PATH_TO_DATA_DIR = ""  # folder of the list files
_C.DATA.PATH_PREFIX = ""  # folder that the paths in the lists are relative to; "": as written
_C.DATA.PATH_LABEL_SEPARATOR = (
    ""  # between path and label in lists of kinetics; "": a comma, semicolon, tab or spaces
)
_C.DATA.LABEL_PATH_TEMPLATE = (
    ""  # file name of a list, {} stands for the split; "": the data set's own
)
_C.DATA.VIDEO_TEMPLATE = (
    ""  # path of a video from the fields of its row, in *_official lists; "": the data set's own
)
_C.DATA.IMAGE_TEMPLATE = "{:05d}.jpg"  # file name of frame n (from 1) in a frame folder
_C.DATA.CLASS_NAMES = (
    ""  # file of class names, one a line or with numbers; "": the data set's own, or none
)
_C.DATA.NUM_FRAMES = 8  # frames of a clip
_C.DATA.SAMPLING_RATE = 8  # a dense clip spans NUM_FRAMES * SAMPLING_RATE frames of the video
_C.DATA.USE_OFFSET_SAMPLING = False  # test clips reach the end of the video; one clip is centered
_C.DATA.TARGET_FPS = (
    0.0  # frames/s that a video is resampled to before clips are taken; 0: as the data set has it
)
_C.DATA.SHORT_CLIP = "repeat_last"  # a video shorter than a dense clip: repeat_last | loop | error (it is a bad video)
# Long videos are read by the frame tables beside it.
_C.DATA.ALLOW_TRUNCATED = (
    False  # read what is there of videos whose end is missing, instead of refusing them
)
_C.DATA.MAX_FRAME_PIXELS = (
    67108864  # width * height of the largest frames that are decoded; the default is 8192 * 8192
)
_C.DATA.MANIFEST = ""  # what tools/check_data.py wrote: bad videos are left out of training, and not scored; "": none
_C.DATA.MAX_BAD_FRACTION = (
    0.01  # most training videos, as a share of the list, that may fail in an epoch
)
_C.DATA.REVERSE_INPUT_CHANNEL = (
    False  # swap RGB and BGR; data sets of frame folders are BGR, others RGB
)
_C.DATA.MEAN = [0.45, 0.45, 0.45]  # per channel, of values in [0, 1]
_C.DATA.STD = [0.225, 0.225, 0.225]  # per channel, of values in [0, 1]
_C.DATA.UINT8 = False  # clips reach the device as uint8, a quarter of the bytes: pixels are rounded before normalization
_C.DATA.TRAIN_CROP_SIZE = 224  # pixels, side of a training crop
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []  # [min, max] share of the frame's area in a random resized crop
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []  # [min, max] width / height of a random resized crop
_C.DATA.TRAIN_JITTER_SCALES = [
    256,
    320,
]  # [min, max] pixels of the short side, where the two above are empty
_C.DATA.RANDOM_FLIP = True  # flip half of the training clips left-right
_C.DATA.TEST_CROP_SIZE = 256  # pixels, side of a test crop
_C.DATA.TEST_SHORT_SIDE = 0  # pixels, short side of a test frame before the crop; 0: TEST_CROP_SIZE
_C.DATA.ENSEMBLE_METHOD = "sum"  # over the views of a video: sum of logits, or sum of probabilities

_C.DATA_LOADER = CfgNode()
_C.DATA_LOADER.NUM_WORKERS = (
    8  # loader processes per training process; 0: load in the process itself
)
_C.DATA_LOADER.TIMEOUT = (
    300.0  # seconds to wait for a batch before the run ends with an error; 0: forever
)
_C.DATA_LOADER.PIN_MEMORY = True  # page-locked host memory, for faster copies to a GPU

# ---- Augmentation ----------------------------------------------------------------------------------------------------
_C.AUG = CfgNode()
_C.AUG.ENABLE = False  # RandAugment, random erasing and repeated augmentation
_C.AUG.NUM_SAMPLE = (
    1  # augmented copies of each decoded training clip: the step sees BATCH_SIZE * NUM_SAMPLE clips
)
_C.AUG.AA_TYPE = "rand-m7-n4-mstd0.5-inc1"  # RandAugment policy in timm's notation; "": none
_C.AUG.INTERPOLATION = (
    "bicubic"  # of RandAugment's rotations, shears and shifts: nearest | bilinear | bicubic
)
_C.AUG.RE_PROB = 0.25  # probability of random erasing
_C.AUG.RE_MODE = (
    "pixel"  # fill of the erased box: pixel (noise) | rand (one color) | const (the mean)
)
_C.AUG.RE_COUNT = 1  # most boxes erased per clip

_C.MIXUP = CfgNode()
_C.MIXUP.ENABLE = False  # mix pairs of clips; needs a loss for soft labels
_C.MIXUP.ALPHA = 0.8  # beta parameter of MixUp; 0: never MixUp
_C.MIXUP.CUTMIX_ALPHA = 1.0  # beta parameter of CutMix; 0: never CutMix
_C.MIXUP.PROB = 1.0  # probability that a batch is mixed; 0: label smoothing alone
_C.MIXUP.SWITCH_PROB = 0.5  # probability of CutMix where both are on
_C.MIXUP.LABEL_SMOOTH_VALUE = 0.1  # share of the label spread over all classes

# ---- Model -----------------------------------------------------------------------------------------------------------
_C.MODEL = CfgNode()
_C.MODEL.MODEL_NAME = "Uniformer"  # a name in slowfast.models.MODELS
_C.MODEL.NUM_CLASSES = 400
_C.MODEL.WEIGHTS_DIR = (
    ""  # folder of the files named in slowfast/models/zoo.yaml; "": WEIGHTS_DIR of the environment
)
_C.MODEL.ALLOWED_MISMATCH = []  # patterns (*.bias) of weights that a file may lack, have besides, or in another size
_C.MODEL.LOSS_FUNC = "cross_entropy"  # cross_entropy | soft_cross_entropy | bce_logit
_C.MODEL.USE_CHECKPOINT = False  # recompute the blocks of CHECKPOINT_NUM in the backward pass
_C.MODEL.CHECKPOINT_AUTO = (
    False  # choose CHECKPOINT_NUM: the least that fits into memory, whatever is set
)
_C.MODEL.CHECKPOINT_MEMORY = (
    0.0  # GiB that activations may take, for CHECKPOINT_AUTO; 0: what the GPU has left
)
_C.MODEL.CHECKPOINT_NUM = [0, 0, 0, 0]  # first n blocks of each stage

_C.UNIFORMER = CfgNode()
_C.UNIFORMER.PRETRAIN_NAME = (
    ""  # published weights to start a training from; "": random; a test never needs them
)
_C.UNIFORMER.EMBED_DIM = [64, 128, 320, 512]  # channels of the four stages
_C.UNIFORMER.DEPTH = [3, 4, 8, 3]  # blocks of the four stages
_C.UNIFORMER.HEAD_DIM = 64  # channels of an attention head
_C.UNIFORMER.MLP_RATIO = (
    4.0  # hidden over outer channels of the feed-forward layers; or a list, one for each stage
)
_C.UNIFORMER.QKV_BIAS = True  # bias of the query, key and value projection
_C.UNIFORMER.QKV_SCALE = None  # scale of the attention logits; null: HEAD_DIM ** -0.5
_C.UNIFORMER.DROPOUT_RATE = 0.0  # of embeddings, projections and feed-forward layers
_C.UNIFORMER.ATTENTION_DROPOUT_RATE = 0.0  # of attention weights
_C.UNIFORMER.HEAD_DROPOUT_RATE = 0.0  # of what the head sees
_C.UNIFORMER.DROP_DEPTH_RATE = 0.1  # drop path of the last block; rises linearly from 0
_C.UNIFORMER.SPLIT = False  # attention over time, then space, in stages 3 and 4
_C.UNIFORMER.STD = False  # patch embeddings 2 to 4 overlap in time

# ---- Optimization ----------------------------------------------------------------------------------------------------
_C.SOLVER = CfgNode()
_C.SOLVER.OPTIMIZING_METHOD = "adamw"  # adamw | adam | sgd
_C.SOLVER.BASE_LR = 1e-4
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False  # multiply all learning rates by NUM_SHARDS
_C.SOLVER.LR_POLICY = "cosine"  # cosine | steps_with_relative_lrs
_C.SOLVER.COSINE_END_LR = 0.0
_C.SOLVER.COSINE_AFTER_WARMUP = False  # the cosine starts when the warm-up ends, not at epoch 0
_C.SOLVER.STEPS = []  # epochs at which the learning rate changes, from 0, for steps_with_relative_lrs
_C.SOLVER.LRS = []  # learning rates over BASE_LR from each of STEPS on
_C.SOLVER.MAX_EPOCH = 100
_C.SOLVER.WARMUP_EPOCHS = 0.0  # epochs of linear warm-up
_C.SOLVER.WARMUP_START_LR = 0.01
_C.SOLVER.WEIGHT_DECAY = 0.05
_C.SOLVER.LAYER_DECAY = (
    1.0  # learning rate of a layer over that of the layer above it; 1: the same for all
)
_C.SOLVER.ZERO_WD_1D_PARAM = False  # no weight decay on biases and norm scales
_C.SOLVER.MOMENTUM = 0.9  # of sgd, from 0 (none) to below 1
_C.SOLVER.DAMPENING = 0.0  # of sgd
_C.SOLVER.NESTEROV = True  # of sgd; has no effect without momentum, and takes no DAMPENING
_C.SOLVER.ACCUM_STEPS = (
    0  # parts of a process's share of a step, one after another; 0: 1, or as the run began
)
_C.SOLVER.MAX_BAD_STEPS = (
    10  # in a row with numbers that are not finite, which are skipped, before the run ends
)
_C.SOLVER.FUSED = True  # one kernel updates all weights (adamw, adam); else, as with sgd, each step waits for the GPU
_C.SOLVER.CLIP_GRADIENT = 20.0  # largest norm of all gradients together; 0: no clipping

_C.BN = CfgNode()
_C.BN.WEIGHT_DECAY = 0.0  # weight decay on BatchNorm parameters
_C.BN.USE_PRECISE_STATS = False  # recompute BatchNorm statistics before each validation
_C.BN.NUM_BATCHES_PRECISE = 200  # batches used for that

# ---- Logging ---------------------------------------------------------------------------------------------------------
_C.TENSORBOARD = CfgNode()
_C.TENSORBOARD.ENABLE = False  # write scalars for TensorBoard
_C.TENSORBOARD.LOG_DIR = ""  # folder with a folder of each run in it; "": OUTPUT_DIR/tensorboard

# Keys that published configs set and that do nothing here (nor, mostly, there), with the reason.
RETIRED = {
    "AUG.COLOR_JITTER": "RandAugment takes its place",
    "AUG.RE_SPLIT": "no published recipe keeps a clean split",
    "DATA.DECODING_BACKEND": "PyAV decodes everything, and selects frames by number as any exact decoder does",
    "DATA.INPUT_CHANNEL_NUM": "UniFormer has one pathway, of frames of three channels",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "one decoder thread per worker never deadlocks",
    "LOG_MODEL_INFO": "parameters and multiply-adds are always logged",
    "MODEL.ARCH": "MODEL.MODEL_NAME names the model",
    "MODEL.DROPOUT_RATE": "UNIFORMER.HEAD_DROPOUT_RATE is the dropout before the head",
    "TEST.CHECKPOINT_TYPE": "the type of a checkpoint is read from the file",
    "TRAIN.CHECKPOINT_TYPE": "the type of a checkpoint is read from the file",
    "UNIFORMER.INIT_VALUE": "layer scale is part of the light models alone",
    "UNIFORMER.PRUNE_RATIO": "token pruning is not part of Uniformer",
    "UNIFORMER.REPRESENTATION_SIZE": "no published model has a layer before its head",
    "UNIFORMER.STAGE_TYPE": "stages 1 and 2 are local, 3 and 4 global",
    "UNIFORMER.TRADE_OFF": "token pruning is not part of Uniformer",
}

# Keys that name files or folders: `~` and `~user` at the start are expanded.
PATHS = (
    "OUTPUT_DIR",
    "TRAIN.CHECKPOINT_FILE_PATH",
    "TEST.CHECKPOINT_FILE_PATH",
    "DATA.PATH_TO_DATA_DIR",
    "DATA.PATH_PREFIX",
    "DATA.LABEL_PATH_TEMPLATE",
    "DATA.VIDEO_TEMPLATE",
    "DATA.CLASS_NAMES",
    "DATA.MANIFEST",
    "MODEL.WEIGHTS_DIR",
    "UNIFORMER.PRETRAIN_NAME",
    "TENSORBOARD.LOG_DIR",
)

# Keys with a number as default that take a list as well, one number for each stage.
NUMBER_OR_LIST = ("UNIFORMER.MLP_RATIO",)

# What lists hold that are empty by default. Any other list holds what its default holds.
LISTS_OF_STRINGS = {"MODEL.ALLOWED_MISMATCH"}
LISTS_OF_NUMBERS = {
    "DATA.TRAIN_JITTER_SCALES_RELATIVE",
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
    "SOLVER.STEPS",
    "SOLVER.LRS",
}


def default_cfg() -> CfgNode:
    """Return a fresh, unfrozen copy of the default tree."""
    return _C.clone()


def add_section(
    name: str,
    defaults: Mapping[str, Any],
    *,
    lists_of_strings: Collection[str] = (),
) -> None:
    """Add a section of keys of your own to every config that is loaded from now on.

    Args:
        name: Name of the section, in upper case.
        defaults: Defaults of its keys by name, in upper case: strings, finite numbers, bools or
            lists of them. A value in a config must have the type of the default. If the default is
            None, it is a number or null. If it is a string, the text stays as it is written.
        lists_of_strings: Names of the keys that are an empty list by default and hold strings, so
            that an element such as 1.10 stays text.

    Raises:
        ValueError: If the section exists already, a name is not in upper case, or a default is of
            another type.
    """
    if name in _C or any(key.split(".")[0] == name for key in RETIRED):
        raise ValueError(f"there is a config section or key {name} already; choose another name")
    for part in (name, *defaults):
        if not (part.isidentifier() and part.isupper()):
            raise ValueError(
                f"the config section {name} has the name {part!r}; use upper case, digits and _"
            )

    for key, default in defaults.items():
        if not isinstance(default, bool | int | float | str | list | None):
            raise ValueError(
                f"{name}.{key} is {default!r} by default; use a string, a number, a bool, a list or None"
            )
        if isinstance(default, float) and not math.isfinite(default):
            raise ValueError(f"{name}.{key} is {default} by default; use a finite number or None")
    for key in lists_of_strings:
        if not isinstance(defaults.get(key), list):
            raise ValueError(f"lists_of_strings names {name}.{key}, which is not a list by default")

    LISTS_OF_STRINGS.update(f"{name}.{key}" for key in lists_of_strings)
    _C[name] = CfgNode(dict(defaults))
