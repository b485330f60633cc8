"""CapFilt's two passes: the captioner writes, the filter scores (paper section 3.3)."""

import dataclasses
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from blip_jax.data.pipeline import image_batches
from blip_jax.data.records import Record, Records
from blip_jax.data.text import pre_caption
from blip_jax.files import Progress, read_json_lines, silent, write_json, write_json_lines
from blip_jax.inference.caption import CaptionOptions, seed_keys, write_captions
from blip_jax.inference.match import score_texts
from blip_jax.model import Model


@dataclasses.dataclass(frozen=True)
class CapFiltOptions:
    """Settings of the passes. They are written beside the scores; others refuse to resume them."""

    caption: CaptionOptions
    seed: int = 0
    max_tokens: int = 30  # of a scored text
    batch_size: int = 64  # images a compiled batch
    chunk_size: int = 512  # images a file of scores, the unit that a killed run repeats


def score_records(
    records: Records,
    captioner: Model,
    matcher: Model,
    folder: Path,
    options: CapFiltOptions,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Captions every image and scores its web text and every synthetic one.

    Chunks of records are finished files in `folder`; those that are there are not done again.
    A record's captions depend on (seed, uid) alone, not on its batch.

    Returns:
      One row a record, in order: uid, image, image_id, status ("ok" or why the image could not
      be read), web_text, web_itm, web_itc, and lists syn_text, syn_log_prob, syn_itm, syn_itc.

    Raises:
      ValueError: the folder holds scores made with other settings.
      RuntimeError: the filter gives NaN.
    """
    claim(folder, options, len(records))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(records), options.chunk_size):
        path = folder / f"{start // options.chunk_size:05d}.jsonl"
        if not path.exists():
            chunk = records[start : start + options.chunk_size]
            write_json_lines(path, score_chunk(chunk, captioner, matcher, options))
        rows += read_json_lines(path)
        progress(len(rows), len(records))
    return rows


def claim(folder: Path, options: CapFiltOptions, total: int) -> None:
    """Writes down what the scores in `folder` are made with, or checks that it is the same."""
    settings = json.loads(json.dumps(dataclasses.asdict(options) | {"records": total}))
    path = folder / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    found = json.loads(path.read_text())
    if found != settings:
        differ = sorted(k for k in settings | found if settings.get(k) != found.get(k))
        raise ValueError(
            f"{folder} holds scores made with other settings ({', '.join(differ)}); "
            "use another folder, or remove this one"
        )


def score_chunk(
    records: Sequence[Record], captioner: Model, matcher: Model, options: CapFiltOptions
) -> list[dict[str, Any]]:
    """The rows of `score_records` for a few records."""
    rows: list[dict[str, Any]] = []
    size = captioner.config.vision.image_size
    for images, status, chosen in image_batches(records, size, options.batch_size):
        keys = seed_keys([record_seed(options.seed, r.uid) for r in chosen])
        captions, log_probs = write_captions(captioner, images, keys, options.caption)
        texts = [
            [pre_caption(r.captions[0]), *written]
            for r, written in zip(chosen, captions, strict=True)
        ]
        itm, itc = score(matcher, images, texts, options.max_tokens)
        for i, found in enumerate(status):
            parts = (texts[i], log_probs[i], itm[i], itc[i])
            rows.append(make_row(chosen[i], found, *parts))
    return rows


def score(
    model: Model, images: np.ndarray, texts: list[list[str]], max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """N texts an image -> ITM probabilities and ITC cosines [B, N]."""
    flat = [text for row in texts for text in row]
    ids, mask = model.tokenizer.encode(flat, max_length=max_tokens)
    ids, mask = (x.reshape(len(texts), -1, max_tokens) for x in (ids, mask))
    scores = score_texts(model.blip, model.on_device, images, ids, mask)
    itm, itc = jax.device_get(scores)
    if not (np.isfinite(itm).all() and np.isfinite(itc).all()):
        raise RuntimeError("the filter gives scores that are no numbers: it has diverged")
    return itm, itc


def record_seed(seed: int, uid: str) -> int:
    """What a record's samples are drawn from."""
    return zlib.crc32(f"{seed}/{uid}".encode())


def make_row(
    record: Record,
    status: str,
    texts: list[str],
    log_probs: np.ndarray,
    itm: np.ndarray,
    itc: np.ndarray,
) -> dict[str, Any]:
    """One line of the scores; an unreadable image keeps its place, without scores."""
    row = {
        "uid": record.uid,
        "image": str(record.image),
        "image_id": record.image_id,
        "status": status,
        "web_text": texts[0],
    }
    if status != "ok":
        return row
    return row | {
        "web_itm": float(itm[0]),
        "web_itc": float(itc[0]),
        "syn_text": texts[1:],
        "syn_log_prob": log_probs.tolist(),
        "syn_itm": itm[1:].tolist(),
        "syn_itc": itc[1:].tolist(),
    }
