"""VisDial's files: dialogues of ten rounds about an image, a hundred candidates a round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_jax.data import storage

# Where the images of a split lie once unpacked; those of train are COCO's, of either part.
PLACES = {
    "train": (
        "train2014/COCO_train2014_{:012d}.jpg",
        "val2014/COCO_val2014_{:012d}.jpg",
    ),
    "val": ("VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg",),
    "test": ("VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg",),
}


@dataclass(frozen=True)
class Round:
    """One question of a dialogue, with what was said before.

    Attributes:
      round_id: 1 for the first.
      caption: of the image, which both speakers knew.
      history: questions with their answers, in order.
      candidates: answers to choose from.
      answer: number of the right one, None where it is not published.
    """

    image_id: int | str
    round_id: int
    image: Path
    caption: str
    history: tuple[tuple[str, str], ...]
    question: str
    candidates: tuple[str, ...]
    answer: int | None = None

    @property
    def uid(self) -> str:
        """Names the row."""
        return f"image {self.image_id}, round {self.round_id}"


class Rounds(Sequence[Round]):
    """The rounds of a file that have candidates; held as published, made when asked for."""

    def __init__(self, data: dict[str, Any], images: list[Path]) -> None:
        self._questions, self._answers = data["questions"], data["answers"]
        self._dialogs, self._images = data["dialogs"], images
        self._index = [
            (number, turn)
            for number, dialog in enumerate(self._dialogs)
            for turn, said in enumerate(dialog["dialog"])
            if said.get("answer_options")
        ]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, turn = self._index[index]
        dialog = self._dialogs[number]
        said = dialog["dialog"]
        before = [(self._questions[s["question"]], self._answers[s["answer"]]) for s in said[:turn]]
        return Round(
            dialog["image_id"],
            turn + 1,
            self._images[number],
            dialog["caption"],
            tuple(before),
            self._questions[said[turn]["question"]],
            tuple(self._answers[i] for i in said[turn]["answer_options"]),
            said[turn].get("gt_index"),
        )


def read_dialogs(path: str | Path, image_root: str | Path | None = None) -> Rounds:
    """Reads visdial_1.0_{train,val,test}.json.

    `{"split", "data": {"questions": [text], "answers": [text], "dialogs": [{"image_id", "caption",
    "dialog": [{"question", "answer"?, "answer_options"?, "gt_index"?}]}]}}`, where questions,
    answers and options are numbers in those lists. For images of one's own a dialogue has
    "image", a path.

    Raises:
      FileNotFoundError: no such file, or an image that is not there.
      ValueError: not such a file; the dialogue and field are named.
    """
    if not storage.exists(path):
        raise FileNotFoundError(f"No annotation file at {path}.")
    with storage.open_binary(path) as file:
        try:
            content = json.loads(file.read().decode("utf-8"))
            data, split = content["data"], content.get("split", "")
            dialogs = data["dialogs"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of VisDial: {error!r}.") from error
    root = Path(path).parent if image_root is None else Path(image_root)
    images = []
    for number, dialog in enumerate(dialogs):
        try:
            check(data, dialog)
            images.append(find_image(root, dialog, str(split)))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}, dialogue {number}: {error!r}.") from error
    return Rounds(data, images)


def check(data: dict[str, Any], dialog: dict[str, Any]) -> None:
    """Raises KeyError, IndexError or TypeError for a number that names nothing."""
    _ = dialog["image_id"] and dialog["caption"].lower()
    said = dialog["dialog"]
    for turn, row in enumerate(said):
        _ = data["questions"][row["question"]]
        if turn + 1 < len(said):  # the last one's is what a test asks for
            _ = data["answers"][row["answer"]]
        options = [data["answers"][i] for i in row.get("answer_options") or ()]
        if row.get("gt_index") is not None:
            _ = options[row["gt_index"]]


def find_image(root: Path, dialog: dict[str, Any], split: str) -> Path:
    """Where the image of a dialogue lies."""
    kind = next((name for name in PLACES if split.startswith(name)), None)
    names = [dialog["image"]] if "image" in dialog else []
    if not names and kind:
        names = [place.format(int(dialog["image_id"])) for place in PLACES[kind]]
    for name in names:
        if (root / name).is_file():
            return root / name
    wanted = " or ".join(str(root / name) for name in names) or 'field "image" is missing'
    raise FileNotFoundError(f"image {dialog['image_id']}: {wanted} is not there.")
