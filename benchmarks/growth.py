"""What CapFilt's cost grows with: seconds an image and peak memory, by corpus and by captions.

    python benchmarks/growth.py corpus --workdir runs/growth
    python benchmarks/growth.py captions --workdir runs/growth --size b16 --image_size 384

Every run is a `blip-jax capfilt run` in a process of its own, by a random model, over tars of drawn
JPEGs of one batch each. The first shard, for which programs are compiled, is not counted.
"""

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from blip_jax.config import BLIP_B16, TINY
from blip_jax.interop.source import with_tokenizer
from blip_jax.model import Model, save
from blip_jax.models.blip import Blip
from blip_jax.tokenizer import Tokenizer

SIZES = {"tiny": TINY, "b16": BLIP_B16}
WORDS = [
    f"a {c} {t} in a {p}" for c in ("red", "old") for t in ("car", "dog") for p in ("bay", "wood")
]
SHARDS = (5, 50, 500)
CAPTIONS = (1, 2, 4, 8)
NEW = 20  # tokens of a caption, at most


def draw_tar(path: Path, first: int, rows: int) -> None:
    """Smooth pictures of 500 x 375 with a text each, as img2dataset lays them out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + rows):
            rng = np.random.default_rng(number)
            file = io.BytesIO()
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            text = WORDS[number % len(WORDS)].encode()
            for suffix, content in (("jpg", file.getvalue()), ("txt", text)):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def draw_corpus(workdir: Path, shards: int, rows: int) -> Path:
    folder = workdir / f"in_{shards}x{rows}"
    for number in range(shards):
        path = folder / f"{number:05d}.tar"
        if not path.exists():
            draw_tar(path, number * rows, rows)
    return folder


def draw_model(workdir: Path, size: str, image_size: int) -> Path:
    """A random model that writes and scores."""
    path = workdir / f"model_{size}_{image_size}"
    if path.exists():
        return path
    tokenizer = Tokenizer.train(WORDS, vocab_size=200)
    config = SIZES[size]
    vision = dataclasses.replace(config.vision, image_size=image_size)
    config = dataclasses.replace(config, vision=vision, task="pretrain")
    config = with_tokenizer(config, tokenizer)
    params = jax.device_get(jax.jit(Blip(config).init)(jax.random.key(0)))
    save(Model(params, config, tokenizer), path)
    return path


def run(corpus: Path, model: Path, out: Path, rows: int, captions: int) -> dict[str, float]:
    """Seconds an image, median over shards, and GiB that the process held at most."""
    shutil.rmtree(out, ignore_errors=True)
    flags = [f"--captioner={model}", f"--filter={model}", f"--batch_size={rows}",
             f"--num_captions={captions}", f"--max_new_tokens={NEW}"]  # fmt: skip
    command = [sys.executable, "-m", "blip_jax", "capfilt", "run", str(corpus), str(out), *flags]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    markers = [json.loads(p.read_text()) for p in sorted((out / "scores").glob("*_stats.json"))]
    stages = {
        name: statistics.median(marker["seconds"][name] / rows for marker in markers[1:])
        for name in ("whole", "decode", "caption", "score")
    }
    return stages | {"peak_gib": usage.ru_maxrss / 2**20}


def table(first: str, results: dict[int, dict[str, float]]) -> str:
    lines = [
        f"| {first} | ms an image | decode | caption | score | peak GiB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count, found in results.items():
        cells = [f"{1000 * found[name]:.1f}" for name in ("whole", "decode", "caption", "score")]
        lines.append(f"| {count} | {' | '.join(cells)} | {found['peak_gib']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("corpus", "captions"))
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8, help="images of a shard and of a batch")
    args = parser.parse_args()
    # In a process of its own: a child's peak begins at its parent's, and a device has one owner.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        model = apart.submit(draw_model, args.workdir, args.size, args.image_size).result()
    by_captions = args.what == "captions"
    results = {}
    for count in CAPTIONS if by_captions else SHARDS:
        shards, captions = (4, count) if by_captions else (count, 1)
        corpus = draw_corpus(args.workdir, shards, args.rows)
        results[count] = run(corpus, model, args.workdir / "out", args.rows, captions)
    print("\n" + table("captions" if by_captions else "shards", results))


if __name__ == "__main__":
    main()
