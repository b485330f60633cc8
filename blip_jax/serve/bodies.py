"""One schema, three ways to send it: JSON, a form with files, or the picture itself."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from blip_jax.serve.refusal import Refusal
from blip_jax.serve.schemas import MANY

PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
FIELDS = 128  # of a form, other than files

Schema = TypeVar("Schema", bound=BaseModel)


def body_of(schema: type[Schema]) -> Callable[[Request], Awaitable[Schema]]:
    """A dependency that reads a schema from whichever body there is."""

    async def read(request: Request) -> Schema:
        kind = media_type(request)
        try:
            if kind == "application/json":
                return schema.model_validate_json(await request.body())
            if kind == "multipart/form-data":
                return schema.model_validate(await form_fields(request))
            if kind in PICTURE_TYPES:
                fields = collect(request.query_params.multi_items())
                return schema.model_validate({**fields, "image": await request.body()})
        except ValidationError as error:
            raise Refusal(422, "invalid_request", sentence(error.errors())) from error
        raise Refusal(
            415,
            "unsupported_media_type",
            f"The body is application/json, multipart/form-data, {', '.join(PICTURE_TYPES)}.",
        )

    return read


def media_type(request: Request) -> str:
    """Without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def form_fields(request: Request) -> dict[str, Any]:
    """Fields of a form; files are read."""
    async with request.form(max_files=MANY, max_fields=FIELDS) as form:
        return collect(
            [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
        )


def collect(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by name; those of a name that comes several times are a list."""
    found: dict[str, list[Any]] = {}
    for name, value in items:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def sentence(errors: Iterable[Any]) -> str:
    """What is wrong with each field, without repeating what was sent."""
    told = []
    for error in errors:
        place = ".".join(str(part) for part in error["loc"][:3] if part != "body")
        told.append(f"{place}: {error['msg']}" if place else error["msg"])
    return "; ".join(told[:5])[:500]


def documented(schema: type[BaseModel]) -> dict[str, Any]:
    """The same for the OpenAPI document."""
    whole = schema.model_json_schema()
    properties = dict(whole["properties"])
    file = {"type": "string", "format": "binary"}
    one = properties["image"].get("type") == "string"
    upload = file if one else {"type": "array", "items": file, "minItems": 1, "maxItems": MANY}
    form = {**whole, "properties": {**properties, "image": upload}}
    content: dict[str, Any] = {
        "application/json": {"schema": whole},
        "multipart/form-data": {"schema": form},
    }
    content |= {kind: {"schema": file} for kind in PICTURE_TYPES}
    what = "JSON, a form, or one picture itself with the other fields in the query."
    return {"requestBody": {"required": True, "description": what, "content": content}}
