"""Scenes of the embedded dataset: a textured shape that moves in front of a textured background.

All that is random is drawn in the same way for a class and its opposite. The class only sets the
direction of time, so a single frame carries no information about it.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from slowfast.preparation.motion_classes import CLASSES, HEIGHT, NUM_FRAMES, WIDTH

# The least distance of two RGB colors, at most sqrt(3): between the shape and the background, and
# within a texture.
MIN_CONTRAST = 0.5
NUM_DIRECTIONS = 64  # resolution of an outline
TEXTURE_SIZE = 64  # pixels

Array = NDArray[np.float64]


class Scene(NamedTuple):
    """A random video and where its shape is."""

    frames: NDArray[np.uint8]  # RGB, (NUM_FRAMES, HEIGHT, WIDTH, 3)
    boxes: NDArray[np.int16]  # top, left, bottom and right edge of the shape, (NUM_FRAMES, 4)


class Trajectory(NamedTuple):
    """The pose of a shape over time, an array of shape (T,) for each quantity."""

    x: Array  # pixels
    y: Array  # pixels
    angle: Array  # radians
    log_scale: Array


def draw_scene(label: int, rng: np.random.Generator) -> Scene:
    """Return a random video of a class, and the boxes of its shape.

    With a generator in the same state, the opposite class gives the same scene played backwards.

    Args:
        label: The index of the class in `CLASSES`.
        rng: The generator of all random numbers.
    """
    shake = _draw_smooth_walk(rng, amplitude=rng.uniform(0, 0.5), num_dims=2)  # (T, 2), pixels
    background = _draw_background(rng, shake)
    texture = _draw_texture(rng, num_cells=int(rng.integers(3, 7)))
    outline = _draw_outline(rng)
    while _contrast(texture, background) < MIN_CONTRAST:
        texture = _draw_texture(rng, num_cells=int(rng.integers(3, 7)))

    trajectory = draw_trajectory(CLASSES[label], rng)
    radius = rng.uniform(20, 27) * np.exp(trajectory.log_scale)
    shaken = trajectory._replace(x=trajectory.x + shake[:, 0], y=trajectory.y + shake[:, 1])
    opacity, color = _render_shape(texture, outline, trajectory=shaken, radius=radius)
    frames = background + opacity * (color - background)

    flicker = _draw_smooth_walk(rng, amplitude=rng.uniform(0, 0.02), num_dims=1)
    light = 1 + flicker[:, :, None, None]
    frames = frames * torch.from_numpy(light * rng.uniform(0.6, 1.1)).float()
    pixels = (frames.clamp(0, 1) * 255).round().byte()
    rgb = pixels.permute(0, 2, 3, 1).contiguous().numpy()  # (T, C, H, W) -> (T, H, W, C)
    return Scene(rgb, _find_boxes(opacity[:, 0].numpy()))


def _find_boxes(opacity: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the edges (T, 4) of the pixels (T, H, W) that are at least half covered."""
    boxes = []
    for covered in opacity >= 0.5:
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return np.array(boxes, np.int16)


def draw_trajectory(name: str, rng: np.random.Generator) -> Trajectory:
    """Return a random trajectory of a class, which is odd in time about its middle."""
    time = np.linspace(-1, 1, NUM_FRAMES)
    still = np.zeros(NUM_FRAMES)

    x = WIDTH / 2 + rng.uniform(-8, 8) + still
    y = HEIGHT / 2 + rng.uniform(-6, 6) + still
    angle, log_scale = rng.uniform(0, 2 * math.pi) + still, still

    travel = rng.uniform(10, 18)
    turn = math.radians(rng.uniform(60, 120))
    growth = rng.uniform(0.35, 0.6)

    direction = 1 if name in ("right", "down", "clockwise", "growing") else -1
    if name in ("left", "right"):
        x = x + travel * time * direction
    elif name in ("up", "down"):
        y = y + travel * time * direction
    elif name in ("clockwise", "anticlockwise"):
        angle = angle + turn * time * direction
    else:
        log_scale = growth * time * direction
    return Trajectory(x, y, angle, log_scale)


def _draw_smooth_walk(rng: np.random.Generator, *, amplitude: float, num_dims: int) -> Array:
    """Return slow random movements about 0, shape (T, num_dims).

    They are sums of sines of random phase, so they look alike in both directions of time.
    """
    time = np.arange(NUM_FRAMES)[:, None, None] / NUM_FRAMES
    frequency = rng.uniform(0.5, 4, (1, num_dims, 3))
    phase = rng.uniform(0, 2 * math.pi, (1, num_dims, 3))
    return amplitude / 3 * np.sin(2 * math.pi * (frequency * time + phase)).sum(axis=2)


def _draw_texture(rng: np.random.Generator, *, num_cells: int) -> Tensor:
    """Return a smooth random pattern of two colors, shape (1, 3, TEXTURE_SIZE, TEXTURE_SIZE)."""
    cells = torch.from_numpy(rng.uniform(0, 1, (1, 1, num_cells + 2, num_cells + 2))).float()
    size = (TEXTURE_SIZE, TEXTURE_SIZE)
    pattern = F.interpolate(cells, size=size, mode="bicubic", align_corners=True)
    pattern = torch.sigmoid((pattern - 0.5) * rng.uniform(6, 20))

    first, second = _draw_contrasting_colors(rng)
    return first + pattern * (second - first)


def _draw_contrasting_colors(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return two random colors, each of shape (1, 3, 1, 1)."""
    while True:
        first = torch.from_numpy(rng.uniform(0, 1, (1, 3, 1, 1))).float()
        second = torch.from_numpy(rng.uniform(0, 1, (1, 3, 1, 1))).float()
        if torch.dist(first, second) > MIN_CONTRAST:
            return first, second


def _draw_outline(rng: np.random.Generator) -> Tensor:
    """Return the distance from the center of a shape to its edge, by direction.

    The shape is a slim ellipse, polygon or star. The largest distance is 1.
    """
    direction = np.linspace(0, 2 * math.pi, NUM_DIRECTIONS, endpoint=False)
    ratio = rng.uniform(0.5, 0.8)  # width over length, so that a turn is visible
    stretched = np.arctan2(np.sin(direction), ratio * np.cos(direction)) % (2 * math.pi)
    stretch = ratio / np.sqrt((ratio * np.cos(direction)) ** 2 + np.sin(direction) ** 2)

    kind, num_corners = rng.integers(3), int(rng.integers(3, 6))
    if kind == 0:
        edge = np.ones(NUM_DIRECTIONS)
    elif kind == 1:
        sector = stretched % (2 * math.pi / num_corners)
        edge = math.cos(math.pi / num_corners) / np.cos(sector - math.pi / num_corners)
    else:
        edge = 0.75 + 0.25 * np.cos(num_corners * stretched)

    edge = edge * stretch
    return torch.from_numpy(edge / edge.max()).float()


def _contrast(texture: Tensor, background: Tensor) -> Tensor:
    """Return the distance of the mean colors of a texture and the first frame."""
    return torch.dist(texture.mean(dim=(2, 3)), background.mean(dim=(2, 3))[:1])


def _draw_background(rng: np.random.Generator, shake: Array) -> Tensor:
    """Return the background under a shaking camera, shape (T, 3, H, W)."""
    texture = _draw_texture(rng, num_cells=int(rng.integers(2, 6)))
    mean = texture.mean(dim=(2, 3), keepdim=True)
    texture = mean.lerp(texture, rng.uniform(0.1, 0.4))  # paler than the shape

    x, y = _pixel_centers()
    offset = torch.from_numpy(shake).float()[:, :, None, None]
    u, v = (x - offset[:, 0]) / WIDTH, (y - offset[:, 1]) / HEIGHT
    grid = torch.stack([u, v], dim=-1)  # (T, H, W, 2)
    return _sample_texture(texture, 1.8 * grid - 0.9)


def _render_shape(
    texture: Tensor, outline: Tensor, *, trajectory: Trajectory, radius: Array
) -> tuple[Tensor, Tensor]:
    """Return the opacity of a shape, (T, 1, H, W) in [0, 1], and its color, (T, 3, H, W)."""
    poses = (trajectory.x, trajectory.y, trajectory.angle, radius)
    center_x, center_y, angle, radius_ = (
        torch.from_numpy(values).float()[:, None, None] for values in poses
    )
    pixel_x, pixel_y = _pixel_centers()
    dx, dy = pixel_x - center_x, pixel_y - center_y

    # Rows count downwards, so a positive angle turns clockwise for the viewer.
    u = (torch.cos(angle) * dx + torch.sin(angle) * dy) / radius_
    v = (torch.cos(angle) * dy - torch.sin(angle) * dx) / radius_
    direction = (torch.atan2(v, u) / (2 * math.pi) * len(outline)).floor().long() % len(outline)
    edge_distance = (outline[direction] - torch.sqrt(u**2 + v**2)) * radius_  # pixels

    opacity = (edge_distance + 0.5).clamp(0, 1)[:, None]
    color = _sample_texture(texture, torch.stack([u, v], dim=-1).clamp(-1, 1))
    return opacity, color


def _pixel_centers() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return x, y


def _sample_texture(texture: Tensor, grid: Tensor) -> Tensor:
    """Return the colors of a texture at given positions.

    Args:
        texture: Shape (1, 3, h, w).
        grid: Positions in [-1, 1], shape (T, H, W, 2).

    Returns:
        Colors of shape (T, 3, H, W).
    """
    textures = texture.expand(len(grid), -1, -1, -1)
    return F.grid_sample(textures, grid, padding_mode="reflection", align_corners=False)
