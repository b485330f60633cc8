"""Task annotations in the original's formats: questions with answers, statements about two images.

Captions (COCO, Flickr30k) are `records.read_json`; `publishers` makes all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_jax.data.records import load_list

VG_WEIGHT = 0.2  # of a Visual Genome answer in training (BLIP data/vqa_dataset.py)


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
      answers: as people gave them, repeated ones included; empty where they are not published.
      dataset: "vqa" or "vg".
      answer_type: "yes/no", "number" or "other"; "" where it is not published.
    """

    question_id: int | str
    image: Path
    question: str
    answers: tuple[str, ...]
    dataset: str = "vqa"
    answer_type: str = ""

    @property
    def uid(self) -> str:
        """Names the row."""
        return f"question {self.question_id}"

    def weights(self) -> dict[str, float]:
        """Each answer's weight in the training loss: its share of people; 0.2 of VG's one."""
        if self.dataset == "vg":
            return dict.fromkeys(self.answers, VG_WEIGHT)
        total = len(self.answers)
        return {answer: count / total for answer, count in Counter(self.answers).items()}


@dataclass(frozen=True)
class Statement:
    """A sentence about two images, left and right.

    Attributes:
      label: whether it is true; None where that is not published.
      uid: names the row: the publisher's `identifier`, else its place in the list.
    """

    images: tuple[Path, Path]
    sentence: str
    label: bool | None
    uid: str = ""


@dataclass(frozen=True)
class Labelled:
    """An image, a text that goes with it (or ""), and the name of their class."""

    image: Path
    text: str
    label: str

    @property
    def uid(self) -> str:
        """Names the row."""
        return f"{self.image}: {self.text}"


def read_questions(path: str | Path, image_root: str | Path | None = None) -> list[Question]:
    """Reads `[{"question_id", "image", "question", "answer"?: text or texts}, ...]`.

    Rows may have "dataset" and "answer_type" too; see `Question`.

    Raises:
      FileNotFoundError: no such file, or an image that is not there.
      ValueError: not such a list; the row and field are named.
    """
    rows = _rows(path)
    root = _root(path, image_root)
    return [
        Question(
            _field(path, number, row, "question_id", int, str),
            _image(path, number, root, _field(path, number, row, "image", str)),
            _field(path, number, row, "question", str),
            _answers(path, number, row),
            str(row.get("dataset", "vqa")),
            str(row.get("answer_type", "")),
        )
        for number, row in enumerate(rows)
    ]


def read_statements(path: str | Path, image_root: str | Path | None = None) -> list[Statement]:
    """Reads `[{"images": [left, right], "sentence", "label"?: "True" or "False", "identifier"?}]`.

    Raises:
      FileNotFoundError: no such file, or an image that is not there.
      ValueError: not such a list; the row and field are named.
    """
    root = _root(path, image_root)
    found = []
    for number, row in enumerate(_rows(path)):
        names = _field(path, number, row, "images", list)
        if len(names) != 2 or not all(isinstance(name, str) for name in names):
            raise _error(path, number, "images", "two strings")
        label = str(row.get("label", "")).lower()
        if label not in ("true", "false", ""):
            raise _error(path, number, "label", '"True" or "False"')
        left, right = (_image(path, number, root, name) for name in names)
        sentence = _field(path, number, row, "sentence", str)
        true = label == "true" if label else None
        uid = str(row.get("identifier", f"{Path(path).stem}/{number}"))
        found.append(Statement((left, right), sentence, true, uid))
    return found


def read_labelled(path: str | Path, image_root: str | Path | None = None) -> list[Labelled]:
    """Reads `[{"image", "label", "text"?}, ...]`.

    Raises:
      FileNotFoundError: no such file, or an image that is not there.
      ValueError: not such a list; the row and field are named.
    """
    root = _root(path, image_root)
    return [
        Labelled(
            _image(path, number, root, _field(path, number, row, "image", str)),
            _field(path, number, {"text": ""} | row, "text", str),
            _field(path, number, row, "label", str),
        )
        for number, row in enumerate(_rows(path))
    ]


def _rows(path: str | Path) -> list[dict[str, Any]]:
    rows = load_list(path)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: expected an object.")
    return rows


def _root(path: str | Path, image_root: str | Path | None) -> Path:
    return Path(path).parent if image_root is None else Path(image_root)


def _answers(path: str | Path, number: int, row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row.get("answer", [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise _error(path, number, "answer", "a string or a list of strings")
    return tuple(values)


def _image(path: str | Path, number: int, root: Path, name: str) -> Path:
    if not (root / name).is_file():
        raise FileNotFoundError(f"{path}, row {number}: no image at {root / name}.")
    return root / name


def _field(path: str | Path, number: int, row: Mapping[str, Any], name: str, *kinds: type) -> Any:
    if not isinstance(row.get(name), kinds):
        words = {str: "a string", int: "a number", list: "a list"}
        raise _error(path, number, name, " or ".join(words[kind] for kind in kinds))
    return row[name]


def _error(path: str | Path, number: int, name: str, wanted: str) -> ValueError:
    return ValueError(f'{path}, row {number}: field "{name}" must be {wanted}.')
