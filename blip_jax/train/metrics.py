"""Metrics on disk: one JSON line a report, and TensorBoard."""

from pathlib import Path

from tensorboardX import SummaryWriter

from blip_jax.train import journal

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends to `metrics.jsonl` and to TensorBoard event files in `folder`, where enabled."""

    def __init__(self, folder: Path, enabled: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._board = SummaryWriter(str(folder / "tensorboard")) if enabled else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of one step."""
        if self._board is None:
            return
        journal.append(self._path, {"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Flushes what TensorBoard holds back."""
        if self._board is not None:
            self._board.close()
