"""Bodies of requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from blip_jax.serve.limits import Limits
from blip_jax.serve.programs import CHOICES

MANY = Limits.many
LONGEST = 1000  # characters of a text


def one_or_many(item: dict[str, Any], what: str) -> tuple[BeforeValidator, WithJsonSchema]:
    """One thing is taken for a list of it, and documented as either."""
    listed = {"type": "array", "items": item, "minItems": 1, "maxItems": MANY}
    either = {"anyOf": [item, listed], "description": what}
    return BeforeValidator(as_list), WithJsonSchema(either)


def as_list(value: Any) -> Any:
    """One thing as a list of it."""
    return [value] if isinstance(value, str | bytes) else value


TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": r"\S"}
PICTURE = {
    "type": "string",
    "minLength": 1,
    "description": "A JPEG, PNG or WebP as base64 or as a data URI of it.",
}
Text = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"\S")]
Picture = Annotated[str | bytes, Field(min_length=1), WithJsonSchema(PICTURE)]
Texts = Annotated[
    list[Text], Field(min_length=1, max_length=MANY), *one_or_many(TEXT, "A text, or several.")
]
Pictures = Annotated[
    list[Picture],
    Field(min_length=1, max_length=MANY),
    *one_or_many(PICTURE, "A picture, or several."),
]
Method = Literal["beam", "nucleus", "greedy"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Choices = Annotated[int, Field(ge=1, le=CHOICES)]


class Request(BaseModel):
    """What every request of /v1 has."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, description="By default the first that can.")


class CaptionsRequest(Request):
    """Captions for pictures."""

    image: Pictures
    method: Method = "beam"
    prompt: Annotated[str, Field(max_length=LONGEST)] | None = Field(
        None, description="What every caption begins with."
    )
    num_captions: Choices = 1
    seed: Seed = Field(0, description="Of nucleus sampling.")

    @model_validator(mode="after")
    def _greedy_writes_one(self) -> "CaptionsRequest":
        if self.method == "greedy" and self.num_captions > 1:
            raise ValueError("greedy writes one caption; num_captions must be 1")
        return self


class AnswersRequest(Request):
    """A question about pictures."""

    image: Pictures
    question: Text
    top_n: Choices = 1


class MatchRequest(Request):
    """How well each text fits each picture."""

    image: Pictures
    text: Texts


class ExplanationRequest(Request):
    """Where in a picture the words of a text are found."""

    image: Picture
    text: Text


class EmbeddingsRequest(Request):
    """Unit vectors of pictures and of texts, in one space."""

    image: Pictures | None = None
    text: Texts | None = None

    @model_validator(mode="after")
    def _something(self) -> "EmbeddingsRequest":
        if not self.image and not self.text:
            raise ValueError("image or text is needed")
        return self


class BlipRequest(BaseModel):
    """A caption, or where there is a question an answer."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, description="By default the first that can.")
    image: Picture
    question: Text | None = None


class Caption(BaseModel):
    """Its probability is exp(log_prob), that of all its tokens."""

    text: str
    log_prob: float
    probability: float


class Answer(Caption):
    """Likewise."""


class Match(BaseModel):
    """`itm` is the probability of a match, `itc` the cosine in the joint space."""

    text: str
    itm: float
    itc: float


class Captions(BaseModel):
    """For each picture its captions, best first."""

    model: str
    results: list[list[Caption]]


class Answers(BaseModel):
    """For each picture its answers, best first."""

    model: str
    results: list[list[Answer]]


class Matches(BaseModel):
    """For each picture its texts, as they were given."""

    model: str
    results: list[list[Match]]


class WordMap(BaseModel):
    """Rows from the top, 0 or more."""

    word: str
    heatmap: list[list[float]]


class Explanation(BaseModel):
    """The words of the text, as the model reads them."""

    model: str
    words: list[WordMap]


class Embeddings(BaseModel):
    """Unit vectors."""

    model: str
    images: list[list[float]]
    texts: list[list[float]]


class BlipAnswer(BaseModel):
    """One of them."""

    caption: str | None = None
    answer: str | None = None


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    task: str
    abilities: list[str]
    image_size: int


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """How the service stands."""

    status: str
