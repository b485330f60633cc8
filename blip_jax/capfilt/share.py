"""Which process does which shards: every N-th of them, or whichever are free."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from blip_jax.data.formats.shard import Shard

# Of schedulers that number their processes: variables with the number, the first number and how
# many there are. Kubernetes does not tell the last; `auto/N` does.
_SCHEDULERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    ("JOB_COMPLETION_INDEX", None, None),
    ("SKYPILOT_JOB_RANK", None, "SKYPILOT_NUM_JOBS"),
)


def share(asked: str, environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """`i/N`, or `auto` and `auto/N`, which ask the scheduler -> (i, N).

    Raises:
      ValueError: not of this form, or no scheduler tells.
    """
    if found := re.fullmatch(r"(\d+)/(\d+)", asked):
        index, count = map(int, found.groups())
    elif found := re.fullmatch(r"auto(?:/(\d+))?", asked):
        index, count = _scheduled(found[1], environ)
    else:
        raise ValueError(f"--shard {asked}: expected i/N, such as 0/8, or auto, or auto/N")
    if not 0 <= index < count:
        raise ValueError(f"--shard {asked}: {index} is not below {count}")
    return index, count


def _scheduled(count: str | None, environ: Mapping[str, str]) -> tuple[int, int]:
    for number, first, total in _SCHEDULERS:
        if number in environ:
            told = count or environ.get(total or "")
            if told is None:
                raise ValueError(f"--shard auto: {number} is set, but not how many; give auto/N")
            return int(environ[number]) - int(environ.get(first or "", 0)), int(told)
    names = ", ".join(number for number, _, _ in _SCHEDULERS)
    raise ValueError(f"--shard auto: none of {names} is set")


class Leases:
    """Lock files by which processes that know nothing of each other share shards.

    A lease is held as long as its file is touched; one that was not for `seconds` is free. Should
    two processes hold the same shard, as when one of them was stopped for longer, both write the
    same. The clocks of the machines should agree to within a few seconds.
    """

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self._held: set[Path] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._touch, daemon=True)

    def __enter__(self) -> Leases:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        for path in list(self._held):
            self._release(path)

    def claim(
        self, shards: Sequence[Shard], done: Callable[[Shard], bool], stop: Callable[[], None]
    ) -> Iterator[Shard]:
        """Shards that are neither done nor another's, until all are done; `stop` may raise."""
        left = list(shards)
        while left:
            others = []
            for shard in left:
                if done(shard):
                    self.give(shard)
                elif not self.take(shard):
                    others.append(shard)
                elif done(shard):  # since we looked
                    self.give(shard)
                else:
                    yield shard
            left = others
            stop()
            if left:
                self._closed.wait(min(1.0, self.seconds / 10))

    def take(self, shard: Shard) -> bool:
        """Whether the shard is now this process's."""
        path = self._path(shard)
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > self.seconds:
                path.unlink(missing_ok=True)
        try:
            with path.open("x") as file:
                json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        except FileExistsError:
            return False
        self._held.add(path)
        return True

    def give(self, shard: Shard) -> None:
        """Gives back what `take` took; does nothing to another's."""
        path = self._path(shard)
        if path in self._held:
            self._release(path)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.name}.json"

    def _release(self, path: Path) -> None:
        self._held.discard(path)
        path.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._closed.wait(self.seconds / 4):
            for path in list(self._held):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path)
