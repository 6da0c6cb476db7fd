"""Every config key: its default, unit and meaning, and whether a resumed run may change it.

`identity(default)` declares a key that changes what is trained. A run resumes only with the value
that it started with. `free(default, reason)` declares a key that may change when a run resumes.

A key exists only while some code reads it. The change that stops reading a key moves it to
`retired.py`.
"""

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any

from slowfast.config.retired import RETIRED
from slowfast.config.tree import Config, Kind, free, identity

# Reasons that several free keys share.
_TEST_ONLY = "testing does not change the weights"
_SPEED_ONLY = "it only changes the speed"
_LOG_ONLY = "it only changes the log"
_WAITING = "it only limits how long to wait"
_SAVING = "it only says what to save and when"
_STOPPING = "it says when a run stops, not what it trains"
_RESUMING = "it says how to start, not what to train"
_RECOMPUTED = "recomputed activations are the same"
_SEE_VIDEOS = "the training videos and their labels are compared instead"
_SEE_WEIGHTS = "the SHA-256 of the start weights is compared instead"
_SEE_RATES = "the resulting learning rates are compared instead"

_C = Config()

# ---- Processes and output --------------------------------------------------------------------

# Processes on this machine, one per GPU, or CPU processes with DIST_BACKEND gloo. 0: a single one
# on the CPU.
_C.NUM_GPUS = free(1, "any number of processes trains the same steps")
# Machines in the job.
_C.NUM_SHARDS = free(1, "the videos per step and the learning rates are compared instead")
# Number of this machine, from 0.
_C.SHARD_ID = free(0, "it only tells the machines apart")
# nccl: one GPU per process. gloo: processes on the CPU.
_C.DIST_BACKEND = free("nccl", "it says where a run computes")
# Seconds to wait for a process that does not join or is late in a collective.
_C.DIST_TIMEOUT = free(1800.0, _WAITING)
# Seed of everything random in the run.
_C.RNG_SEED = identity(0)
# Local folder of the checkpoints, logs and results.
_C.OUTPUT_DIR = free("./output", "a run may move to another folder", kind="path")
# Steps between two progress lines, and between new values on the live bar of a terminal.
_C.LOG_PERIOD = free(10, _LOG_ONLY)

# ---- Training --------------------------------------------------------------------------------

_C.TRAIN = Config()
# Train before testing.
_C.TRAIN.ENABLE = free(True, "it selects what this start does")
# Dataset to train on, a name in slowfast.datasets.catalog.DATASETS.
_C.TRAIN.DATASET = identity("kinetics")
# Videos per step and machine, shared by the processes of the machine.
_C.TRAIN.BATCH_SIZE = free(64, "the videos per step of all machines are compared instead")
# Drop the last, incomplete step of an epoch instead of training on it.
_C.TRAIN.DROP_LAST = identity(True)
# uniform: every video once per epoch. balanced: every class equally often.
_C.TRAIN.SAMPLING = identity("uniform")
# Epochs between two validations. The last epoch is always validated.
_C.TRAIN.EVAL_PERIOD = free(10, "validation does not change the weights")
# Epochs between two checkpoints. The last epoch is always saved.
_C.TRAIN.CHECKPOINT_PERIOD = free(10, _SAVING)
# Minutes between two checkpoints within an epoch. 0: none.
_C.TRAIN.CHECKPOINT_MINUTES = free(30.0, _SAVING)
# Save a checkpoint after every epoch and keep only the newest.
_C.TRAIN.SAVE_LATEST = free(False, _SAVING)
# Number of end-of-epoch checkpoints to keep. 0: all.
_C.TRAIN.KEEP_LAST = free(0, _SAVING)
# Also keep the checkpoint of every n-th epoch. 0: no further ones.
_C.TRAIN.KEEP_EVERY = free(0, _SAVING)
# Weights to start from: a file, an address or a published name. "": UNIFORMER.PRETRAIN_NAME.
_C.TRAIN.CHECKPOINT_FILE_PATH = free("", _SEE_WEIGHTS, kind="path")
# Validation metric that selects best.pyth and stops early: top1 | loss.
_C.TRAIN.BEST_METRIC = free("top1", "it selects among checkpoints")
# Validations in a row without an improvement that end the training. 0: never stop early.
_C.TRAIN.EARLY_STOP_PATIENCE = free(0, _STOPPING)
# Resume the run in OUTPUT_DIR. False sets that run aside. A restarted job always resumes its run.
_C.TRAIN.AUTO_RESUME = free(True, _RESUMING)
# Resume although settings of the model, the data or the recipe have changed.
_C.TRAIN.RESUME_WITH_CHANGES = free(False, _RESUMING)
# Train, save, load, validate and test on a few videos before the first epoch.
_C.TRAIN.REHEARSE = free(True, "a rehearsal leaves the run as it was")
# Share of the EMA of the weights that each step keeps, such as 0.9999. 0: no EMA.
_C.TRAIN.EMA_DECAY = identity(0.0)
# Mixed precision: off | bf16 | fp16 | auto. auto: bf16 on GPUs that support it, fp16 on others, off
# on a CPU.
_C.TRAIN.AMP = free("auto", "the dtype that it selects on the device is compared instead")
# Compute float32 in TF32 (10 bits of mantissa) on a GPU. Faster. No effect on bf16 and fp16.
_C.TRAIN.TF32 = identity(False)
# Compile the blocks of the model with torch.compile, which takes minutes at the start.
_C.TRAIN.COMPILE = identity(False)
# Tell DDP that all steps use the same parameters. No effect with gradient accumulation.
_C.TRAIN.STATIC_GRAPH = free(False, _SPEED_ONLY)
# Store gradients in DDP's communication buffers, which saves one copy of them.
_C.TRAIN.GRADIENT_BUCKET_VIEW = free(True, "it changes the memory alone")
# Dtype in which gradients travel between processes: fp32 | bf16, which halves the traffic.
_C.TRAIN.GRADIENT_DTYPE = identity("fp32")
# Copy the next batch to the GPU while the current one computes, in tests as well.
_C.TRAIN.PREFETCH = free(True, _SPEED_ONLY)

# ---- Testing ---------------------------------------------------------------------------------

_C.TEST = Config()
# Test after training, or on its own with TRAIN.ENABLE False.
_C.TEST.ENABLE = free(True, _TEST_ONLY)
# Dataset of validation and test, a name in slowfast.datasets.catalog.DATASETS.
_C.TEST.DATASET = free("kinetics", _TEST_ONLY)
# Views that the loaders of a machine hand over at once, shared by its processes.
_C.TEST.BATCH_SIZE = free(64, _TEST_ONLY)
# Largest number of views in a forward pass of a process, in validation and testing.
_C.TEST.VIEWS_PER_FORWARD = free(16, _TEST_ONLY)
# Weights to test: a file, an address or a published name. "": the newest checkpoint in OUTPUT_DIR.
_C.TEST.CHECKPOINT_FILE_PATH = free("", _TEST_ONLY, kind="path")
# If no file is named, test OUTPUT_DIR/best.pyth, the checkpoint of the best validation.
_C.TEST.TEST_BEST = free(False, _TEST_ONLY)
# Use the EMA weights, if there are any, for validation, best.pyth and the test.
_C.TEST.EMA = free(True, _TEST_ONLY)
# Compile the model of a test with torch.compile, which takes about a minute at the start.
_C.TEST.COMPILE = free(False, _TEST_ONLY)
# Divide the logits of a test by the temperature that tools/calibrate.py stored with the weights.
_C.TEST.CALIBRATED = free(False, _TEST_ONLY)
# Exit with status 0 although some videos are unreadable.
_C.TEST.ALLOW_UNSCORED = free(False, _TEST_ONLY)
# Write the report page after a test.
_C.TEST.REPORT = free(True, _TEST_ONLY)
# Show frames of videos on the report page: the most confident mistakes, and explained videos.
_C.TEST.THUMBNAILS = free(True, _TEST_ONLY)
# Temporal clips per video.
_C.TEST.NUM_ENSEMBLE_VIEWS = free(10, _TEST_ONLY)
# Spatial crops per clip: 1 (center) or 3.
_C.TEST.NUM_SPATIAL_CROPS = free(3, _TEST_ONLY)

# ---- Videos and views ------------------------------------------------------------------------

_C.DATA = Config()
# Folder of the list files.
_C.DATA.PATH_TO_DATA_DIR = free("", _SEE_VIDEOS, kind="path")
# Folder that the paths in the lists are relative to. "": paths are used as written.
_C.DATA.PATH_PREFIX = free("", _SEE_VIDEOS, kind="path")
# Text between path and label in kinetics lists. "": a comma, semicolon, tab or spaces.
_C.DATA.PATH_LABEL_SEPARATOR = free("", _SEE_VIDEOS)
# File name of a list, with {} for the split. "": the dataset's own.
_C.DATA.LABEL_PATH_TEMPLATE = free("", _SEE_VIDEOS, kind="path")
# Path of a video from the fields of its row, for *_official lists. "": the dataset's own.
_C.DATA.VIDEO_TEMPLATE = identity("", kind="path")
# File name of frame n, counted from 1, in a frame folder.
_C.DATA.IMAGE_TEMPLATE = identity("{:05d}.jpg")
# File of class names, one per line, or numbered. "": the dataset's own, or none.
_C.DATA.CLASS_NAMES = free("", "names do not change the weights", kind="path")
# Frames of a clip.
_C.DATA.NUM_FRAMES = identity(8)
# A dense clip spans NUM_FRAMES * SAMPLING_RATE frames of the video.
_C.DATA.SAMPLING_RATE = identity(8)
# Spread test clips up to the end of the video, and center a single clip.
_C.DATA.USE_OFFSET_SAMPLING = identity(False)
# Frames per second to which a video is resampled before clips are taken. 0: its own frame rate.
_C.DATA.TARGET_FPS = identity(0.0)
# Treatment of a video shorter than a dense clip: repeat_last | loop | error (it is unreadable).
_C.DATA.SHORT_CLIP = identity("repeat_last")
# Read truncated videos as far as they go instead of refusing them.
_C.DATA.ALLOW_TRUNCATED = identity(False)
# Largest frame that is decoded, width * height in pixels. The default is 8192 * 8192.
_C.DATA.MAX_FRAME_PIXELS = free(67108864, "it only protects the memory")
# Manifest written by tools/check_data.py. Training skips the unreadable videos that it lists, and
# tests leave them unscored. "": none.
_C.DATA.MANIFEST = free("", _SEE_VIDEOS, kind="path")
# Largest share of the training videos that may be unreadable in an epoch.
_C.DATA.MAX_BAD_FRACTION = free(0.01, _STOPPING)
# Swap RGB and BGR. Frame folders are read as BGR, videos as RGB.
_C.DATA.REVERSE_INPUT_CHANNEL = identity(False)
# Mean of each channel, for values in [0, 1].
_C.DATA.MEAN = identity([0.45, 0.45, 0.45])
# Standard deviation of each channel, for values in [0, 1].
_C.DATA.STD = identity([0.225, 0.225, 0.225])
# Send clips to the device as uint8, a quarter of the bytes. Rounds pixels before normalization.
_C.DATA.UINT8 = identity(False)
# Side of a training crop in pixels.
_C.DATA.TRAIN_CROP_SIZE = identity(224)
# [min, max] share of the frame's area in a random resized crop.
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = identity([], kind="numbers")
# [min, max] width / height of a random resized crop.
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = identity([], kind="numbers")
# [min, max] short side in pixels before a random crop, if the two keys above are empty.
_C.DATA.TRAIN_JITTER_SCALES = identity([256, 320])
# Flip half of the training clips left to right.
_C.DATA.RANDOM_FLIP = identity(True)
# Side of a test crop in pixels.
_C.DATA.TEST_CROP_SIZE = free(256, _TEST_ONLY)
# Short side of a test frame in pixels before the crop. 0: TEST_CROP_SIZE.
_C.DATA.TEST_SHORT_SIDE = free(0, _TEST_ONLY)
# How to combine the views of a video: sum (of the logits) | probabilities (their mean) | max (of
# the probabilities).
_C.DATA.ENSEMBLE_METHOD = free("sum", _TEST_ONLY)

_C.DATA_LOADER = Config()
# Loader processes per training process. 0: load in the training process itself.
_C.DATA_LOADER.NUM_WORKERS = free(8, "every worker count loads the same batches")
# Seconds to wait for a batch before the run ends with an error. 0: forever.
_C.DATA_LOADER.TIMEOUT = free(300.0, _WAITING)
# Load into page-locked host memory for faster copies to a GPU.
_C.DATA_LOADER.PIN_MEMORY = free(True, _SPEED_ONLY)

# ---- Augmentation ----------------------------------------------------------------------------

_C.AUG = Config()
# Apply RandAugment, random erasing and repeated augmentation.
_C.AUG.ENABLE = identity(False)
# Augmented copies of each decoded clip. A step then takes BATCH_SIZE * NUM_SAMPLE clips.
_C.AUG.NUM_SAMPLE = identity(1)
# RandAugment policy in timm's notation. "": none.
_C.AUG.AA_TYPE = identity("rand-m7-n4-mstd0.5-inc1")
# Interpolation of RandAugment's rotations, shears and shifts: nearest | bilinear | bicubic.
_C.AUG.INTERPOLATION = identity("bicubic")
# Probability of random erasing.
_C.AUG.RE_PROB = identity(0.25)
# Fill of an erased box: pixel (noise) | rand (one color) | const (the mean).
_C.AUG.RE_MODE = identity("pixel")
# Largest number of boxes erased per clip.
_C.AUG.RE_COUNT = identity(1)

_C.MIXUP = Config()
# Mix pairs of clips and their labels. Needs a loss that takes soft labels.
_C.MIXUP.ENABLE = identity(False)
# Parameter of MixUp's beta distribution. 0: never MixUp.
_C.MIXUP.ALPHA = identity(0.8)
# Parameter of CutMix's beta distribution. 0: never CutMix.
_C.MIXUP.CUTMIX_ALPHA = identity(1.0)
# Probability that a batch is mixed. 0: label smoothing alone.
_C.MIXUP.PROB = identity(1.0)
# Probability of CutMix instead of MixUp, if both are on.
_C.MIXUP.SWITCH_PROB = identity(0.5)
# Share of the label that is spread over all classes.
_C.MIXUP.LABEL_SMOOTH_VALUE = identity(0.1)

# ---- Model -----------------------------------------------------------------------------------

_C.MODEL = Config()
# Architecture, a name in slowfast.models.MODELS.
_C.MODEL.MODEL_NAME = identity("Uniformer")
# Classes of the head.
_C.MODEL.NUM_CLASSES = identity(400)
# Head of UniFormer: linear (mean over all tokens, one layer) | mlp (the mean, two layers) |
# attentive (a query attends to the tokens, one layer). Other models have linear alone.
_C.MODEL.HEAD = identity("linear")
# Folder of the files that models/zoo.yaml names. "": the environment variable WEIGHTS_DIR.
_C.MODEL.WEIGHTS_DIR = free("", _SEE_WEIGHTS, kind="path")
# Patterns, such as *.bias, for weights of a file that may be missing, unexpected or misshapen.
_C.MODEL.ALLOWED_MISMATCH = free([], _SEE_WEIGHTS, kind="strings")
# Patterns, such as patch_embed* or blocks[12], for modules and parameters that are not trained.
_C.MODEL.FREEZE = identity([], kind="strings")
# cross_entropy | soft_cross_entropy | bce_logit.
_C.MODEL.LOSS_FUNC = identity("cross_entropy")
# Recompute the blocks of CHECKPOINT_NUM in the backward pass.
_C.MODEL.USE_CHECKPOINT = free(False, _RECOMPUTED)
# Choose the smallest CHECKPOINT_NUM that fits into memory, and ignore the one that is set.
_C.MODEL.CHECKPOINT_AUTO = free(False, _RECOMPUTED)
# Memory for activations in GiB, for CHECKPOINT_AUTO. 0: what the GPU has left.
_C.MODEL.CHECKPOINT_MEMORY = free(0.0, _RECOMPUTED)
# Number of blocks to recompute in each stage, counted from its first block.
_C.MODEL.CHECKPOINT_NUM = free([0, 0, 0, 0], _RECOMPUTED)

_C.UNIFORMER = Config()
# Published weights to start a training from. "": random weights. A test never needs them.
_C.UNIFORMER.PRETRAIN_NAME = free("", _SEE_WEIGHTS, kind="path")
# Channels of the four stages.
_C.UNIFORMER.EMBED_DIM = identity([64, 128, 320, 512])
# Blocks of the four stages.
_C.UNIFORMER.DEPTH = identity([3, 4, 8, 3])
# Channels of an attention head.
_C.UNIFORMER.HEAD_DIM = identity(64)
# Hidden over outer channels of the feed-forward layers, or a list of one ratio per stage.
_C.UNIFORMER.MLP_RATIO = identity(4.0, kind="number_or_list")
# Give the query, key and value projection a bias.
_C.UNIFORMER.QKV_BIAS = identity(True)
# Scale of the attention logits. null: HEAD_DIM ** -0.5.
_C.UNIFORMER.QKV_SCALE = identity(None)
# Dropout probability of embeddings, projections and feed-forward layers.
_C.UNIFORMER.DROPOUT_RATE = identity(0.0)
# Dropout probability of attention weights.
_C.UNIFORMER.ATTENTION_DROPOUT_RATE = identity(0.0)
# Dropout probability before the head.
_C.UNIFORMER.HEAD_DROPOUT_RATE = identity(0.0)
# Drop path probability of the last block. It rises linearly from 0 at the first block.
_C.UNIFORMER.DROP_DEPTH_RATE = identity(0.1)
# Attend over time, then over space, in stages 3 and 4.
_C.UNIFORMER.SPLIT = identity(False)
# Let patch embeddings 2 to 4 overlap in time.
_C.UNIFORMER.STD = identity(False)
# Light models: fraction of the tokens that each block of each stage updates one by one. An empty
# list means 1, for all of them. Stages 1 and 2 and the first block of stage 3 take no other.
_C.UNIFORMER.PRUNE_RATIO = identity([[], [], [1, *[0.5] * 7], [0.5, 0.5, 0.5]])
# Light models: share of the attention of each block in the scores by which tokens are kept.
_C.UNIFORMER.TRADE_OFF = identity([[], [], [1, *[0.5] * 7], [0.5, 0.5, 0.5]])
# Initial value of the layer scale of Uniformer_light_ls_fp32.
_C.UNIFORMER.INIT_VALUE = identity(0.1)

# ---- Optimization ----------------------------------------------------------------------------

_C.SOLVER = Config()
# adamw | adam | sgd.
_C.SOLVER.OPTIMIZING_METHOD = identity("adamw")
# Learning rate after the warm-up.
_C.SOLVER.BASE_LR = free(1e-4, _SEE_RATES)
# Multiply all learning rates by NUM_SHARDS.
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = free(False, _SEE_RATES)
# cosine | steps_with_relative_lrs.
_C.SOLVER.LR_POLICY = identity("cosine")
# Learning rate at the end of the cosine.
_C.SOLVER.COSINE_END_LR = identity(0.0)
# Start the cosine at the end of the warm-up, not at epoch 0.
_C.SOLVER.COSINE_AFTER_WARMUP = identity(False)
# Epochs at which the learning rate changes, starting with 0, for steps_with_relative_lrs.
_C.SOLVER.STEPS = identity([], kind="numbers")
# Learning rate from each of STEPS on, as a multiple of BASE_LR.
_C.SOLVER.LRS = identity([], kind="numbers")
# Epochs of the whole training.
_C.SOLVER.MAX_EPOCH = identity(100)
# Epochs of linear warm-up.
_C.SOLVER.WARMUP_EPOCHS = identity(0.0)
# Learning rate at the start of the warm-up.
_C.SOLVER.WARMUP_START_LR = identity(0.01)
# Weight decay, except on BatchNorm parameters.
_C.SOLVER.WEIGHT_DECAY = identity(0.05)
# Learning rate of a layer over that of the layer above it. 1: the same rate for all.
_C.SOLVER.LAYER_DECAY = identity(1.0)
# Exclude biases and norm scales from weight decay.
_C.SOLVER.ZERO_WD_1D_PARAM = identity(False)
# Momentum of sgd, from 0 (none) to below 1.
_C.SOLVER.MOMENTUM = identity(0.9)
# Dampening of sgd's momentum.
_C.SOLVER.DAMPENING = identity(0.0)
# Use Nesterov momentum in sgd. No effect without momentum. Requires DAMPENING 0.
_C.SOLVER.NESTEROV = identity(True)
# Micro-batches per step and process (gradient accumulation). 0: 1, or as many as the run had.
_C.SOLVER.ACCUM_STEPS = free(0, "the step sums the same gradients")
# Non-finite steps in a row that end the run. Each of them is skipped.
_C.SOLVER.MAX_BAD_STEPS = free(10, _STOPPING)
# Update all weights in one kernel (adamw, adam). False and sgd make each step wait for the GPU.
_C.SOLVER.FUSED = free(True, "the update is the same but for rounding")
# Largest norm of all gradients together. 0: no clipping.
_C.SOLVER.CLIP_GRADIENT = identity(20.0)

_C.BN = Config()
# Weight decay on BatchNorm parameters.
_C.BN.WEIGHT_DECAY = identity(0.0)
# Recompute the BatchNorm statistics before each validation.
_C.BN.USE_PRECISE_STATS = identity(False)
# Batches from which they are recomputed.
_C.BN.NUM_BATCHES_PRECISE = identity(200)

# ---- Logging ---------------------------------------------------------------------------------

# docs/tracking.md shows what each of these keys adds.
_C.TRACKERS = Config()
# Trackers that record a training: jsonl | mlflow | trackio | wandb, or your own.
_C.TRACKERS.NAMES = free([], _LOG_ONLY, kind="strings")
# Project, or experiment, in which the trackers file a run.
_C.TRACKERS.PROJECT = free("slowfast", _LOG_ONLY)
# Name of the run there. "": the name of OUTPUT_DIR.
_C.TRACKERS.RUN_NAME = free("", _LOG_ONLY)
# Group of runs that belong together. "": none.
_C.TRACKERS.GROUP = free("", _LOG_ONLY)
# Tags of the run.
_C.TRACKERS.TAGS = free([], _LOG_ONLY, kind="strings")
# Folder of the local files of mlflow, trackio and wandb, which runs may share. "": OUTPUT_DIR.
_C.TRACKERS.DIR = free("", _LOG_ONLY, kind="path")

# The keys of TENSORBOARD below LOG_DIR choose figures for all trackers.
_C.TENSORBOARD = Config()
# Write event files for TensorBoard.
_C.TENSORBOARD.ENABLE = free(False, _LOG_ONLY)
# Folder with one folder per run. "": OUTPUT_DIR/tensorboard.
_C.TENSORBOARD.LOG_DIR = free("", _LOG_ONLY, kind="path")
# Augmented training clips to show at the start of a run. 0: none.
_C.TENSORBOARD.TRAIN_CLIPS = free(8, _LOG_ONLY)
# Show the graph of the model, which is traced at the start of a run.
_C.TENSORBOARD.MODEL_GRAPH = free(False, _LOG_ONLY)
# JSON file of categories and their classes, {"category": ["class", ...]}, for one confusion matrix
# per category. "": none.
_C.TENSORBOARD.CATEGORIES_PATH = free("", _LOG_ONLY, kind="path")

_C.TENSORBOARD.CONFUSION_MATRIX = Config()
# Show the confusion matrix of each validation.
_C.TENSORBOARD.CONFUSION_MATRIX.ENABLE = free(True, _LOG_ONLY)
# Width and height of the figures in inches of 100 pixels.
_C.TENSORBOARD.CONFUSION_MATRIX.FIGSIZE = free([8, 8], _LOG_ONLY)
# File with one class name per line, for one more confusion matrix. "": none.
_C.TENSORBOARD.CONFUSION_MATRIX.SUBSET_PATH = free("", _LOG_ONLY, kind="path")

_C.TENSORBOARD.HISTOGRAM = Config()
# Show for each class what its validation videos are taken for, in a figure of its own.
_C.TENSORBOARD.HISTOGRAM.ENABLE = free(False, _LOG_ONLY)
# Predictions in each figure, the most frequent ones.
_C.TENSORBOARD.HISTOGRAM.TOPK = free(10, _LOG_ONLY)
# Width and height of the figures in inches of 100 pixels.
_C.TENSORBOARD.HISTOGRAM.FIGSIZE = free([8, 8], _LOG_ONLY)
# File with one class name per line, for figures of these classes alone. "": all classes.
_C.TENSORBOARD.HISTOGRAM.SUBSET_PATH = free("", _LOG_ONLY, kind="path")

_C.TENSORBOARD.WRONG_PRED_VIS = Config()
# Show frames of the most confident mistakes of each validation.
_C.TENSORBOARD.WRONG_PRED_VIS.ENABLE = free(True, _LOG_ONLY)
# File with one class name per line, for mistakes of these labels alone. "": all labels.
_C.TENSORBOARD.WRONG_PRED_VIS.SUBSET_PATH = free("", _LOG_ONLY, kind="path")

_C.TENSORBOARD.MODEL_VIS = Config()
# Show after each validation what the next keys choose.
_C.TENSORBOARD.MODEL_VIS.ENABLE = free(False, _LOG_ONLY)
# Histograms of the weights.
_C.TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS = free(False, _LOG_ONLY)
# Histograms of the activations for two validation videos.
_C.TENSORBOARD.MODEL_VIS.ACTIVATIONS = free(False, _LOG_ONLY)
# The clips of these videos.
_C.TENSORBOARD.MODEL_VIS.INPUT_VIDEO = free(False, _LOG_ONLY)
# Patterns, such as blocks4* or head, for the modules and parameters with histograms. []: all
# parameters, and the blocks of the model.
_C.TENSORBOARD.MODEL_VIS.LAYER_LIST = free([], _LOG_ONLY, kind="strings")


def default_cfg() -> Config:
    """Return a new, unfrozen copy of the default tree."""
    cfg: Config = _C.clone()
    return cfg


def add_section(
    name: str,
    defaults: Mapping[str, Any],
    *,
    lists_of_strings: Collection[str] = (),
) -> None:
    """Add a section with keys of your own to every config that is loaded from now on.

    The keys belong to the identity of a run: a resumed run must not change them.

    Args:
        name: Name of the section, in upper case.
        defaults: Default of each key by its name, in upper case: a string, a finite number, a bool,
            None or a list. A value in a config must have the type of the default. If the default is
            None, the value is a number or null. If the default is a string, the value keeps its
            text as it is written.
        lists_of_strings: Names of keys that hold strings but are an empty list by default. Their
            elements, such as 1.10, then keep their text.

    Raises:
        ValueError: If the section exists already, a name is not in upper case, or a default has
            another type.
    """
    if name in _C or any(key.split(".")[0] == name for key in RETIRED):
        raise ValueError(f"there is a config section or key {name} already. Choose another name")

    for word in (name, *defaults):
        if not (word.isidentifier() and word.isupper()):
            raise ValueError(
                f"the config section {name} has the name {word!r}. Use upper case, digits and _"
            )
    for key, default in defaults.items():
        _check_default(default, key=f"{name}.{key}")
    for key in lists_of_strings:
        if not isinstance(defaults.get(key), list):
            raise ValueError(f"lists_of_strings names {name}.{key}, which is not a list by default")

    section = Config()
    for key, default in defaults.items():
        kind: Kind = "strings" if key in lists_of_strings else ""
        setattr(section, key, identity(copy.deepcopy(default), kind=kind))
    _C[name] = section


def _check_default(default: Any, *, key: str) -> None:
    if not isinstance(default, bool | int | float | str | list | None):
        raise ValueError(
            f"{key} is {default!r} by default. Use a string, a number, a bool, a list or None"
        )
    if isinstance(default, float) and not math.isfinite(default):
        raise ValueError(f"{key} is {default} by default. Use a finite number or None")
