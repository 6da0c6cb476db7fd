"""The published way to load clips, as a baseline: whole frames, one pass per view."""

import random
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from benchmarks.data_pipeline.synthetic_videos import FPS, HEIGHT, SECONDS, WIDTH
from slowfast.datasets.boxes import random_resized_box
from slowfast.datasets.sampling import DenseClips

MEAN, STD, SIZE = [0.45] * 3, [0.225] * 3, 224
Frames = NDArray[np.uint8]  # Shape (T, H, W, 3).
Decode = Callable[[str, Sequence[int]], Frames]  # Takes a path and frame indices.


def train_samples(path: str, *, seed: int, decode: Decode) -> Tensor:
    """Return two augmented samples (2, 3, T, H, W) of a random clip."""
    rng = np.random.default_rng(seed)
    random.seed(seed)
    clips = DenseClips(num_frames=16, sampling_rate=4, num_clips=1, use_offset=True)
    frames = decode(path, clips.random(FPS * SECONDS, rng).tolist())

    samples = []
    for _ in range(2):
        clip = normalize(np.stack([np.asarray(image) for image in augment(frames)]))
        box = random_resized_box(HEIGHT, WIDTH, scale=(0.08, 1), aspect=(0.75, 1.3333), rng=rng)
        clip = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        clip = resize(clip, SIZE, SIZE)
        if rng.random() < 0.5:
            clip = clip.flip(3)
        if rng.random() < 0.25:
            clip[:, :, 60:130, 60:130] = torch.randn(3, 16, 70, 70)
        samples.append(clip)
    return stack_views(samples)


def test_views(path: str, *, num_clips: int, num_crops: int, decode: Decode) -> Tensor:
    """Return all test views (V, 3, T, H, W) of a video, decoded one by one."""
    crops = range(3) if num_crops == 3 else (1,)
    views = []
    for clip in range(num_clips):
        for crop in crops:
            views.append(_test_view(path, clip, crop, num_clips=num_clips, decode=decode))
    return stack_views(views)


def _test_view(path: str, clip: int, crop: int, *, num_clips: int, decode: Decode) -> Tensor:
    clips = DenseClips(num_frames=16, sampling_rate=4, num_clips=num_clips, use_offset=True)
    frames = normalize(decode(path, clips.numbered(FPS * SECONDS, clip).tolist()))
    frames = resize(frames, SIZE, WIDTH * SIZE // HEIGHT)
    left = (0, (frames.shape[3] - SIZE) // 2, frames.shape[3] - SIZE)[crop]
    return frames[:, :, :, left : left + SIZE]


def decode_by_pyav(path: str, indices: Sequence[int]) -> Frames:
    """Return frames by seeking, then decoding and converting everything to the last one."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        assert stream.time_base is not None
        frame_ticks = int(1 / (FPS * stream.time_base))
        container.seek(indices[0] * frame_ticks, stream=stream)

        span: dict[int, Frames] = {}
        for frame in decode_frames(container):
            assert frame.pts is not None
            index = frame.pts // frame_ticks
            image = convert(frame)
            if index >= indices[0]:
                span[index] = image
            if index >= indices[-1]:
                break
    return np.stack([span[index] for index in sorted(span)])[np.array(indices) - min(span)]


def decode_by_decord(path: str, indices: Sequence[int]) -> Frames:
    """Return frames decoded by decord."""
    from decord import VideoReader, cpu

    return VideoReader(path, ctx=cpu(0), num_threads=1).get_batch(indices).asnumpy()


# ---- Stages ----------------------------------------------------------------------------------


def open_video(path: str) -> av.container.InputContainer:
    """Open a video."""
    return av.open(path)


def decode_frames(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Decode frame by frame."""
    yield from container.decode(video=0)


def convert(frame: av.VideoFrame) -> Frames:
    """Convert a frame to RGB."""
    return frame.to_rgb().to_ndarray()  # type: ignore[return-value]


def augment(frames: Frames) -> list[Image.Image]:
    """Apply RandAugment to whole frames, with the same draws for all of them."""
    apply = rand_augment_transform(
        "rand-m7-n4-mstd0.5-inc1", {"interpolation": Image.Resampling.BICUBIC}
    )
    seed = random.randrange(2**32)
    images = []
    for frame in frames:
        random.seed(seed)
        np.random.seed(seed)
        images.append(apply(Image.fromarray(frame)))
    return images


def normalize(frames: Frames) -> Tensor:
    """Return frames (T, H, W, 3) as float (3, T, H, W) with zero mean and unit deviation."""
    clip = torch.from_numpy(frames).float() / 255
    return ((clip - torch.tensor(MEAN)) / torch.tensor(STD)).permute(3, 0, 1, 2)


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Resize a clip (3, T, H, W)."""
    return F.interpolate(clip, size=(height, width), mode="bilinear", align_corners=False)


def stack_views(clips: Sequence[Tensor]) -> Tensor:
    """Stack clips to (V, 3, T, H, W)."""
    return torch.stack(list(clips))
