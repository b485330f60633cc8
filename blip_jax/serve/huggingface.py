"""The bodies that clients of Hugging Face's inference send."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blip_jax.serve.bodies import PICTURE_TYPES, media_type, sentence
from blip_jax.serve.refusal import Refusal
from blip_jax.serve.schemas import Picture, Text
from blip_jax.serve.service import Service


class Question(BaseModel):
    """A picture with what is asked of it."""

    image: Picture
    question: Text


class Inputs(BaseModel):
    """A picture as base64, or with a question. Parameters are taken and not used."""

    model_config = ConfigDict(title="HuggingFaceInputs")
    inputs: Picture | Question
    parameters: dict[str, Any] = Field(default_factory=dict)


class Written(BaseModel):
    """A caption."""

    generated_text: str


class Answered(BaseModel):
    """An answer with its probability."""

    answer: str
    score: float


async def read(request: Request) -> Inputs:
    """JSON, or the picture itself."""
    kind, body = media_type(request), await request.body()
    try:
        if kind == "application/json":
            return Inputs.model_validate_json(body)
        return Inputs(inputs=body)
    except ValidationError as error:
        raise Refusal(422, "invalid_request", sentence(error.errors())) from error


def documented() -> dict[str, Any]:
    """The body for the OpenAPI document."""
    schema = Inputs.model_json_schema()
    question = schema.pop("$defs")["Question"]
    picture = schema["properties"]["inputs"]["anyOf"][0]
    schema["properties"]["inputs"]["anyOf"] = [picture, question]
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    file = {"type": "string", "format": "binary", "minLength": 1}
    content |= {kind: {"schema": file} for kind in PICTURE_TYPES}
    return {"requestBody": {"required": True, "content": content}}


def add_routes(app: FastAPI, service: Service, refusals: dict[int | str, Any]) -> None:
    """/models/NAME."""

    @app.post(
        "/models/{model}",
        response_model=list[Written] | list[Answered],
        responses=refusals,
        openapi_extra=documented(),
    )
    async def infer(model: str, body: Annotated[Inputs, Depends(read)]) -> Any:
        """Captions a picture, or answers a question about it."""
        if isinstance(body.inputs, Question):
            asked = body.inputs
            served = service.find(model, "answer")
            found = await service.answers(served, [asked.image], asked.question)
            return [{"answer": one.text, "score": one.probability} for one in found[0]]
        served = service.find(model, "caption")
        captions = await service.captions(served, [body.inputs])
        return [{"generated_text": captions[0][0].text}]
