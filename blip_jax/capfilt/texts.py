"""From a run's scores to flat arrays, shard by shard: some 30 bytes a text stay in memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blip_jax.capfilt import nouns
from blip_jax.capfilt.rule import Texts
from blip_jax.capfilt.scored import ScoredRun
from blip_jax.files import Progress, silent

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("uid", "source", "image_sha256", "texts")
COMBINED = {"mean": np.mean, "min": np.min}


def read_texts(
    runs: Sequence[ScoredRun],
    *,
    combine: str = "mean",
    with_nouns: bool = False,
    progress: Progress = silent,
) -> tuple[Texts, list[int]]:
    """The texts of a run, or of several filters' runs over the same texts.

    Args:
      combine: what is made of several runs' scores of a text, "mean" or "min".
      with_nouns: find `support`, which takes the longest; else it is 1.

    Returns:
      The texts, and each shard's number of texts.

    Raises:
      ValueError: a damaged file, or runs that do not hold the same texts.
    """
    first, *others = runs
    for other in others:
        if other.names != first.names:
            raise ValueError(f"{other.place} and {first.place} have not finished the same shards.")
    parts, sources = [], dict[str, int]()
    images = 0
    for number, name in enumerate(first.names):
        tables = [run.table(name, COLUMNS) for run in runs]
        part = read_shard(name, tables, images, sources, combine, with_nouns)
        if part is None:
            raise ValueError(f"{name}: the runs hold other texts; expected the same captions.")
        parts.append(part)
        images += tables[0].num_rows
        progress(number + 1, len(first.names))
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Texts(**whole, sources=tuple(sources)), [len(part["image"]) for part in parts]


def read_shard(
    name: str,
    tables: Sequence[pa.Table],
    start: int,
    sources: dict[str, int],
    combine: str = "mean",
    with_nouns: bool = False,
) -> dict[str, np.ndarray] | None:
    """The fields of `Texts` for a shard whose first image has the number `start`.

    `sources` numbers the names of sources, and learns new ones. None where the tables differ in
    their rows or texts.
    """
    import pyarrow.compute as pc

    owner, flat = flatten(tables[0])
    text = pc.struct_field(flat, "text")
    scores = [flat]
    for other in tables[1:]:
        other_owner, other_flat = flatten(other)
        same = other["uid"].equals(tables[0]["uid"]) and np.array_equal(owner, other_owner)
        if not same or not pc.struct_field(other_flat, "text").equals(text):
            return None
        scores.append(other_flat)
    column = tables[0]["source"].combine_chunks().dictionary_encode()
    numbers = [sources.setdefault(str(s), len(sources)) for s in column.dictionary.to_pylist()]
    source = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return {
        "image": owner + start,
        "synthetic": is_synthetic(flat),
        **{key: combined([floats(s, key) for s in scores], combine) for key in ("itm", "itc")},
        "words": count_words(text),
        "support": nouns.support(text, owner) if with_nouns else np.ones(len(text), np.float32),
        "draw": rng.random(len(text), np.float32),
        "source": np.array(numbers or [0], np.int32)[source],
        "content": hex_words(tables[0]["image_sha256"])[:, 0],
    }


def flatten(table: pa.Table) -> tuple[np.ndarray, pa.StructArray]:
    """Column `texts` without its lists: int64 [N] the row that each text is of, and the texts."""
    import pyarrow.compute as pc

    lists = table["texts"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths), pc.list_flatten(lists)


def is_synthetic(flat: pa.StructArray) -> np.ndarray:
    """bool [N]: texts that the captioner wrote."""
    import pyarrow.compute as pc

    return pc.equal(pc.struct_field(flat, "origin"), "synthetic").to_numpy(zero_copy_only=False)


def floats(flat: pa.StructArray, field: str) -> np.ndarray:
    """float32 [N] of a field; NaN for null."""
    import pyarrow.compute as pc

    values = pc.struct_field(flat, field).cast("float32")
    return pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False)


def combined(scores: Sequence[np.ndarray], how: str) -> np.ndarray:
    """The scores of several filters [N] as one; the score itself where there is one filter."""
    if len(scores) == 1:
        return scores[0]
    make: Any = COMBINED[how]
    return make(np.stack(scores), axis=0).astype(np.float32)


def count_words(texts: pa.StringArray) -> np.ndarray:
    """int32 [N]: runs of characters that are no blanks."""
    import pyarrow.compute as pc

    counted = pc.count_substring_regex(texts, pattern=r"\S+")
    return pc.fill_null(counted, 0).to_numpy(zero_copy_only=False)


def hex_words(column: pa.ChunkedArray) -> np.ndarray:
    """uint64 [R, 2] of the first 32 hexadecimal digits of strings; zeros for all else."""
    import pyarrow.compute as pc

    digits = pc.utf8_lower(pc.utf8_slice_codeunits(pc.fill_null(column, ""), 0, 32))
    whole = pc.match_substring_regex(digits, pattern="^[0-9a-f]{32}$")
    digits = pc.if_else(whole, digits, "0" * 32).combine_chunks()
    packed = np.array(digits.cast("binary").to_numpy(zero_copy_only=False), dtype="S32")
    code = packed.view(np.uint8).reshape(-1, 32)
    nibble = np.where(code >= ord("a"), code - ord("a") + 10, code - ord("0")).astype(np.uint8)
    octets = np.ascontiguousarray(nibble[:, ::2] << 4 | nibble[:, 1::2])
    return octets.view(">u8").astype(np.uint64)
