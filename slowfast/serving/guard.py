"""The guard in front of all routes: password, origin, and what may be asked for at all."""

import base64
import binascii
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slowfast.serving.refusal import RefusedError

UPLOAD_PATH = "/gradio_api/upload"
PREDICT_PATH = "/api/predict"

# Only what the page needs of gradio. Among the rest are routes that read files, fetch addresses,
# and show what others do.
_GET = {
    "/",
    "/api/models",
    "/config",
    "/config/",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/robots.txt",
    "/gradio_api/queue/data",
    "/gradio_api/startup-events",
    "/gradio_api/upload_progress",
}
_GET_BELOW = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/", "/gradio_api/file=")
_POST = {PREDICT_PATH, UPLOAD_PATH, "/gradio_api/queue/join", "/gradio_api/cancel"}
_MAX_BODY_BYTES = 1 << 18  # of a request without an upload

# The browser loads nothing from elsewhere, whatever the page holds.
_CONTENT_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'none'; form-action 'self'"
)


class Guard:
    """Lets a request through to the application, or refuses it.

    Args:
        app: The application.
        password: Password of every route. "" for none.
        is_local: Whether the server is bound to a loopback address. It then answers under such
            names alone, so that no other web page can reach it under a name of its own.
    """

    def __init__(self, app: ASGIApp, *, password: str, is_local: bool) -> None:
        self._app = app
        self._password = password
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket, which the page does not use
            return

        try:
            self._check(scope)
        except RefusedError as error:
            await refuse(error)(scope, receive, send)
            return

        has_upload = scope["path"] in (UPLOAD_PATH, PREDICT_PATH)
        limited = receive if has_upload else _limit(receive)
        try:
            await self._app(scope, limited, _with_headers(send))
        except _BodyTooLargeError:
            await refuse(RefusedError("the request is too large", status=413))(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._is_local and not _is_loopback(host):
            raise RefusedError("this host is not served here", status=403)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RefusedError("another page may not send requests here", status=403)
        if self._password and not self._knows_password(headers.get("authorization", "")):
            raise RefusedError("the password is missing or wrong", status=401)
        if not _is_served(scope["method"], scope["path"]):
            raise RefusedError("there is nothing here", status=404)

    def _knows_password(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            decoded = base64.b64decode(credentials, validate=True)
        except (binascii.Error, ValueError):
            return False
        given = decoded.partition(b":")[2]  # any user name
        return hmac.compare_digest(given, self._password.encode())


def refuse(error: RefusedError) -> JSONResponse:
    """Return the answer to a request that is refused."""
    headers = {"Connection": "close", "Cache-Control": "no-store"}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="slowfast", charset="UTF-8"'
    if error.status == 503:
        headers["Retry-After"] = "10"
    return JSONResponse({"error": str(error)}, error.status, headers=headers)


class _BodyTooLargeError(Exception):
    """The body of a request is longer than any that the page sends."""


def _limit(receive: Receive) -> Receive:
    num_bytes = 0

    async def limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > _MAX_BODY_BYTES:
            raise _BodyTooLargeError
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = _CONTENT_POLICY
            headers["Referrer-Policy"] = "no-referrer"
            headers["X-Content-Type-Options"] = "nosniff"
        await send(message)

    return send_with_headers


def _is_served(method: str, path: str) -> bool:
    if method == "POST":
        return path in _POST
    return method in ("GET", "HEAD") and (path in _GET or path.startswith(_GET_BELOW))


def _is_loopback(host: str) -> bool:
    """Return whether the header Host names this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
