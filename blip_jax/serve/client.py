"""Asking a service from Python; needs nothing but this package's core.

client = Client("http://127.0.0.1:8000")
client.caption("photo.jpg")[0][0].text
"""

import base64
import dataclasses
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.inference.results import AnswerResult, CaptionResult, MatchResult

PictureLike = str | Path | bytes | Image.Image  # a path, the file's bytes, or a PIL image
TRIES = 5  # of a request that meets a full queue


class ServiceError(Exception):
    """What the service refused: its status, its code, its sentence and its request's number."""

    def __init__(self, status: int, code: str, message: str, request_id: str) -> None:
        super().__init__(f"{message} ({status} {code}, request {request_id})")
        self.status = status
        self.code = code
        self.request_id = request_id


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Unit vectors float32 [N, E] of pictures and [M, E] of texts."""

    images: np.ndarray
    texts: np.ndarray


class Client:
    """One service. Pictures are one or a list; results are lists in their order.

    Every method raises ServiceError where the service refuses, and OSError where it cannot be
    reached. A full queue is waited for, as long as the service says, a few times.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        """Takes the service's address, its bearer token, and seconds to wait for an answer."""
        self.url = url.rstrip("/")
        self.token = token
        self.timeout = timeout

    def caption(
        self, pictures: PictureLike | Sequence[PictureLike], **options: Any
    ) -> list[list[CaptionResult]]:
        """Captions of each picture; options: model, method, prompt, num_captions, seed."""
        found = self._post("/v1/captions", image=encoded(pictures), **options)
        return [[CaptionResult(c["text"], c["log_prob"]) for c in row] for row in found["results"]]

    def answer(
        self, pictures: PictureLike | Sequence[PictureLike], question: str, **options: Any
    ) -> list[list[AnswerResult]]:
        """Answers to a question about each picture; options: model, top_n."""
        found = self._post("/v1/answers", image=encoded(pictures), question=question, **options)
        return [[AnswerResult(a["text"], a["log_prob"]) for a in row] for row in found["results"]]

    def match(
        self,
        pictures: PictureLike | Sequence[PictureLike],
        texts: str | Sequence[str],
        **options: Any,
    ) -> list[list[MatchResult]]:
        """How well each text fits each picture; options: model."""
        words = texts if isinstance(texts, str) else list(texts)
        found = self._post("/v1/match", image=encoded(pictures), text=words, **options)
        return [[MatchResult(m["itm"], m["itc"]) for m in row] for row in found["results"]]

    def embed(
        self,
        pictures: PictureLike | Sequence[PictureLike] | None = None,
        texts: str | Sequence[str] | None = None,
        **options: Any,
    ) -> Embeddings:
        """Unit vectors in one space; options: model."""
        given = {
            "image": None if pictures is None else encoded(pictures),
            "text": texts if texts is None or isinstance(texts, str) else list(texts),
        }
        found = self._post("/v1/embeddings", **given, **options)
        images, words = (np.asarray(found[name], np.float32) for name in ("images", "texts"))
        return Embeddings(images, words)

    def models(self) -> list[dict[str, Any]]:
        """The models that are served, and what each can."""
        return self._send("/v1/models", None)["data"]

    def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Returns when all programs are compiled.

        Raises:
          TimeoutError: not within so many seconds.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self._send("/readyz", None)
                return
            except (ServiceError, OSError) as error:
                if isinstance(error, ServiceError) and error.status != 503:
                    raise
                time.sleep(0.2)
        raise TimeoutError(f"{self.url} was not ready within {seconds:g} s")

    def _post(self, path: str, **fields: Any) -> Any:
        body = {name: value for name, value in fields.items() if value is not None}
        return self._send(path, json.dumps(body).encode())

    def _send(self, path: str, body: bytes | None) -> Any:
        """JSON of a path; a full queue is tried again."""
        headers = {"content-type": "application/json"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        attempt = 0
        while True:
            attempt += 1
            request = urllib.request.Request(self.url + path, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 429 or attempt == TRIES:
                    raise refused(error) from error
                time.sleep(float(error.headers.get("retry-after", 1)))


def refused(error: urllib.error.HTTPError) -> ServiceError:
    """An answer that is no result."""
    try:
        told = json.load(error)["error"]
        return ServiceError(error.code, told["code"], told["message"], told["request_id"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(error.code, "unknown", "The service gave no reason.", "unknown")


def encoded(pictures: PictureLike | Sequence[PictureLike]) -> list[str]:
    """Pictures as base64. Those of PIL go as PNG."""
    one = isinstance(pictures, str | Path | bytes | Image.Image)
    several: Any = [pictures] if one else pictures
    return [base64.b64encode(content(picture)).decode() for picture in several]


def content(picture: PictureLike) -> bytes:
    """A picture as a file's bytes."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
