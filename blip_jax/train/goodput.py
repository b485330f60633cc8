"""Where the time of a run went, over all its launches: `goodput.jsonl` and its sum.

A launch writes one line when it starts and one at every report. The words are those of Google's
ml-goodput-measurement: productive time is that of steps whose result was kept.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip_jax.data import storage
from blip_jax.train import journal

FILE = "goodput.jsonl"


class Goodput:
    """Sorts the seconds of one launch by what they were spent on.

    What is not measured between two reports is the steps' own.
    """

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._path, self._enabled = folder / FILE, enabled
        self._spent: dict[str, float] = defaultdict(float)
        self._since = time.time()
        self._write({"start": self._since})

    @contextlib.contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Counts the seconds of a block under "setup", "restore", "compile", "data" or
        "checkpoint"."""
        started = time.time()
        try:
            yield
        finally:
            self._spent[what] += time.time() - started

    def report(self, step: int) -> None:
        """Writes what the time since the last report went to; `step` steps are done."""
        now = time.time()
        rest = now - self._since - sum(self._spent.values())
        seconds = {**self._spent, "step": max(rest, 0.0)}
        self._write({"end": now, "step": step, "seconds": seconds})
        self._since = now
        self._spent.clear()

    def _write(self, row: dict[str, Any]) -> None:
        if self._enabled:
            journal.append(self._path, row)


def read_goodput(folder: Path | str) -> list[list[dict[str, Any]]]:
    """The rows of each launch of a run, on disk or in a bucket.

    Raises:
      FileNotFoundError: the folder has no record.
    """
    path = storage.join(folder, FILE)
    if not storage.exists(path):
        raise FileNotFoundError(f"{path} does not exist: nothing was trained in that folder")
    launches: list[list[dict[str, Any]]] = []
    for row in journal.read(path):
        if "start" in row:
            launches.append([])
        launches[-1].append(row)
    return launches


def goodput(launches: list[list[dict[str, Any]]]) -> dict[str, float]:
    """Seconds by purpose over all launches, from the first start to the last report.

    "step" counts steps that were kept and "lost" those that a later launch did again. "down" is
    the time from a launch's last report to the next launch; of a launch that was killed it holds
    what came after that report.
    """
    total: dict[str, float] = defaultdict(float)
    for number, launch in enumerate(launches):
        # A launch that died before its first report says nothing of what it took up.
        later = [each[1]["step"] for each in launches[number + 1 :] if len(each) > 1]
        redone = min(later, default=None)
        for row in launch[1:]:
            lost = redone is not None and row["step"] > redone
            for what, value in row["seconds"].items():
                total["lost" if lost and what == "step" else what] += value
        if number + 1 < len(launches):
            ended = launch[-1].get("end", launch[-1].get("start"))
            total["down"] += max(launches[number + 1][0]["start"] - ended, 0.0)
    return dict(total)


def table(seconds: dict[str, float]) -> str:
    """Seconds and shares, largest first, and the goodput."""
    whole = sum(seconds.values()) or 1.0
    lines = [
        f"{name:<12}{value:>12.1f} s{100 * value / whole:>8.1f} %"
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return "\n".join([*lines, f"{'goodput':<12}{100 * seconds.get('step', 0.0) / whole:>23.1f} %"])
