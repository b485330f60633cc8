"""The word embedding with and without the rows that pad it (`TextConfig.vocab_multiple`)."""

import re
from typing import Any

import jax
import jax.numpy as jnp

_WORDS = re.compile(r"(embeddings/word|lm_head/bias)$")


def with_rows(tree: Any, rows: int) -> Any:
    """A tree of parameters (or a teacher's) whose words have `rows` rows: zeros are added, or
    padding is cut off."""

    def resize(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not _WORDS.search(name) or len(value) == rows:
            return value
        more = max(rows - len(value), 0)
        return jnp.pad(value[:rows], ((0, more), *((0, 0),) * (value.ndim - 1)))

    return jax.tree_util.tree_map_with_path(resize, tree)
