"""Which samples a run has read: `samples.jsonl`, by which two runs can be seen to be one."""

import zlib
from pathlib import Path

import numpy as np

from blip_jax.train import journal

FILE = "samples.jsonl"


class SampleLog:
    """A line a step with the CRC-32 of the uids that this process read, where enabled."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._path, self._enabled = folder / FILE, enabled

    def write(self, step: int, uid_hash: np.ndarray) -> None:
        """Notes the batch of a step; uid_hash uint32 [B], in the order of its rows."""
        if self._enabled:
            checksum = zlib.crc32(uid_hash.tobytes())
            journal.append(self._path, {"step": step, "uids": f"{checksum:08x}"})
