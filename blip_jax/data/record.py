"""One image with its texts, or the reason why there is none; and the account of both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blip_jax.data import storage

log = logging.getLogger(__name__)

MAX_LOST = 0.1
_EXAMPLES = 5
# A share of fewer rows than this says nothing about the rest.
_ROWS_BEFORE_JUDGING = 1000


@dataclass(frozen=True)
class Record:
    """One image and its texts.

    Attributes:
      uid: names the record, the same in every run: the data's own `uid`, else its place.
      image: where the image is (a path or a bucket's address), or its encoded bytes.
      captions: web or human texts as written, none empty once cleaned. At least one, unless
        `synthetic` has one.
      image_id: the same for all records of one image.
      extra: what else was there.
      synthetic: texts a model wrote (`syn_text`).
      source: the data set it belongs to.
    """

    uid: str
    image: Path | str | bytes
    captions: tuple[str, ...]
    image_id: str
    extra: dict = field(default_factory=dict)
    synthetic: tuple[str, ...] = ()
    source: str = ""

    def image_bytes(self) -> bytes:
        """The encoded image, read when asked for.

        Raises:
          OSError: it cannot be read.
        """
        if isinstance(self.image, bytes):
            return self.image
        with storage.open_binary(self.image) as file:
            return file.read()


@dataclass(frozen=True)
class Skip:
    """A row that gives no record.

    Attributes:
      uid: its name, as a record's.
      reason: one word to count by.
      detail: a sentence.
      extra: the row's fields, where it had any.
    """

    uid: str
    reason: str
    detail: str
    extra: dict = field(default_factory=dict)


class Account:
    """What was kept and what was lost, and the budget for the loss.

    Attributes:
      name: of the data, for messages.
      kept: records so far.
      skipped: rows left out, by reason.
      examples: one sentence for each of the first few rows left out.
    """

    def __init__(self, name: str, max_lost: float = MAX_LOST):
        self.name, self.max_lost = name, max_lost
        self.kept = 0
        self.skipped: Counter[str] = Counter()
        self.examples: list[str] = []

    def records(self, rows: Iterable[Record | Skip]) -> Iterator[Record]:
        """The records of a stream, with every skip counted.

        Raises:
          ValueError: more than `max_lost` of the rows were lost, at the latest at the end.
        """
        for row in rows:
            if isinstance(row, Record):
                self.kept += 1
                yield row
            else:
                self.add(row)
                if self.kept + self.skipped.total() >= _ROWS_BEFORE_JUDGING:
                    self.judge()
        self.judge()

    def add(self, skip: Skip) -> None:
        """Counts a skip."""
        self.skipped[skip.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(skip.detail)

    def judge(self) -> None:
        """Raises ValueError if nothing was kept, or more was lost than the budget allows."""
        lost = self.skipped.total()
        if self.kept == 0 or lost > self.max_lost * (lost + self.kept):
            first = f"; first: {self.examples[0]}" if self.examples else ""
            raise ValueError(
                f"{self.name}: {lost} of {lost + self.kept} rows cannot be used "
                f"({self.reasons or 'the list is empty'}), "
                f"more than the {self.max_lost:.0%} allowed{first}"
            )

    @property
    def reasons(self) -> str:
        """'3 missing_image, 1 empty_caption'."""
        return ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())

    def tell(self) -> None:
        """Logs one line."""
        lost = self.skipped.total()
        reasons = self.reasons or "none"
        log.info("%s: %d rows kept, %d skipped (%s)", self.name, self.kept, lost, reasons)
