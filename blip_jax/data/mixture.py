"""Several sources in one endless stream of records, each shuffled over all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

from blip_jax.data.record import Record


@dataclass(frozen=True)
class Source:
    """Records and how often they come up.

    Attributes:
      records: with random access: `Records`, `ArrayRecords`, or any sequence.
      weight: share of the stream, relative to the other sources', to a hundredth. By default the
        records of one epoch, so that a record of any source comes up as often as the others.
      parts: an epoch is one of so many parts, in turn; 5 is the paper's fifth of LAION.
    """

    records: Sequence[Record]
    weight: float | None = None
    parts: int = 1

    @property
    def epoch(self) -> float:
        """Records of an epoch."""
        return len(self.records) / self.parts


def mixture(sources: Sequence[Source], seed: int) -> grain.MapDataset:
    """An endless dataset of records, the same for the same seed.

    Every source goes round on its own: each of its records once before any comes twice, in an
    order that is fresh each time. The sources follow each other in fixed proportions.

    Raises:
      ValueError: no records, a weight that is not above 0 or that others lack, or more parts than
        records.
    """
    for source in sources:
        if not 0 < source.parts <= len(source.records):
            raise ValueError(f"{len(source.records)} records cannot make {source.parts} parts.")
        if source.weight is not None and not source.weight > 0:
            raise ValueError(f"a source's weight must be above 0, not {source.weight}.")
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError("a weight is a share: give one to every source, or to none.")
    streams = [_stream(source, [seed, number]) for number, source in enumerate(sources)]
    weights = [s.epoch if s.weight is None else s.weight for s in sources]
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights)


def _stream(source: Source, entropy: list[int]) -> grain.MapDataset:
    seeds = np.random.SeedSequence(entropy).generate_state(source.parts)
    whole = grain.MapDataset.source(source.records)
    parts = [
        whole.slice(slice(number, None, source.parts)).shuffle(seed=int(seed))
        for number, seed in enumerate(seeds)
    ]
    return (parts[0] if len(parts) == 1 else grain.MapDataset.concatenate(parts)).repeat()
