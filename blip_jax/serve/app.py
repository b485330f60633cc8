"""The routes."""

import contextlib
import time
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from blip_jax import __version__
from blip_jax.inference.results import AnswerResult, CaptionResult
from blip_jax.serve import huggingface, openai, schemas
from blip_jax.serve.bodies import body_of, documented, sentence
from blip_jax.serve.guard import Guard
from blip_jax.serve.refusal import ErrorBody, Refusal
from blip_jax.serve.schemas import (
    AnswersRequest,
    BlipRequest,
    CaptionsRequest,
    EmbeddingsRequest,
    ExplanationRequest,
    MatchRequest,
)
from blip_jax.serve.service import Service

PAGE = Path(__file__).parent / "page"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 503, 504)
}


def build_app(
    service: Service, token: str | None = None, hosts: Collection[str] | None = None
) -> Guard:
    """The ASGI application of a service; it starts and stops with it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="blip_jax",
        version=__version__,
        description="Captions, answers, matches and embeddings of pictures.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    add_routes(app, service)
    openai.add_routes(app, service, REFUSALS)
    huggingface.add_routes(app, service, REFUSALS)
    add_state(app, service)
    add_page(app)
    add_refusals(app, service)
    return Guard(app, service.limits, service.metrics, token, hosts)


def add_routes(app: FastAPI, service: Service) -> None:
    """/v1 and the short form."""

    def route(path: str, answer: type, asked: type) -> Any:
        return app.post(
            path,
            response_model=answer,
            response_model_exclude_none=True,
            responses=REFUSALS,
            openapi_extra=documented(asked),
        )

    @route("/v1/captions", schemas.Captions, CaptionsRequest)
    async def captions(
        body: Annotated[CaptionsRequest, Depends(body_of(CaptionsRequest))],
    ) -> Any:
        """Writes captions, best first, for each picture."""
        served = service.find(body.model, "caption")
        how = (body.method, body.prompt, body.seed)
        found = await service.captions(served, body.image, *how)
        results = [[scored(one) for one in row[: body.num_captions]] for row in found]
        return {"model": served.name, "results": results}

    @route("/v1/answers", schemas.Answers, AnswersRequest)
    async def answers(body: Annotated[AnswersRequest, Depends(body_of(AnswersRequest))]) -> Any:
        """Answers a question, best answers first, about each picture."""
        served = service.find(body.model, "answer")
        found = await service.answers(served, body.image, body.question)
        results = [[scored(one) for one in row[: body.top_n]] for row in found]
        return {"model": served.name, "results": results}

    @route("/v1/match", schemas.Matches, MatchRequest)
    async def match(body: Annotated[MatchRequest, Depends(body_of(MatchRequest))]) -> Any:
        """Scores each picture with each text."""
        served = service.find(body.model, "match")
        found = await service.matches(served, body.image, body.text)
        results = [
            [
                {"text": text, "itm": one.itm, "itc": one.itc}
                for text, one in zip(body.text, row, strict=True)
            ]
            for row in found
        ]
        return {"model": served.name, "results": results}

    @route("/v1/explanations", schemas.Explanation, ExplanationRequest)
    async def explanations(
        body: Annotated[ExplanationRequest, Depends(body_of(ExplanationRequest))],
    ) -> Any:
        """Where each word of a text is found in a picture (Grad-CAM of the match)."""
        served = service.find(body.model, "explain")
        found = await service.explanation(served, body.image, body.text)
        words = [{"word": word, "heatmap": heatmap.tolist()} for word, heatmap in found]
        return {"model": served.name, "words": words}

    @route("/v1/embeddings", schemas.Embeddings, EmbeddingsRequest)
    async def embeddings(
        body: Annotated[EmbeddingsRequest, Depends(body_of(EmbeddingsRequest))],
    ) -> Any:
        """Unit vectors of pictures and texts, whose products are cosines."""
        served = service.find(body.model, "embed")
        pictures, texts = await service.embeddings(served, body.image or [], body.text or [])
        vectors = ([v.tolist() for v in pictures], [v.tolist() for v in texts])
        return {"model": served.name, "images": vectors[0], "texts": vectors[1]}

    @route("/api/v1/inference/blip", schemas.BlipAnswer, BlipRequest)
    async def blip(body: Annotated[BlipRequest, Depends(body_of(BlipRequest))]) -> Any:
        """The caption of a picture, or the answer to a question about it."""
        if body.question is None:
            served = service.find(body.model, "caption")
            return {"caption": (await service.captions(served, [body.image]))[0][0].text}
        served = service.find(body.model, "answer")
        found = await service.answers(served, [body.image], body.question)
        return {"answer": found[0][0].text}


def scored(one: CaptionResult | AnswerResult) -> dict[str, Any]:
    """A text with its log-probability and its probability."""
    return {"text": one.text, "log_prob": one.log_prob, "probability": one.probability}


def add_state(app: FastAPI, service: Service) -> None:
    """How the service stands."""

    @app.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Any:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", response_model=schemas.Health, responses={503: REFUSALS[503]})
    async def readyz() -> Any:
        """All programs are compiled."""
        if not service.engine.ready:
            raise Refusal(503, "not_ready", "The models are being compiled.", retry_after=5)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={401: REFUSALS[401]})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    started = int(time.time())

    @app.get("/v1/models", response_model=schemas.Models, responses={401: REFUSALS[401]})
    async def models() -> Any:
        """The models that are served, and what each can."""
        cards = [
            {
                "id": served.name,
                "created": started,
                "owned_by": "blip_jax",
                "task": served.task,
                "abilities": list(served.abilities),
                "image_size": served.model.config.vision.image_size,
            }
            for served in service.models.values()
        ]
        return {"data": cards}


def add_page(app: FastAPI) -> None:
    """The page to try it on, and that of the routes."""
    for path, name in (("/", "index.html"), ("/docs", "docs.html")):
        app.get(path, include_in_schema=False, name=name)(page_of(name))
    app.mount("/page", StaticFiles(directory=PAGE), name="page")


def page_of(name: str) -> Any:
    async def page() -> FileResponse:
        return FileResponse(PAGE / name)

    return page


def add_refusals(app: FastAPI, service: Service) -> None:
    """Every error has the same body."""

    def answer(request: Request, refusal: Refusal) -> JSONResponse:
        service.metrics.refused.labels(refusal.code).inc()
        body = refusal.body(request.state.request_id)
        return JSONResponse(body, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        code = status.phrase.lower().replace(" ", "_")
        response = answer(request, Refusal(status.value, code, f"{status.phrase}."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, Refusal(422, "invalid_request", sentence(error.errors())))

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return answer(request, refusal)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(request, Refusal(500, "internal", "The service has failed."))
