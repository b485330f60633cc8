"""Writing files so that nothing half-written is ever taken for whole, and saying how far one is."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]  # done, total


def silent(done: int, total: int) -> None:
    """The progress of nobody watching."""


def write_text(path: Path, text: str) -> None:
    """Writes a file aside, then renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """A JSON document, written aside and renamed."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON document a line, written aside and renamed."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Inverse of `write_json_lines`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a.b": value}."""
    items: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        items |= inner if inner is not None else {prefix + key: value}
    return items


def differing(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Keys, as `flat` names them, that two nested settings do not agree on."""
    old, new = flat(found), flat(asked)
    return sorted(key for key in old | new if old.get(key) != new.get(key))
