"""Parts of an annotation list that share no image, sentence or other thing."""

from collections.abc import Sequence
from typing import Any

from blip_jax.data.examples import hashed


def split(
    rows: Sequence[dict[str, Any]], by: str, share: float, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows that stay, and about `share` of them held out; those of one `by` are on one side.

    A row's side follows from its value and the seed alone, so that it is the same in every list.

    Raises:
      ValueError: a share that is not between 0 and 1, a row without `by`, or an empty side.
    """
    if not 0 < share < 1:
        raise ValueError(f"--share is {share}; expected more than 0 and less than 1")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or by not in row:
            raise ValueError(f'row {number} has no field "{by}" to split by')
    sides: tuple[list, list] = ([], [])
    for row in rows:
        sides[hashed(f"{seed}/{row[by]}") < share * 2**32].append(row)
    if not all(sides):
        values = len({str(row[by]) for row in rows})
        raise ValueError(f'{len(rows)} rows with {values} values of "{by}" leave a side empty')
    return sides
