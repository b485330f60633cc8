"""JSON lines that a run appends to, and that a kill may cut at any byte."""

import json
from pathlib import Path
from typing import Any

from blip_jax.data import storage


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds one line, which a line cut short before it does not take with it."""
    with path.open("a") as file:
        file.write("\n" + json.dumps(row) + "\n")


def read(path: Path | str) -> list[dict[str, Any]]:
    """The lines that are whole, of a file on disk or in a bucket; none where there is no file."""
    if not storage.exists(path):
        return []
    with storage.open_binary(path) as file:
        lines = file.read().decode().splitlines()
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def by_step(path: Path | str) -> list[dict[str, Any]]:
    """The lines in order of their step; a step run twice (killed, resumed) counts once."""
    rows = {row["step"]: row for row in read(path)}
    return [rows[step] for step in sorted(rows)]
