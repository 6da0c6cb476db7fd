"""The page of the demo: a video on one side, what the models say on the other."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gradio as gr

from slowfast.serving.refusal import RefusedError
from slowfast.serving.rendering import render_message, render_problem, render_results
from slowfast.serving.service import Service
from slowfast.utils.text import count

TITLE = "Video classification"

_EMPTY = "Upload a video, record one with your camera, or pick an example. Then press Classify."


def build_page(service: Service) -> gr.Blocks:
    """Return the page of a service."""
    megabytes = service.uploads.max_bytes / 1e6
    limits = f"At most {megabytes:g} MB and {service.max_seconds:g} s. Deleted right after use."
    models = list(service.classifiers)

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                video = gr.Video(
                    label="Video",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    include_audio=True,  # without it, gradio needs a program to remove the sound
                    elem_id="video",
                )
                gr.Markdown(limits)
                example = gr.Dropdown(
                    label="Example",
                    choices=list(service.examples),
                    value=None,
                    visible=bool(service.examples),
                    elem_id="example",
                )
                chosen = gr.CheckboxGroup(
                    label="Models",
                    choices=models,
                    value=models,
                    visible=len(models) > 1,
                    elem_id="models",
                )
                explains = gr.Checkbox(
                    label="Show where the models look",
                    value=service.can_explain,
                    visible=service.can_explain,
                    elem_id="explains",
                )
                button = gr.Button("Classify", variant="primary", elem_id="classify")
            with gr.Column(scale=3, min_width=300):
                result = gr.HTML(render_message(_EMPTY), elem_id="result", padding=False)

        button.click(
            _make_handler(service),
            inputs=[video, example, chosen, explains],
            outputs=[video, example, result],
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=None,  # the queue of the service decides
        )

    _leave_files_alone(page)
    page.queue(max_size=4 * (service.queue.max_waiting + 1), default_concurrency_limit=None)
    return page


def _leave_files_alone(page: gr.Blocks) -> None:
    """Keep gradio from copying files and fetching addresses that a client names.

    The handler then refuses all paths but those of uploads.
    """

    async def keep(path: str | Path | None) -> str | None:
        return None if path is None else str(path)

    for block in page.blocks.values():
        vars(block)["async_move_resource_to_block_cache"] = keep


def _make_handler(service: Service) -> Any:
    async def classify(
        path: str | None, example: str | None, models: Sequence[str], explains: bool
    ) -> AsyncIterator[tuple[Any, Any, str]]:
        """Yield the new values of the video, the example and the result."""
        with ExitStack() as stack:
            try:
                if path is not None:
                    video = service.uploads.find(path)
                    name = service.uploads.name(video)
                    stack.enter_context(service.uploads.using(video))
                elif example is not None:
                    video, name = service.find_example(example), example
                else:
                    raise RefusedError(_EMPTY, status=400)
                if not models:
                    raise RefusedError("Choose a model.", status=400)

                task = asyncio.ensure_future(
                    service.classify(
                        video, models, name=name, with_frames=True, with_overlay=explains
                    )
                )
                try:
                    async for message in _progress(task, service):
                        # It also tells gradio to look whether the client is still there.
                        yield gr.skip(), gr.skip(), render_message(message)
                    html = render_results(name, task.result())
                finally:
                    task.cancel()
                    await asyncio.wait([task])
            except RefusedError as error:
                html = render_problem(str(error))
        # The file is gone, so the player must not show it any more.
        yield None, example, html

    return classify


async def _progress(task: "asyncio.Future[Any]", service: Service) -> AsyncIterator[str]:
    """Yield a message every second until a task is done."""
    seconds = 0
    num_before = service.queue.num_requests
    while not task.done():
        waiting = f"Waiting for {count(num_before, 'request')}" if num_before else "Classifying"
        yield f"{waiting} ... {seconds} s"
        await asyncio.wait([task], timeout=1)
        seconds += 1
        num_before = min(num_before, service.queue.num_requests - 1)
