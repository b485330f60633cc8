"""benchmarks/speed.py: its two sides answer for the same rows, and neither loads the other."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(*args: str) -> str:
    command = [sys.executable, *args]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=BENCHMARKS
    ).stdout


@pytest.mark.parametrize(("side", "other"), [("ours", "torch"), ("theirs", "jax")])
def test_a_side_has_every_row_and_not_the_others_packages(side: str, other: str) -> None:
    rows = f"sorted({side}.CALLS) == sorted(speed.ROWS)"
    told = run("-c", f"import sys, speed, {side}; print({other!r} in sys.modules, {rows})")
    assert told.split() == ["False", "True"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read from /proc")
def test_memory_of_one_side_alone() -> None:
    peak = run("speed.py", "caption_greedy", "--only=ours", "--size=tiny", "--image_size=32")
    assert 0.05 < float(peak) < 8
