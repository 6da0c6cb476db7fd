"""Methods of explanation, and which of them suits a model."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from slowfast.explanation.attention_rollout import attention_rollout, has_global_attention
from slowfast.explanation.grad_cam import grad_cam
from slowfast.explanation.token_scores import has_token_scores, token_scores

METHODS = ("grad-cam", "rollout", "scores")


class Evidence(NamedTuple):
    """Where a model sees evidence in a view."""

    values: Tensor  # (T', H', W'), from 0 on
    stage: int | None  # of Grad-CAM, from 1


def suiting_methods(model: nn.Module) -> list[str]:
    """Return the methods that suit a model, by what the model has, best first."""
    suits = {
        "scores": has_token_scores(model),
        "rollout": has_global_attention(model),
        "grad-cam": callable(getattr(model, "forward_stages", None)),
    }
    return [method for method, is_suiting in suits.items() if is_suiting]


def choose_method(model: nn.Module, method: str = "auto", *, stage: int | None = None) -> str:
    """Return the method that suits a model, by what the model has.

    Args:
        model: The model.
        method: One of `METHODS` that the caller wants, or auto. Auto is the scores of the tokens if
            the model prunes them, else attention rollout if it has global space-time blocks, else
            Grad-CAM. With a stage, it is Grad-CAM.
        stage: Stage that the caller wants, for Grad-CAM.

    Raises:
        ValueError: If the method is unknown, or the model lacks what it needs.
    """
    if method not in ("auto", *METHODS):
        raise ValueError(f"the method is {method!r}. Choose one of: auto, {', '.join(METHODS)}")
    if stage is not None and method not in ("auto", "grad-cam"):
        raise ValueError(f"the method {method} has no stage. Use grad-cam, or leave out the stage")

    name = type(model).__name__
    suiting = suiting_methods(model)
    if not suiting:
        raise ValueError(
            f"the model {name} cannot be explained: it has no method forward_stages, which "
            "Grad-CAM needs. Add it as docs/extend.md describes"
        )
    wanted = "grad-cam" if stage is not None else method
    if wanted == "auto":
        return suiting[0]
    if wanted not in suiting:
        raise ValueError(
            f"the method {wanted} does not suit the model {name}. Use {' or '.join(suiting)}"
        )
    return wanted


def find_evidence(
    model: Any, frames: Tensor, *, target: int, method: str, stage: int | None = None
) -> Evidence:
    """Return where a model sees evidence for a class in a view.

    Args:
        model: Model in evaluation mode.
        frames: Input of the model, shape (1, C, T, H, W).
        target: Number of the class.
        method: One of `METHODS`, see `choose_method`.
        stage: Stage of Grad-CAM from 1. None for the one that suits.
    """
    if method == "scores":
        return Evidence(token_scores(model, frames), None)
    if method == "rollout":
        return Evidence(attention_rollout(model, frames, target=target), None)
    return Evidence(*grad_cam(model, frames, target=target, stage=stage))
