"""Classes, video format and default sizes of the embedded dataset, in a module without imports."""

CLASSES = (  # opposites are neighbors
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "anticlockwise",
    "growing",
    "shrinking",
)
NUM_FRAMES = 32
FPS = 25
HEIGHT, WIDTH = 64, 80  # pixels
VIDEOS_PER_CLASS = {"train": 200, "val": 10, "test": 24}
