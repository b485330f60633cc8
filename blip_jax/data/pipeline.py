"""Batches of rows: shuffled and endless for training, in order for evaluation."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import grain
import numpy as np
from absl import flags

from blip_jax.data.examples import Example, Examples, Reader, Skips
from blip_jax.data.images import ImageError, open_image, resize_square, to_array
from blip_jax.data.mixture import Source, mixture

log = logging.getLogger(__name__)

# More threads than cores only fight over the interpreter.
THREADS = min(16, os.cpu_count() or 1)
_SKIPPED = "skipped"  # rides in a batch from its worker to `_receive`

Batch = dict[str, Any]


def train_dataset(
    data: Sequence[Any] | Sequence[Source],
    reader: Reader,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = THREADS,
    workers: int = 0,
    skips: Skips | None = None,
) -> grain.IterDataset:
    """Endless batches of this process's rows, freshly shuffled every epoch.

    The order and the augmentation of the whole stream depend on `seed` alone; process p reads
    the p-th of process_count equal parts of every batch, so that the whole batch is the same
    for any number of them. The iterator's get_state and set_state resume the stream exactly. A
    row whose picture cannot be read is left out, counted in `skips` and logged once.

    Args:
      data: rows, or sources that are mixed.
      reader: what makes an example of a row.
      batch_size: rows of the batch over all processes; each gets batch_size / process_count.
      seed: 0 to 2**32 - 1.
      threads: that decode images; 0 decodes in the caller's, fastest for tiny images.
      workers: processes that load in the place of threads, for hosts whose cores one
        interpreter cannot fill. A batch holds the rows of one worker, so another number of
        them batches the same rows in another way.

    Returns:
      A dataset of dicts: the reader's arrays, stacked to [B, ...] with B = batch_size /
      process_count, and uid_hash uint32 [B], which names the rows.

    Raises:
      ValueError: fewer records than batch_size, or batch_size that the processes cannot share;
        while iterating, if more than half of the images cannot be read.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below {process_count}.")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be shared equally by {process_count} processes."
        )
    mixed = len(data) > 0 and isinstance(data[0], Source)
    sources = cast(list[Source], list(data) if mixed else [Source(cast(Sequence[Any], data))])
    total = sum(len(source.records) for source in sources)
    if total < batch_size:
        raise ValueError(f"{total} records cannot fill one batch of {batch_size}.")
    skips = Skips() if skips is None else skips
    local_size = batch_size // process_count
    examples = Examples(reader, skips, total)
    # Slicing the endless stream, not the records, keeps processes in the same epoch.
    rows = mixture(sources, seed).seed(seed).random_map(examples)
    rows = _Share(rows, local_size, process_index, process_count)
    threads = 0 if workers else threads
    read_options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, 2 * local_size)
    )
    batches = rows.to_iter_dataset(read_options).batch(
        local_size, drop_remainder=True, batch_fn=_collator(skips)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers ask for its flags
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_start_worker
        )
    return batches.map(partial(_receive, skips=skips))


class _Share(grain.MapDataset):
    """Of every `count` blocks of `rows` rows the one with number `index`."""

    def __init__(self, parent: grain.MapDataset, rows: int, index: int, count: int):
        super().__init__(parent)
        self._rows, self._index, self._count = rows, index, count

    def __len__(self) -> int:
        return len(self._parent) // self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        block, row = divmod(index, self._rows)
        return self._parent[(block * self._count + self._index) * self._rows + row]


def _start_worker(index: int, count: int) -> None:
    # Grain itself imports jax, for its trees; no worker may take a part of the accelerator.
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_platforms", "cpu")


def _receive(batch: Batch, skips: Skips) -> Batch:
    """Counts here what another process could not use."""
    for reason, uid in batch.pop(_SKIPPED):
        skips.add(reason, uid)
    return batch


class Pictured(Protocol):
    """A row with one image."""

    @property
    def uid(self) -> str: ...
    @property
    def image(self) -> Path | str | bytes: ...


Row = TypeVar("Row", bound=Pictured)


def image_batches(
    records: Sequence[Row], size: int, batch_size: int, multiple: int = 1
) -> Iterator[tuple[np.ndarray, list[str], list[Row]]]:
    """Every record's image once, in order, squashed to size x size, never augmented.

    Args:
      batch_size: B, less where there are fewer records, but a multiple of `multiple`.

    Yields:
      Pixels uint8 [B, S, S, 3], of which the last batch repeats its last row to stay B long;
      "ok" or why the image could not be read (it is black then), one for each real row; and the
      record of every row, repeated ones included.
    """
    batch_size = min(batch_size, -(-len(records) // multiple) * multiple)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(records), batch_size):
            chosen = list(records[start : start + batch_size])
            rows = list(pool.map(partial(_read_square, size=size), chosen))
            padding = batch_size - len(rows)
            pixels = [image for image, _ in rows] + [rows[-1][0]] * padding
            yield np.stack(pixels), [s for _, s in rows], chosen + chosen[-1:] * padding


def _read_square(record: Pictured, size: int) -> tuple[np.ndarray, str]:
    try:
        return to_array(resize_square(open_image(record.image), size)), "ok"
    except ImageError as error:
        log.warning("%s skipped: %s", record.uid, error)
        return np.zeros((size, size, 3), np.uint8), str(error)


def _collator(skips: Skips) -> Callable[[Sequence[Example]], Batch]:
    def collate(examples: Sequence[Example]) -> Batch:
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        return batch | {_SKIPPED: skips.hand_over()}

    return collate
