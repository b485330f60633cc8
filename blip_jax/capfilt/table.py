"""The scores of a shard as parquet: a row for every row that went in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_jax.capfilt.read import Row, Text

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("uid", "key", "row", "source", "status", "detail", "image_sha256", "width", "height")


def text_type() -> pa.DataType:
    """A text with its scores."""
    import pyarrow as pa

    return pa.struct(
        [
            ("text", pa.string()),
            ("origin", pa.string()),
            ("method", pa.string()),
            ("log_prob", pa.float32()),
            ("itm", pa.float32()),
            ("itc", pa.float32()),
            ("keep", pa.bool_()),
        ]
    )


def schema() -> pa.Schema:
    """Columns of `scores/NAME.parquet`."""
    import pyarrow as pa

    types = {"row": pa.int64(), "width": pa.int32(), "height": pa.int32()}
    fields = [(name, types.get(name, pa.string())) for name in COLUMNS]
    return pa.schema([*fields, ("texts", pa.list_(text_type()))])


def write_scores(path: Path, rows: Sequence[Row], threshold: float) -> None:
    """Writes the rows, in order."""
    import pyarrow as pa
    from pyarrow import parquet

    lines = [
        {name: getattr(row, name, number) for name in COLUMNS} | {"texts": told(row, threshold)}
        for number, row in enumerate(rows)
    ]
    parquet.write_table(pa.Table.from_pylist(lines, schema()), path)


def told(row: Row, threshold: float) -> list[dict[str, Any]]:
    """A row's texts as plain values."""
    return [tell(text, threshold) for text in row.texts]


def tell(text: Text, threshold: float) -> dict[str, Any]:
    """A text as plain values."""
    return {
        "text": text.text,
        "origin": text.origin,
        "method": text.method,
        "log_prob": text.log_prob,
        "itm": text.itm,
        "itc": text.itc,
        "keep": text.kept(threshold),
    }
