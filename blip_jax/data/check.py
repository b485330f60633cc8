"""What is wrong with a corpus, told before a run meets it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from blip_jax.data.corpus import Corpus
from blip_jax.data.images import ImageError, open_image
from blip_jax.data.record import Record, Skip
from blip_jax.data.text import pre_caption
from blip_jax.files import Progress, silent
from blip_jax.tokenizer import Tokenizer

MAX_WORDS = 30  # of pre_caption; what is beyond is cut
MIN_SIDE, MAX_ASPECT = 64, 5.0
UNBALANCED = 2.0  # a shard with so many times the rows of the median, or so few
_EXAMPLES = 3
_NO_TEXT = re.compile(
    r"https?://|www\.|<[a-z/]|^\S+\.(jpe?g|png|gif|webp)$|^(img|dsc)[_-]?\d", re.IGNORECASE
)


@dataclass
class Findings:
    """Counts of what is wrong, by kind, with the first few places.

    Attributes:
      records: usable ones among the `rows` looked at.
      unit: of `tokens`.
      kinds: count by kind of finding: the reasons of skips, and what was seen in records.
      losses: the kinds that cost a row.
      examples: uids or sentences, by kind.
      tokens: tokens of a caption (words without a tokenizer), special tokens included.
      sides: width and height of each image.
      shards: rows by shard.
      samples: five records' images and captions.
    """

    rows: int = 0
    records: int = 0
    unit: str = "words"
    kinds: Counter[str] = field(default_factory=Counter)
    losses: set[str] = field(default_factory=set)
    examples: dict[str, list[str]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    sides: list[tuple[int, int]] = field(default_factory=list)
    shards: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[Image.Image, str]] = field(default_factory=list)

    def add(self, kind: str, example: str, *, loses: bool = False) -> None:
        """Counts one finding; `loses`: it costs the row."""
        self.kinds[kind] += 1
        if loses:
            self.losses.add(kind)
        found = self.examples.setdefault(kind, [])
        if len(found) < _EXAMPLES:
            found.append(example)

    def severity(self, kind: str, max_lost: float) -> str:
        """ "error" where two records share a name, or more than `max_lost` of the rows are lost."""
        lost = sum(self.kinds[k] for k in self.losses)
        spoils = kind in self.losses and lost > max_lost * self.rows
        return "error" if spoils or kind == "duplicate_uid" else "warning"

    def failed(self, max_lost: float) -> bool:
        """Whether anything is an error, or nothing can be used."""
        return not self.records or any(self.severity(k, max_lost) == "error" for k in self.kinds)

    def facts(self, max_lost: float) -> dict[str, Any]:
        """The same as one JSON object."""
        return {
            "rows": self.rows,
            "records": self.records,
            "shards": len(self.shards),
            f"{self.unit}_per_caption": spread(self.tokens),
            "width": spread([w for w, _ in self.sides]),
            "height": spread([h for _, h in self.sides]),
            "findings": {
                kind: {
                    "count": count,
                    "severity": self.severity(kind, max_lost),
                    "examples": self.examples[kind],
                }
                for kind, count in self.kinds.most_common()
            },
        }


def check(
    corpus: Corpus,
    *,
    limit: int = 0,
    max_words: int = MAX_WORDS,
    tokenizer: Tokenizer | None = None,
    progress: Progress = silent,
) -> Findings:
    """Looks at a corpus, every image decoded.

    Args:
      limit: rows of each shard that are looked at; 0 looks at all.
      max_words: longer captions are told, since they are cut.
      tokenizer: counts tokens; words are counted without one.
    """
    findings = Findings(unit="words" if tokenizer is None else "tokens")
    seen = _Seen()
    for number, shard in enumerate(corpus.shards):
        count = 0
        for row in _first(shard.rows(), limit):
            count += 1
            if isinstance(row, Skip):
                findings.add(row.reason, row.detail, loses=True)
                continue
            _look(row, findings, seen, max_words, tokenizer)
        findings.shards[shard.name] = count
        findings.rows += count
        progress(number + 1, len(corpus.shards))
    _balance(findings)
    return findings


def contact_sheet(samples: Sequence[tuple[Image.Image, str]], width: int = 240) -> Image.Image:
    """Images side by side, as training sees them squashed, each above its caption."""
    sheet = Image.new("RGB", (width * max(len(samples), 1), width + 60), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (image, caption) in enumerate(samples):
        sheet.paste(image.resize((width, width)), (column * width, 0))
        lines = re.findall(r".{1,38}(?:\s|$)|.{38}", caption)[:4]
        draw.multiline_text((column * width + 4, width + 4), "\n".join(lines), fill="black")
    return sheet


def spread(values: Sequence[int]) -> dict[str, float]:
    """Smallest, median, 95th percentile and largest."""
    if not values:
        return {}
    low, middle, high, top = np.percentile(values, [0, 50, 95, 100])
    return {"min": float(low), "median": float(middle), "p95": float(high), "max": float(top)}


class _Seen:
    """Hashes of what has been met. 16 bytes each, so 10 million records take about 2 GB."""

    def __init__(self) -> None:
        self._hashes: set[bytes] = set()

    def again(self, kind: str, value: bytes) -> bool:
        digest = hashlib.blake2b(value, digest_size=16, person=kind.encode()).digest()
        found = digest in self._hashes
        self._hashes.add(digest)
        return found


def _look(
    record: Record,
    findings: Findings,
    seen: _Seen,
    max_words: int,
    tokenizer: Tokenizer | None,
) -> None:
    if seen.again("uid", record.uid.encode()):
        findings.add("duplicate_uid", record.uid)
    for text in record.captions + record.synthetic:
        _look_at_text(record.uid, text, findings, seen, max_words, tokenizer)
    try:
        content = record.image_bytes()
        image = open_image(content)
    except (ImageError, OSError) as error:
        findings.add("unreadable_image", f"{record.uid}: {error}", loses=True)
        return
    findings.records += 1
    # The rows of one image share it rightly.
    known = seen.again("row of image", content + record.image_id.encode())
    if seen.again("image", content) and not known:
        findings.add("duplicate_image", record.uid)
    width, height = image.size
    findings.sides.append(image.size)
    if min(image.size) < MIN_SIDE:
        findings.add("tiny_image", f"{record.uid}: {width}x{height}")
    if max(image.size) > MAX_ASPECT * min(image.size):
        findings.add("extreme_image", f"{record.uid}: {width}x{height}")
    if len(findings.samples) < 5:
        findings.samples.append((image, (record.captions + record.synthetic)[0]))


def _look_at_text(
    uid: str,
    text: str,
    findings: Findings,
    seen: _Seen,
    max_words: int,
    tokenizer: Tokenizer | None,
) -> None:
    clean = pre_caption(text, max_words=10**6)
    words = len(clean.split())
    findings.tokens.append(words if tokenizer is None else tokenizer.count([clean])[0])
    if words > max_words:
        findings.add("long_caption", f"{uid}: {words} words")
    if sum(c.isalpha() for c in text) < len(text) / 2 or _NO_TEXT.search(text):
        findings.add("non_text", f"{uid}: {text[:80]!r}")
    if seen.again("text", clean.encode("utf-8", "replace")):
        findings.add("duplicate_caption", f"{uid}: {clean[:80]!r}")


def _balance(findings: Findings) -> None:
    median = float(np.median(list(findings.shards.values()) or [0]))
    for name, count in findings.shards.items():
        if len(findings.shards) > 1 and not median / UNBALANCED <= count <= median * UNBALANCED:
            findings.add("unbalanced_shard", f"{name}: {count} rows, median {median:.0f}")


def _first(rows: Iterator[Record | Skip], limit: int) -> Iterator[Record | Skip]:
    for number, row in enumerate(rows):
        if limit and number >= limit:
            return
        yield row
