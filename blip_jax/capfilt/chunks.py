"""The pass over records held in memory, in JSON lines: what `blip-jax bootstrap` keeps."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blip_jax.capfilt.read import Row
from blip_jax.capfilt.score import CapFiltOptions, Scorer
from blip_jax.data.record import Record
from blip_jax.data.records import Records
from blip_jax.data.text import pre_caption
from blip_jax.files import Progress, read_json_lines, silent, write_json, write_json_lines
from blip_jax.model import Model

CHUNK = 512  # images a file of scores, the unit that a killed run repeats


def score_records(
    records: Records,
    captioner: Model,
    matcher: Model,
    folder: Path,
    options: CapFiltOptions,
    progress: Progress = silent,
    chunk: int = CHUNK,
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
    _claim(folder, dataclasses.asdict(options) | {"chunk": chunk, "records": len(records)})
    parts = {
        folder / f"{number:05d}.jsonl": records[number * chunk : (number + 1) * chunk]
        for number in range(-(-len(records) // chunk))
    }
    absent = [(path, part) for path, part in parts.items() if not path.exists()]
    scored = Scorer(captioner, matcher, options).units(absent) if absent else iter(())
    rows: list[dict[str, Any]] = []
    for path, part in parts.items():
        if not path.exists():
            write_json_lines(path, _lines(part, next(scored)[1]))
        rows += read_json_lines(path)
        progress(len(rows), len(records))
    return rows


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes down what the scores in `folder` are made with, or checks that it is the same."""
    settings = json.loads(json.dumps(settings))
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


def _lines(records: Sequence[Record], rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A line a record; an unreadable image keeps its place, without scores."""
    for record, row in zip(records, rows, strict=True):
        web = row.texts[0]
        line: dict[str, Any] = {
            "uid": record.uid,
            "image": str(record.image),
            "image_id": record.image_id,
            "status": "ok" if row.status == "ok" else row.detail,
            "web_text": pre_caption(web.text),
        }
        if row.status == "ok":
            written = [text for text in row.texts if text.log_prob is not None]
            line |= {
                "web_itm": web.itm,
                "web_itc": web.itc,
                "syn_text": [text.text for text in written],
                "syn_log_prob": [text.log_prob for text in written],
                "syn_itm": [text.itm for text in written],
                "syn_itc": [text.itc for text in written],
            }
        yield line
