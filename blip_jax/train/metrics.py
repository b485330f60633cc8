"""Metrics on disk: one JSON line a report, and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricWriter:
    """Appends to `metrics.jsonl` and to TensorBoard event files in `folder`, where enabled."""

    def __init__(self, folder: Path, enabled: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        self._board = SummaryWriter(str(folder / "tensorboard")) if enabled else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of one step."""
        if self._board is None:
            return
        with self._path.open("a") as file:
            # A kill may have cut the line before; it must not take this one with it.
            file.write("\n" + json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Flushes what TensorBoard holds back."""
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run in order of step; a step run twice (killed, resumed) counts once."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # empty, or cut by a kill
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]
