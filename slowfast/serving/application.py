"""The application of the demo: the page, its uploads and the JSON endpoint behind one guard."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from slowfast.serving.guard import PREDICT_PATH, UPLOAD_PATH, Guard, refuse
from slowfast.serving.page import build_page
from slowfast.serving.refusal import RefusedError
from slowfast.serving.rendering import CSS
from slowfast.serving.service import Service

_SWEEP_SECONDS = 20.0
_FONTS = ("system-ui", "sans-serif")  # those of gradio's themes come from the network
_FONTS_MONO = ("ui-monospace", "monospace")


def build_application(service: Service, *, password: str, is_local: bool) -> ASGIApp:
    """Return the application of a service.

    Args:
        service: The service.
        password: Password of every route. "" for none.
        is_local: Whether the server is bound to a loopback address.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(service))
        yield
        sweeper.cancel()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.exception_handler(RefusedError)(_answer_refusal)
    app.exception_handler(ClientDisconnect)(_answer_nobody)
    _add_routes(app, service)

    page = build_page(service)
    # gradio keeps the last result of each session, megabytes with overlays, and never uses it.
    page.state_session_capacity = 1
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=service.uploads.max_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(font=_FONTS, font_mono=_FONTS_MONO),
        css=CSS,
    )
    return Guard(app, password=password, is_local=is_local)


def _add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes that come before those of gradio."""

    @app.get("/api/models")
    async def list_models() -> JSONResponse:
        return JSONResponse(
            {
                "models": {
                    name: {"class_names": classifier.class_names}
                    for name, classifier in service.classifiers.items()
                },
                "max_bytes": service.uploads.max_bytes,
                "max_seconds": service.max_seconds,
            }
        )

    @app.post(PREDICT_PATH)
    async def predict(request: Request) -> JSONResponse:
        models = request.query_params.getlist("model")
        service.choose(models)  # before the upload
        path = await service.uploads.receive(request)
        name = service.uploads.name(path)
        with service.uploads.using(path):
            results = await _while_connected(request, service.classify(path, models, name=name))
        return JSONResponse({"path": name, "models": [result.as_json() for result in results]})

    @app.post(UPLOAD_PATH)
    async def upload(request: Request) -> JSONResponse:
        return JSONResponse([str(await service.uploads.receive(request))])

    @app.get("/gradio_api/upload_progress")
    async def upload_progress() -> Response:
        return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    @app.get("/gradio_api/file={path:path}")
    async def show_upload(path: str) -> FileResponse:
        return FileResponse(service.uploads.find(path), headers={"Cache-Control": "no-store"})


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refuse(error)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _while_connected(request: Request, work: Any) -> Any:
    """Return the result of some work, which ends when the client leaves.

    Raises:
        ClientDisconnect: If the client leaves.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=0.5)
            if not task.done() and await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _sweep(service: Service) -> None:
    while True:
        service.uploads.delete_unused()
        await asyncio.sleep(_SWEEP_SECONDS)
