"""Broken inputs: no crash, no hang, and every row accounted for.

`BLIP_JAX_FUZZ=1000` tries so many of each kind; the default is quick.
"""

import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from corpora import fields, jpeg, write_images, write_tar

from blip_jax.data.augment import read_crop
from blip_jax.data.convert import convert
from blip_jax.data.corpus import open_corpus
from blip_jax.data.images import ImageError, open_image
from blip_jax.data.record import Record

ROUNDS = int(os.environ.get("BLIP_JAX_FUZZ", "60"))
SECONDS = 20  # for one input; a thousandth of that is usual


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_):
        raise TimeoutError("hangs")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flipped, filled, doubled, shifted or empty."""
    broken = bytearray(content)
    kind = rng.integers(6)
    at = int(rng.integers(len(broken)))
    if kind == 0:
        return bytes(broken[:at])
    if kind == 1:
        for place in rng.integers(len(broken), size=int(rng.integers(1, 30))):
            broken[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        length = int(rng.integers(1, 2000))
        broken[at : at + length] = rng.bytes(length)
    elif kind == 3:
        broken[at:at] = broken[: int(rng.integers(3000))]
    elif kind == 4:
        del broken[at : at + int(rng.integers(1, 700))]
    else:
        broken[at : at + 600] = bytes(600)
    return bytes(broken)


def test_tars(tmp_path):
    whole = write_tar(tmp_path / "whole.tar").read_bytes()
    rng, kept, told = np.random.default_rng(0), 0, Counter()
    for number in range(ROUNDS):
        path = tmp_path / "t.tar"
        path.write_bytes(damage(whole, rng))
        with no_hang():
            rows = list(open_corpus(str(path)).rows())
        records = [row for row in rows if isinstance(row, Record)]
        kept += len(records)
        reasons = Counter(row.reason for row in rows if not isinstance(row, Record))
        told += reasons
        # A sample that is gone leaves a trace.
        assert len(records) >= 8 or reasons, number
    assert kept > ROUNDS * 3 and {"tar_truncated", "tar_damaged"} <= set(told)


def test_jpegs():
    content, rng, lost = jpeg(1, 200, 150), np.random.default_rng(1), 0
    for _ in range(ROUNDS):
        broken = damage(content, rng)
        with no_hang():
            try:
                assert open_image(broken).mode == "RGB"
                assert read_crop(broken, 16, rng).size == (16, 16)
            except ImageError:
                lost += 1
    assert 0 < lost < ROUNDS


def test_json_lines(tmp_path):
    write_images(tmp_path)
    lines = [json.dumps({**fields(i), "image": f"{i}.jpg"}) for i in range(8)]
    whole, rng, told = "\n".join(lines).encode(), np.random.default_rng(2), Counter()
    for _ in range(ROUNDS):
        content = damage(whole, rng)
        (tmp_path / "t.jsonl").write_bytes(content)
        with no_hang():
            rows = []
            try:
                rows += open_corpus(str(tmp_path / "t.jsonl")).rows()
            except ValueError as error:  # no line at all has the columns
                assert re.search("column|by URL", str(error)), error
                continue
        filled = [line for line in io.BytesIO(content) if line.strip()]
        assert len(rows) == len(filled)
        told += Counter(type(row).__name__ for row in rows)
    assert told["Record"] > told["Skip"] > 0


@pytest.mark.parametrize("to", ["array_record"])
def test_conversion_of_broken_tars_counts_every_row(tmp_path, to):
    rng = np.random.default_rng(3)
    whole = write_tar(tmp_path / "whole.tar").read_bytes()
    (tmp_path / "whole.tar").unlink()
    for number in range(10):
        (tmp_path / f"in{number}.tar").write_bytes(damage(whole, rng))
    corpus = open_corpus(str(tmp_path / "*.tar"))
    manifest = convert(corpus, str(tmp_path / "out"), to, max_lost=1.0)
    rows = sum(len(list(shard.rows())) for shard in corpus.shards)
    assert manifest["records"] + sum(manifest["lost"].values()) == rows
    assert len(list(open_corpus(str(tmp_path / "out")).rows())) == manifest["records"] > 0
