"""The commands that look at images: caption, answer, match, embed."""

import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from PIL import Image

from blip_jax.cli_flags import Flags

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Line = tuple[str, dict[str, Any]]  # as text, and as JSON
# (model, flags, images opened, number of the first) -> for each image its lines
Ask = Callable[[Any, Any, list[Image.Image], int], list[list[Line]]]


def run(name: str, argv: list[str]) -> None:
    """One command over all its images; what cannot be opened is told and left out.

    Raises:
      ValueError: nothing to look at, or flags that do not fit.
      RuntimeError: some images could not be opened, told when the others are done.
    """
    ask, define = COMMANDS[name]
    values = Flags()
    values.set_gnu_getopt()  # flags may follow images
    flags.DEFINE_string(
        "model", None, "folder, file, hub name or released name", flag_values=values, required=True
    )
    flags.DEFINE_bool("json", False, "one JSON object a line", flag_values=values)
    flags.DEFINE_integer("batch_size", 16, "images at a time", flag_values=values, lower_bound=1)
    define(values)
    images = find_images(values([f"blip-jax {name}", *argv])[1:])
    if not images:
        raise ValueError(f"{name} needs at least one image file, folder or pattern")
    import blip_jax

    model = blip_jax.load(values.model).for_inference()
    looked_at = 0
    for paths, opened, first in open_batches(images, values.batch_size):
        for path, lines in zip(paths, ask(model, values, opened, first), strict=True):
            for text, data in lines:
                row = json.dumps({"image": path} | data, ensure_ascii=False)
                print(row if values.json else f"{path}\t{text}", flush=True)
        looked_at = first + len(paths)
    if looked_at < len(images):
        raise RuntimeError(f"{len(images) - looked_at} of {len(images)} images could not be opened")


def find_images(arguments: Sequence[str]) -> list[str]:
    """Files as they are named, those of folders and their folders, and what patterns match.

    Raises:
      ValueError: a folder without images, or a pattern that nothing matches.
    """
    found: list[str] = []
    for argument in arguments:
        if Path(argument).is_dir():
            new = sorted(p for p in Path(argument).rglob("*") if p.suffix.lower() in SUFFIXES)
            files = [str(p) for p in new]
        elif glob.has_magic(argument) and not Path(argument).exists():
            files = sorted(glob.glob(argument, recursive=True))
        else:
            files = [argument]
        if not files:
            raise ValueError(f"there are no images in {argument}")
        found += files
    return found


def open_batches(
    paths: Sequence[str], size: int
) -> Iterator[tuple[list[str], list[Image.Image], int]]:
    """Names, images and the number of the first of each batch; broken ones go to stderr."""
    from tqdm import tqdm

    from blip_jax.data.images import ImageError, open_image

    names: list[str] = []
    opened: list[Image.Image] = []
    first = 0
    with tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None) as bar:
        for number, path in enumerate(paths):
            try:
                opened.append(open_image(path))
                names.append(path)
            except ImageError as error:
                bar.write(f"blip-jax: {error}", file=sys.stderr)
            if opened and (len(opened) == size or number == len(paths) - 1):
                yield names, opened, first
                first += len(names)
                names, opened = [], []
            bar.update()


def define_caption(values: flags.FlagValues) -> None:
    methods = ["greedy", "nucleus", "beam"]
    flags.DEFINE_enum("method", "beam", methods, "decoding", flag_values=values)
    flags.DEFINE_string("prompt", None, "what captions begin with", flag_values=values)
    flags.DEFINE_integer("num_captions", 1, "captions an image", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of nucleus sampling", flag_values=values)


def caption(model: Any, values: Any, images: list[Image.Image], first: int) -> list[list[Line]]:
    seeds = range(values.seed + first, values.seed + first + len(images))
    options = {name: getattr(values, name) for name in ("method", "prompt", "num_captions")}
    written = model.caption(images, seeds=seeds, batch_size=values.batch_size, **options)
    return [[(c.text, {"caption": c.text, "log_prob": c.log_prob}) for c in row] for row in written]


def define_answer(values: flags.FlagValues) -> None:
    flags.DEFINE_string("question", None, "to every image", flag_values=values, required=True)
    flags.DEFINE_string("candidates", None, "file of answers, one a line", flag_values=values)
    flags.DEFINE_integer("top_n", 1, "answers an image", flag_values=values)


def answer(model: Any, values: Any, images: list[Image.Image], first: int) -> list[list[Line]]:
    candidates = None
    if values.candidates:
        lines = Path(values.candidates).read_text(encoding="utf-8").splitlines()
        candidates = [line.strip() for line in lines if line.strip()]
    options = {"top_n": values.top_n, "batch_size": values.batch_size}
    answers = model.answer(images, values.question, candidates, **options)

    def line(found: Any) -> Line:
        return found.text, {"answer": found.text, "probability": found.probability}

    return [[line(found) for found in row] for row in answers]


def define_match(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "text", None, "to score; may be given several times", flag_values=values, required=True
    )


def match(model: Any, values: Any, images: list[Image.Image], first: int) -> list[list[Line]]:
    scores = model.match_matrix(images, values.text, batch_size=values.batch_size)

    def line(text: str, itm: float, itc: float) -> Line:
        scored = {"text": text, "itm": float(itm), "itc": float(itc)}
        return f"{itm:.4f}\t{itc:.4f}\t{text}", scored

    rows = zip(scores.itm, scores.itc, strict=True)
    return [[line(*part) for part in zip(values.text, *row, strict=True)] for row in rows]


def define_embed(values: flags.FlagValues) -> None:
    """No flags of its own."""


def embed(model: Any, values: Any, images: list[Image.Image], first: int) -> list[list[Line]]:
    vectors = model.embed_images(images, batch_size=values.batch_size).tolist()
    return [[(" ".join(f"{x:.6g}" for x in v), {"embedding": v})] for v in vectors]


COMMANDS: dict[str, tuple[Ask, Callable[[flags.FlagValues], None]]] = {
    "caption": (caption, define_caption),
    "answer": (answer, define_answer),
    "match": (match, define_match),
    "embed": (embed, define_embed),
}
