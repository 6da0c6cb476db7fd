"""The result of a request as HTML: bars, scores over time, frames, and the explanation.

Pictures are part of the text, so that nothing about a video is written to a file.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from slowfast.inference.predictions import ClassScore, Unreadable
from slowfast.serving.analysis import Result, SeenClip
from slowfast.utils.text import count, printable

CSS = Path(__file__).with_name("page.css").read_text()

_COLORS = ("#4363d8", "#e6194b", "#2f9e44")  # of the curves
_NUM_CURVES = len(_COLORS)
_WIDTH, _HEIGHT = 340, 140  # pixels of the curves
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 8, 22  # margins around them
_THUMB = 160  # pixels, side of a frame


def render_results(name: str, results: Sequence[Result]) -> str:
    """Return the HTML of the results of all models."""
    cards = "".join(map(_render_model, results))
    return f'<p class="clip">{_text(name)}</p><div class="models">{cards}</div>'


def render_message(text: str) -> str:
    """Return the HTML of a message about the progress."""
    return f'<div class="message" role="status">{_text(text)}</div>'


def render_problem(text: str) -> str:
    """Return the HTML of an error."""
    return f'<div class="message problem" role="alert">{_text(text)}</div>'


def _render_model(result: Result) -> str:
    parts = [f"<h3>{_text(result.model)}</h3>", _render_scores(result.prediction.top)]
    if len(result.windows) > 1:
        parts += ["<h4>Scores over time</h4>", _render_curves(result)]
    if result.overlay:
        source = f"data:video/mp4;base64,{base64.b64encode(result.overlay).decode()}"
        parts.append("<h4>Where the model looks</h4>")
        parts.append(
            f'<video class="overlay" controls loop muted playsinline src="{source}"></video>'
        )
    if result.clips:
        parts.append("<h4>Frames that the model saw</h4>")
        parts += map(_render_clip, result.clips)
    return f'<section class="model">{"".join(parts)}</section>'


def _render_scores(top: Sequence[ClassScore]) -> str:
    rows = []
    for score in top:
        percent = 100 * score.probability
        bar = f'<div class="bar"><div style="width: {percent:.2f}%"></div></div>'
        cells = (
            f'<td class="name">{_text(score.label)}</td><td>{bar}</td>'
            f'<td class="percent">{percent:.1f} %</td>'
        )
        rows.append(f"<tr>{cells}</tr>")
    return f'<table class="scores"><tbody>{"".join(rows)}</tbody></table>'


# ---- Scores over time ------------------------------------------------------------------------


def _render_curves(result: Result) -> str:
    """Return the curves of the best classes. A window without scores is a gap."""
    end = max(window.end for window in result.windows)
    shown = result.prediction.top[:_NUM_CURVES]
    lines = []
    for score, color in zip(shown, _COLORS, strict=False):
        points: list[str] = []
        for window in result.windows:
            if isinstance(window.prediction, Unreadable):
                lines.append(_polyline(points, color=color))
                points = []
                continue
            middle = (window.start + window.end) / 2
            probability = float(window.prediction.probabilities[score.class_id])
            points.append(f"{_x(middle, end):.1f},{_y(probability):.1f}")
        lines.append(_polyline(points, color=color))

    keys = "".join(
        f'<span><i style="background: {color}"></i>{_text(score.label)}</span>'
        for score, color in zip(shown, _COLORS, strict=False)
    )
    drawing = _render_axes(end) + "".join(lines)
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Probability over time">{drawing}</svg><div class="legend">{keys}</div>'
    )


def _render_axes(end: float) -> str:
    parts = []
    for probability in (0, 0.5, 1):
        y = _y(probability)
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text x="{_LEFT - 5}" y="{y + 4}" text-anchor="end">{100 * probability:g} %</text>'
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = _x(share * end, end)
        label = f"{share * end:.3g} s"
        parts.append(f'<text x="{x}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{label}</text>')
    return "".join(parts)


def _polyline(points: Sequence[str], *, color: str) -> str:
    if not points:
        return ""
    if len(points) == 1:
        x, y = points[0].split(",")
        return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>'
    joined = " ".join(points)
    return f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"/>'


def _x(seconds: float, end: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / (end or 1)


def _y(probability: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - probability)


# ---- Frames ----------------------------------------------------------------------------------


def _render_clip(clip: SeenClip) -> str:
    times = "" if clip.start is None else f"{clip.start:.2f} s to {clip.end:.2f} s, "
    title = f'<p class="clip">{times}{count(len(clip.frames), "frame")} of the clip</p>'
    pictures = "".join(map(_render_frame, clip.frames))
    return f'{title}<div class="strip">{pictures}</div>'


def _render_frame(frame: np.ndarray) -> str:
    image = Image.fromarray(frame)
    if image.width > _THUMB:
        image = image.resize((_THUMB, round(image.height * _THUMB / image.width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'


def _text(text: str) -> str:
    return escape(printable(text))
