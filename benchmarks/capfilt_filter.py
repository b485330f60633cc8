"""`capfilt filter` and `capfilt report` over a million drawn rows: seconds and peak memory.

    python benchmarks/capfilt_filter.py --workdir runs/million

Makes a run of CapFilt as `capfilt run` leaves it (without its images), then calls the commands in
processes of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

SHARD = 10_000
THRESHOLDS = ",".join(f"{t / 10:g}" for t in range(10))
COLOURS = ["red", "blue", "green", "old", "small", "large", "wooden", "bright", "empty", "young"]
THINGS = ["dog", "car", "woman", "man", "boat", "tree", "house", "girl", "horse", "train", "cat"]
PLACES = ["beach", "field", "city street", "kitchen", "river bank", "mountain", "station", "garden"]
NAMES = ["Berlin", "Anna Kowalski", "Nikon", "Toyota", "Paris", "Lake Como", "Smith", "Yamaha"]


def draw_words(rng: np.random.Generator, words: list[str], count: int) -> pa.Array:
    """Words, the first ones more often."""
    weight = 1 / np.arange(1, len(words) + 1)
    return pa.array(np.array(words)[rng.choice(len(words), count, p=weight / weight.sum())])


def draw_texts(rng: np.random.Generator, count: int) -> pa.StructArray:
    """`count` images' web text and caption, in turn."""

    def join(*parts: pa.Array | str) -> pa.Array:
        return pc.binary_join_element_wise(*parts, " ")

    number = pc.cast(pa.array(rng.integers(1, 9999, count)), "string")
    colour, thing = draw_words(rng, COLOURS, count), draw_words(rng, THINGS, count)
    name, where = draw_words(rng, NAMES, count), draw_words(rng, PLACES, count)
    web = join(name, thing, "photo", number, "for sale", where)
    syn = join("a", colour, thing, "standing in front of a", where, "with a", colour, "roof")
    order = np.arange(2 * count).reshape(2, -1).T.ravel()
    itm = np.stack([rng.beta(0.7, 1.0, count), rng.beta(2.2, 0.9, count)], 1).ravel()
    itm = itm.astype(np.float32)
    origin = pa.array(["web", "synthetic"] * count)
    log_prob = pa.array(-rng.gamma(4, 2, 2 * count).astype(np.float32))
    return pa.StructArray.from_arrays(
        [
            pa.concat_arrays([web, syn]).take(pa.array(order)),
            origin,
            pa.array(["", "nucleus"] * count),
            pc.if_else(pc.equal(origin, "web"), pa.scalar(None, pa.float32()), log_prob),
            pa.array(itm),
            pa.array(itm / 2 - np.float32(0.05)),
            pa.array(itm >= 0.5),
        ],
        ["text", "origin", "method", "log_prob", "itm", "itc", "keep"],
    )


def draw_shard(rng: np.random.Generator, count: int) -> pa.Table:
    """A shard's scores; one image in a hundred is a copy."""
    hashes = [row.tobytes().hex() for row in rng.integers(0, 256, (count, 32), np.uint8)]
    hashes[1::100] = hashes[0::100]
    columns = {
        "uid": [row.tobytes().hex() for row in rng.integers(0, 256, (count, 16), np.uint8)],
        "key": [f"{n:09d}" for n in range(count)],
        "row": np.arange(count),
        "source": draw_words(rng, ["laion", "cc12m", "sbu"], count),
        "status": ["ok"] * count,
        "detail": [""] * count,
        "image_sha256": hashes,
        "width": np.full(count, 640, np.int32),
        "height": np.full(count, 480, np.int32),
        "texts": pa.ListArray.from_arrays(
            pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32)), draw_texts(rng, count)
        ),
    }
    return pa.table(columns)


def draw_run(root: Path, rows: int, width: int) -> None:
    """A finished run of `rows` images with embeddings of `width`."""
    names = [f"{n:05d}" for n in range(-(-rows // SHARD))]
    for folder in ("scores", "embeddings"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        count = min(SHARD, rows - number * SHARD)
        parquet.write_table(draw_shard(rng, count), root / f"scores/{name}.parquet")
        vectors = rng.normal(size=(count, width)).astype(np.float32)
        vectors[1::100] = vectors[0::100]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(root / f"embeddings/{name}.npy", vectors.astype(np.float16))
        seconds = {"decode": 20.0, "caption": 60.0, "score": 20.0, "whole": 100.0}
        marker = {"name": name, "rows": count, "status": {"ok": count}, "seconds": seconds}
        (root / f"scores/{name}_stats.json").write_text(json.dumps(marker))
    settings = {"corpus": "drawn", "shards": names, "threshold": 0.5,
                "caption": {"method": "nucleus", "top_p": 0.9}, "models": {}}  # fmt: skip
    (root / "run.json").write_text(json.dumps(settings))


def measure(*arguments: str) -> None:
    """Runs a command; prints its seconds, those of its cores, and the most memory it held."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "blip_jax", "capfilt", *arguments]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"capfilt {' '.join(arguments)} ended with {process.returncode}")
    seconds, work = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    told = f"{seconds:.1f} s ({work:.1f} s of a core), {usage.ru_maxrss / 2**20:.2f} GiB"
    print(f"== capfilt {' '.join(arguments)}: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256, help="of the embeddings")
    arguments = parser.parse_args()
    run, out = arguments.workdir / "run", arguments.workdir / "chosen"
    if not (run / "run.json").exists():
        draw_run(run, arguments.rows, arguments.width)
    measure("filter", str(run), f"--threshold={THRESHOLDS}")
    measure("filter", str(run), f"--threshold={THRESHOLDS}", "--best_of_n", "--drop_duplicates")
    measure("filter", str(run), "--noun_support=0.5")
    if not out.exists():
        measure("filter", str(run), "--threshold=0.6", "--out", str(out))
    measure("report", str(run))
    print(f"report.html: {(run / 'report.html').stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
