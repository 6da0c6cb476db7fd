"""Classify a video with a file of `slowfast export --format onnx --uint8 --softmax`.

Run `python classify_onnx.py MODEL.onnx VIDEO`. It needs only numpy, av and onnxruntime. The clip is
the middle of the video, as in `slowfast.load(...).predict(VIDEO, clips=1, crops=1)`.
"""

import json
import sys

import av
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["slowfast"])
clip, names = about["clip"], about["class_names"]
assert not clip["target_fps"], "this example takes clips at the frame rate of the video"

with av.open(sys.argv[2]) as video:
    last = sum(1 for _ in video.decode(video=0)) - 1
steps, span = np.arange(clip["num_frames"]), clip["num_frames"] * clip["sampling_rate"]
numbers = max(last + 1 - span, 0) // 2 + steps * (span - 1) // max(len(steps) - 1, 1)
if clip["sampling"] == "segments":
    numbers = np.rint(steps * last / len(steps)).astype(int) + last // (2 * len(steps))
numbers = numbers % (last + 1) if clip["loop"] else np.minimum(numbers, last)
with av.open(sys.argv[2]) as video:
    decoded = enumerate(video.decode(video=0))
    shown = {n: frame.to_ndarray(format="rgb24") for n, frame in decoded if n in numbers}
frames = np.stack([shown[n] for n in numbers])  # (T, H, W, 3)

for axis in (1, 2):  # resize the short side to short_side pixels, bilinear, and crop the center
    old, short = frames.shape[axis], min(next(iter(shown.values())).shape[:2])
    new = old * clip["short_side"] // short
    at = np.arange(clip["crop_size"]) + (new - clip["crop_size"] + 1) // 2
    at = np.maximum((at + 0.5) * old / new - 0.5, 0)
    below, above = at.astype(int), np.minimum(at.astype(int) + 1, old - 1)
    weight = (at % 1).reshape(-1, *[1] * (3 - axis))
    frames = frames.take(below, axis) * (1 - weight) + frames.take(above, axis) * weight

pixels = (frames + 0.5).astype(np.uint8).transpose(3, 0, 1, 2)  # (3, T, H, W)
pixels = pixels[::-1] if about["input"]["channel_order"] == "BGR" else pixels
scores = session.run(None, {"frames": pixels[None]})[0][0]
for row in scores.argsort()[::-1][:5]:
    print(f"{names[row]}: {scores[row]:.4f}")
