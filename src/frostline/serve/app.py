"""The routes: what an allowed client can ask for, and how each failure is answered."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from frostline import terminal
from frostline.classifier.classifier import TOP
from frostline.classifier.reference import Reference
from frostline.data.decoding import UnreadableImageError
from frostline.errors import UsageError
from frostline.serve.batches import Asked, Batches, BusyError, ModelError
from frostline.serve.counters import Counters
from frostline.serve.decoders import CrashedError
from frostline.serve.guard import AGAIN, FAILED, IDENTITY, problem
from frostline.serve.limits import Limits
from frostline.serve.page import HEADERS, PAGE
from frostline.values import finite

ROUTES = ("/", "/predict", "/training-image", "/health", "/ready", "/info", "/metrics", "/openapi.json")
ASKED = ("top", "coverage", "why")
COVERAGES = (0.95, 0.9, 0.8)  # of which /info names the first that the held-out images can guarantee
HINTS = {404: "there is no such route; /openapi.json lists them", 405: "POST images to /predict, and GET the rest"}
FORM = "multipart/form-data"
RAW = ("image/", "application/octet-stream")
HOW = "send the file as the body (curl -T cat.jpg -X POST …) or as a form (curl -F image=@cat.jpg …)"

TEXT, SHARE = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
PREDICTION = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {**TEXT, "description": "The name of the file as the client gave it."},
        "label": TEXT,
        "probability": SHARE,
        "top": {"type": "array", "items": {"type": "array", "description": "A label and its probability."}},
        "error": {**TEXT, "description": "Why the image cannot be read; then there is no label."},
        "set": {"type": "array", "items": TEXT, "description": "With a coverage: holds the true class that often."},
        "none": {"type": "boolean", "description": "With a coverage: the image may be of none of the classes."},
        "why": {
            "type": "array",
            "items": {"type": "object", "properties": {"path": TEXT, "label": TEXT, "cosine": {"type": "number"}}},
        },
    },
}
PREDICTIONS = {"type": "array", "items": PREDICTION}
PROBLEM = {
    "type": "object",
    "required": ["error", "detail", "request_id"],
    "properties": {"error": TEXT, "detail": TEXT, "request_id": TEXT},
}
FILE = {"type": "string", "format": "binary"}
BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": FILE},
        FORM: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": FILE, "minItems": 1}},
            }
        },
    },
}


def _documented(answers: Mapping[int, tuple[str, Any]], *problems: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route for its page of OpenAPI: description and schema by status, and those that are problems."""
    json_problem = {"application/json": {"schema": PROBLEM}}
    said: dict[int | str, dict[str, Any]] = {
        status: {"description": "Refused.", "content": json_problem}
        for status in (400, 401, 403, 408, 413, 414, 500, 503, *problems)
    }
    said |= {status: {"description": text, "content": content} for status, (text, content) in answers.items()}
    return said


def application(
    limits: Limits,
    counters: Counters,
    batches: Callable[[], Batches],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """The application behind the guard.

    batches: gives the classifier that answers now. lifespan: during which it does.
    """
    app = FastAPI(
        title="Frostline",
        version=importlib.metadata.version("frostline"),
        docs_url=None,  # its script would come from another server
        redoc_url=None,
        lifespan=lifespan,
    )
    for kind in (HTTPException, RequestValidationError, UsageError, BusyError, CrashedError, ModelError, Exception):
        app.add_exception_handler(kind, _problem)
    app.include_router(_for_people(limits, batches))
    app.include_router(_for_programs(limits, counters, batches, app.version))
    return app


def _for_people(limits: Limits, batches: Callable[[], Batches]) -> APIRouter:
    """Predictions, the training images that explain them, and the page."""
    routes = APIRouter()
    predictions = {"application/json": {"schema": PREDICTIONS}}

    @routes.post(
        "/predict",
        openapi_extra={"requestBody": BODY},
        response_class=JSONResponse,
        responses=_documented(
            {200: ("One prediction per image.", predictions), 207: ("Some images cannot be read.", predictions)},
            415,
            422,
        ),
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description="Number of classes, the most probable first.")] = TOP,
        coverage: Annotated[
            float | None, Query(gt=0, lt=1, description="How often the set of classes holds the true one.")
        ] = None,
        why: Annotated[int, Query(ge=0, le=20, description="Number of nearest training images.")] = 0,
    ) -> Response:
        """Classify the image in the body, or up to 32 of them in a form: what `frostline predict --json` prints."""
        if unknown := sorted({*request.query_params} - {*ASKED}):
            raise HTTPException(422, f"{unknown[0]!r} is not known here; known are {', '.join(ASKED)}")
        images, asked = await _images(request, limits), Asked(top, coverage, why)
        serving = batches()  # from here on it knows of this request, so it is not closed before it has answered
        _refuse_unknown(serving.served.reference, asked)
        found = await serving.predict(images, asked)
        if len(found) == 1 and found[0].error:
            raise HTTPException(422, found[0].error)
        status = 207 if any(each.error for each in found) else 200
        return JSONResponse([finite(each.as_json()) for each in found], status)

    @routes.get(
        "/training-image",
        response_class=Response,
        responses=_documented({200: ("A small JPEG.", {"image/jpeg": {"schema": FILE}})}, 404, 422),
    )
    async def training_image(path: Annotated[str, Query(description="A path that `why` gave.")]) -> Response:
        """A small picture of one of the training images that answers name as the nearest ones."""
        served = batches().served
        reference, folder = served.reference, served.images
        if reference is None or path not in reference.names:
            raise HTTPException(404, "no answer names this training image")
        if folder is None or not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise HTTPException(404, "the folder of the training images is not known")
        try:
            content = await asyncio.to_thread(_content, folder / path, limits.body)
            return Response(await batches().thumbnail(content), media_type="image/jpeg")
        except (OSError, UnreadableImageError) as error:
            raise HTTPException(404, "the training image is not on this machine") from error

    @routes.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(PAGE, media_type="text/html", headers=HEADERS)

    return routes


def _for_programs(limits: Limits, counters: Counters, batches: Callable[[], Batches], version: str) -> APIRouter:
    """What runs a server asks for."""
    routes = APIRouter()

    @routes.get("/info", responses=_documented({}))
    async def info() -> dict[str, Any]:
        """The task, the classes, the version, and what a request may have."""
        serving = batches()
        return {
            "task": serving.served.classifier.task,
            "classes": list(serving.served.classifier.classes),
            "frostline_version": version,
            "coverage": _coverage(serving.served.reference),
            "most": {"images": limits.images, "bytes": limits.body, "pixels": limits.pixels},
        }

    @routes.get("/health", responses=_documented({}))
    async def health() -> dict[str, str]:
        """The server is alive."""
        return {"status": "alive"}

    @routes.get("/ready", responses=_documented({}))
    async def ready() -> dict[str, str]:
        """The server takes requests; 503 while it stops."""
        return {"status": "ready"}

    @routes.get(
        "/metrics", response_class=Response, responses=_documented({200: ("Text for Prometheus.", {"text/plain": {}})})
    )
    async def metrics() -> Response:
        """Requests, seconds, images and batches, for Prometheus."""
        return Response(counters.text(), media_type="text/plain; version=0.0.4")

    return routes


async def _images(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """The name and content of each image of a request."""
    kind = request.headers.get("content-type", RAW[1]).lower()
    if kind.startswith(RAW):
        return [("image 0", await request.body())]
    if not kind.startswith(FORM) or "charset" in kind.replace("charset=utf-8", ""):
        raise HTTPException(415, f"the type {kind.partition(';')[0]} is not taken; {HOW}")
    images: list[tuple[str, bytes]] = []
    async with request.form(max_files=limits.images, max_fields=limits.images) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise HTTPException(422, f"the field {name!r} is text and no file; {HOW}")
            name = (value.filename or f"image {len(images)}").encode("utf-8", "replace").decode()
            images.append((name, await value.read()))
    if not images:
        raise HTTPException(422, f"the form has no file; {HOW}")
    return images


def _refuse_unknown(reference: Reference | None, asked: Asked) -> None:
    if asked.more and reference is None:
        raise UsageError("this classifier has no reference: coverage and why need held-out images of one class each")
    if asked.coverage is not None and reference is not None:
        reference.least_probable(asked.coverage)


def _coverage(reference: Reference | None) -> float | None:
    """The first of the usual coverages that the held-out images can guarantee."""
    for coverage in COVERAGES if reference is not None else ():
        try:
            _refuse_unknown(reference, Asked(coverage=coverage))
        except UsageError:
            continue
        return coverage
    return None


def _content(file: Path, most: int) -> bytes:
    if not file.is_file():  # to open a pipe would wait for ever
        raise FileNotFoundError(file)
    with file.open("rb") as opened:
        return opened.read(most)


async def _problem(request: Request, error: Exception) -> Response:
    """Every failure in one form, without a path or a line of ours."""
    identity = request.scope[IDENTITY]
    status, detail, headers = _said(error)
    if status >= 500 and not isinstance(error, BusyError):
        terminal.say(f"request {identity} failed: {error}")
    return JSONResponse(problem(status, detail, identity), status, headers)


def _said(error: Exception) -> tuple[int, str, Mapping[str, str]]:
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
        if detail == HTTPStatus(status).phrase:  # what Starlette says where nobody says more
            detail = HINTS.get(status, detail)
        return status, detail, error.headers or {}
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return 422, f"{first['loc'][-1]}: {first['msg'].lower()}", {}
    if isinstance(error, UsageError):
        return 422, str(error), {}
    if isinstance(error, CrashedError):
        return 500, "the decoder ended on this image, and was started again", {}
    if isinstance(error, BusyError):
        return 503, "too many images wait; try again", AGAIN
    if isinstance(error, ModelError):
        return 503, "the network failed on this machine; try again", AGAIN
    return 500, FAILED, {}
