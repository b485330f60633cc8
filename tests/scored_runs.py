"""Finished runs of CapFilt as `blip-jax capfilt run` leaves them, with scores that are drawn."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpora import jpeg
from pyarrow import parquet

from blip_jax.data.formats import webdataset
from blip_jax.data.record import Record

TEXT = pa.struct([
    ("text", pa.string()), ("origin", pa.string()), ("method", pa.string()),
    ("log_prob", pa.float32()), ("itm", pa.float32()), ("itc", pa.float32()), ("keep", pa.bool_()),
])  # fmt: skip
SCHEMA = pa.schema([
    ("uid", pa.string()), ("key", pa.string()), ("row", pa.int64()), ("source", pa.string()),
    ("status", pa.string()), ("detail", pa.string()), ("image_sha256", pa.string()),
    ("width", pa.int32()), ("height", pa.int32()), ("texts", pa.list_(TEXT)),
])  # fmt: skip
COLOURS = ["red", "blue", "green", "old", "small"]
THINGS = ["dog", "car", "woman", "man", "boat", "tree", "house", "girl", "horse", "train"]
ACTS = ["on the beach", "next to a river", "running in a field", "in front of a building"]
ALT = ["Nikon D{n} photo by Anna Kowalski", "{t} for sale in Berlin {n}", "a {c} {t} {a}",
       "A {t} {a}, 20{m}", "IMG_{n}.JPG"]  # fmt: skip


def draw_texts(rng: np.random.Generator, captions: int, method: str) -> list[dict]:
    """One image's web text and captions, the captions better on the whole."""

    def fill(pattern: str) -> str:
        parts = {"c": rng.choice(COLOURS), "t": rng.choice(THINGS), "a": rng.choice(ACTS)}
        return pattern.format(**parts, n=rng.integers(100, 9999), m=rng.integers(10, 25))

    texts = []
    for number in range(captions + 1):
        web = number == 0
        itm = np.float32(rng.beta(0.7, 1.0) if web else rng.beta(2.2, 0.9))
        texts.append({
            "text": fill(str(rng.choice(ALT))) if web else fill("a {c} {t} {a}"),
            "origin": "web" if web else "synthetic",
            "method": "" if web else method,
            "log_prob": None if web else float(-rng.gamma(4, 2)),
            "itm": float(itm), "itc": float(itm / 2 - 0.05), "keep": bool(itm >= 0.5),
        })  # fmt: skip
    return texts


def draw_rows(rng: np.random.Generator, name: str, count: int, captions: int = 1) -> list[dict]:
    """One shard's rows; every seventeenth image is broken, every twentieth a copy."""
    rows: list[dict] = []
    for i in range(count):
        broken, copied = i % 17 == 16, i % 20 == 19
        rows.append({
            "uid": rng.bytes(16).hex(), "key": f"{i:09d}", "row": i,
            "source": str(rng.choice(["cc", "laion"])),
            "status": "damaged_image" if broken else "ok",
            "detail": f"{name}/{i} is cut short" if broken else "",
            "image_sha256": rows[i - 3]["image_sha256"] if copied else rng.bytes(32).hex(),
            "width": 40, "height": 30,
            "texts": [] if broken else draw_texts(rng, captions, "nucleus"),
        })  # fmt: skip
    return rows


def write_run(
    root: Path, shards: int = 2, rows: int = 60, *, captions: int = 1, seed: int = 0
) -> Path:
    """A run of which all but one of `shards` + 1 shards are finished."""
    rng = np.random.default_rng(seed)
    names = [f"{n:05d}" for n in range(shards + 1)]
    write_settings(root, names)
    for name in names[:-1]:
        drawn = draw_rows(rng, name, rows, captions)
        write_shard(root, name, pa.Table.from_pylist(drawn, SCHEMA), rng)
        write_data(root / "data" / f"{name}.tar", drawn)
    return root


def write_settings(root: Path, names: list[str]) -> None:
    """run.json."""
    root.mkdir(parents=True, exist_ok=True)
    settings = {
        "corpus": str(root / "data"), "shards": names, "threshold": 0.5,
        "caption": {"method": "nucleus", "top_p": 0.9, "num_captions": 1},
        "models": {"captioner": {"sha256": "c" * 64}, "filter": {"sha256": "f" * 64}},
    }  # fmt: skip
    (root / "run.json").write_text(json.dumps(settings))


def write_shard(root: Path, name: str, table: pa.Table, rng: np.random.Generator) -> None:
    """Scores, embeddings, and the marker last."""
    for folder in ("scores", "embeddings", "data"):
        (root / folder).mkdir(exist_ok=True)
    parquet.write_table(table, root / "scores" / f"{name}.parquet")
    vectors = rng.normal(size=(len(table), 16)).astype(np.float32)
    vectors[19::20] = vectors[16:-3:20] if len(table) > 19 else vectors[19::20]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(root / "embeddings" / f"{name}.npy", vectors.astype(np.float16))
    status = table["status"].to_pylist()
    marker = {
        "name": name, "rows": len(table),
        "status": {word: status.count(word) for word in sorted(set(status))},
        "seconds": {"decode": 1.5, "caption": 6.0, "score": 2.0, "write": 0.5, "whole": 10.0},
    }  # fmt: skip
    (root / "scores" / f"{name}_stats.json").write_text(json.dumps(marker))


def write_data(path: Path, rows: list[dict]) -> None:
    """The images, untouched, as WebDataset."""
    writer = webdataset.Writer(path)
    for row in rows:
        if row["status"] == "ok":
            web = row["texts"][0]["text"]
            record = Record(row["uid"], b"", (web,), row["uid"], {"key": row["key"]})
            writer.write(record, jpeg(row["row"], 160, 120), "jpg")
    writer.close()
