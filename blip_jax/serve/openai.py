"""Chat completions about one picture, for programs that speak OpenAI's dialect."""

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from blip_jax.serve.refusal import Refusal
from blip_jax.serve.schemas import LONGEST, MANY, Choices
from blip_jax.serve.service import Service


class TextPart(BaseModel):
    """A question."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=LONGEST)]


class ImageUrl(BaseModel):
    """A data URI."""

    url: Annotated[str, Field(min_length=1)]


class ImagePart(BaseModel):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """The last of the user is what counts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, Field(max_length=LONGEST)]
        | Annotated[list[Part], Field(min_length=1, max_length=MANY)]
    )


class ChatRequest(BaseModel):
    """Other fields of the dialect are taken and not used."""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MANY)]
    n: Choices = 1
    stream: bool = False


class ChatReply(BaseModel):
    """What was written."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One text."""

    index: int
    message: ChatReply
    finish_reason: Literal["stop"] = "stop"


class Usage(BaseModel):
    """In tokens of the model: image tokens and the question, and what was written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """Texts, best first."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


def add_routes(app: FastAPI, service: Service, refusals: dict[int | str, Any]) -> None:
    """/v1/chat/completions."""

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=refusals)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """A model that answers takes the text as its question; one that captions leaves it."""
        if body.stream:
            raise Refusal(400, "stream_not_supported", "Answers are short and come whole.")
        picture, question = last_question(body.messages)
        wanted = ("answer", "caption") if question else ("caption",)
        served = service.find(body.model, *wanted)
        answering = bool(question) and "answer" in served.abilities
        results: Any
        if answering:
            results = await service.answers(served, [picture], question)
        else:
            results = await service.captions(served, [picture])
        texts = [one.text for one in results[0][: body.n]]
        count = served.model.tokenizer.count
        asked = served.model.config.vision.tokens
        asked += count([question])[0] if answering else 0
        written = sum(count(texts))
        return {
            "id": f"chatcmpl-{request.state.request_id}",
            "created": int(time.time()),
            "model": served.name,
            "choices": [{"index": i, "message": {"content": t}} for i, t in enumerate(texts)],
            "usage": {
                "prompt_tokens": asked,
                "completion_tokens": written,
                "total_tokens": asked + written,
            },
        }


def last_question(messages: list[ChatMessage]) -> tuple[str, str]:
    """The picture and the text of the user's last message.

    Raises:
      Refusal: it has not one picture.
    """
    asked = [message for message in messages if message.role == "user"]
    parts = asked[-1].content if asked else []
    pictures = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if len(pictures) != 1:
        message = "The user's last message must have one picture, as image_url with a data URI."
        raise Refusal(400, "one_picture_needed", message)
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return pictures[0], " ".join(texts).strip()
