"""Where a run lives: a folder on disk, or a bucket with its small files at hand on disk."""

import hashlib
import logging
import posixpath
import shutil
from pathlib import Path

import jax

from blip_jax.data import storage
from blip_jax.train import goodput, metrics, samples

log = logging.getLogger(__name__)

CACHE = Path.home() / ".cache/blip_jax/runs"
KEPT = ("config.json", metrics.FILE, goodput.FILE, samples.FILE)  # what a launch adds to, or checks
MODEL = "model"
_LAST = "config.json"  # without it a folder is no model, so it is sent when all else is there


class RunFolder:
    """A workdir, and the local folder that stands for it.

    Checkpoints go straight to `checkpoints`. The rest is written under `local`; `publish` sends
    it to a bucket, which only the first process should do.
    """

    def __init__(self, workdir: str) -> None:
        self._bucket = workdir.rstrip("/") if storage.is_remote(workdir) else None
        if self._bucket is None:
            self.local = Path(workdir).absolute()
            self.checkpoints = str(self.local / "checkpoints")
            return
        name = hashlib.sha256(self._bucket.encode()).hexdigest()[:16]
        self.local = CACHE / f"{name}-{jax.process_index()}"
        self.checkpoints = f"{self._bucket}/checkpoints"
        self._sent: dict[Path, tuple[int, int]] = {}
        self._fetch()

    def publish(self) -> None:
        """Sends what is new or has changed since; what cannot be sent now is sent next time."""
        if self._bucket is None:
            return
        files = [path for path in self.local.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == _LAST):
            facts = path.stat().st_mtime_ns, path.stat().st_size
            if self._sent.get(path) != facts:
                target = posixpath.join(self._bucket, path.relative_to(self.local).as_posix())
                try:
                    storage.filesystem(target).put_file(str(path), target)
                except OSError as error:
                    log.warning("%s was not written: %s", target, error)
                    return
                self._sent[path] = facts

    def _fetch(self) -> None:
        """Brings what another launch wrote; what lies here already may be of a lost one."""
        assert self._bucket is not None
        shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            self._get(f"{self._bucket}/{name}", self.local / name)
        model = f"{self._bucket}/{MODEL}"
        if storage.exists(f"{model}/{_LAST}"):
            for address in storage.list_files(model):
                name = address.rsplit(f"/{MODEL}/", 1)[1]
                self._get(address, self.local / MODEL / name)

    def _get(self, address: str, path: Path) -> None:
        if storage.exists(address):
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.filesystem(address).get_file(address, str(path))
