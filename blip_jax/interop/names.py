"""One table a tower: where each tensor of the original lives in the parameter tree."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from blip_jax.models.blip import Params

State = dict[str, np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]


def same(x: np.ndarray) -> np.ndarray:
    return x


def transposed(x: np.ndarray) -> np.ndarray:
    """A linear map's weight, torch [out, in] <-> kernel [in, out]."""
    return x.T


def linear(theirs: str, ours: str) -> Iterator[tuple[str, str, Transform]]:
    yield f"{theirs}.weight", f"{ours}/kernel", transposed
    yield f"{theirs}.bias", f"{ours}/bias", same


def norm(theirs: str, ours: str) -> Iterator[tuple[str, str, Transform]]:
    yield f"{theirs}.weight", f"{ours}/scale", same
    yield f"{theirs}.bias", f"{ours}/bias", same


def bert_attention(theirs: str, ours: str) -> Iterator[tuple[str, str, Transform]]:
    for name in ("query", "key", "value"):
        yield from linear(f"{theirs}.self.{name}", f"{ours}/{name}")
    yield from linear(f"{theirs}.output.dense", f"{ours}/out")
    yield from norm(f"{theirs}.output.LayerNorm", f"{ours}/norm")


# Within one layer: (name of theirs, path of ours, transform of theirs into ours).
SELF_ATTENTION = tuple(bert_attention("attention", "attention"))
CROSS_ATTENTION = tuple(bert_attention("crossattention", "cross_attention"))
MLP = (
    *linear("intermediate.dense", "mlp/up"),
    *linear("output.dense", "mlp/down"),
    *norm("output.LayerNorm", "mlp/norm"),
)
EMBEDDINGS = (
    ("word_embeddings.weight", "word", same),
    ("position_embeddings.weight", "position", same),
    *norm("LayerNorm", "norm"),
)
LM_HEAD = (
    *linear("transform.dense", "transform"),
    *norm("transform.LayerNorm", "norm"),
    ("decoder.bias", "bias", same),
)
VISION_LAYER = (
    *norm("norm1", "attention/norm"),
    *linear("attn.proj", "attention/out"),
    *norm("norm2", "mlp/norm"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
)
VISION = (
    ("cls_token", "class_token", same),
    ("pos_embed", "positions", same),
    ("patch_embed.proj.weight", "patch/kernel", lambda w: w.transpose(2, 3, 1, 0)),
    ("patch_embed.proj.bias", "patch/bias", same),
    *norm("norm", "norm"),
)
HEADS = tuple(
    entry for name in ("vision_proj", "text_proj", "itm_head") for entry in linear(name, name)
)


class Reader:
    """Takes tensors out of a state dict by name, and knows which were never asked for."""

    def __init__(self, state: State) -> None:
        self.state, self.used = state, set[str]()

    def take(self, name: str) -> np.ndarray:
        """One tensor, float32.

        Raises:
          ValueError: there is none of that name.
        """
        if name not in self.state:
            raise ValueError(f"tensor {name} is missing")
        self.used.add(name)
        return np.asarray(self.state[name], np.float32)

    def tree(self, table: Any, prefix: str) -> Params:
        """The tensors of a table under `prefix`."""
        tree: Params = {}
        for theirs, ours, transform in table:
            put(tree, ours, transform(self.take(prefix + theirs)))
        return tree

    def layers(self, table: Any, prefix: str) -> Params:
        """The tensors of a table under `prefix`0., `prefix`1. ..., stacked."""
        numbers = {
            int(name.removeprefix(prefix).split(".")[0])
            for name in self.state
            if name.startswith(prefix)
        }
        if not numbers:
            raise ValueError(f"tensors {prefix}0.* are missing")
        return stack([self.tree(table, f"{prefix}{i}.") for i in range(len(numbers))])

    def vision(self, prefix: str) -> Params:
        """A whole ViT in timm's names; the fused qkv is split into query, key and value."""
        blocks = self.layers(VISION_LAYER, f"{prefix}blocks.")
        depth = blocks["attention"]["out"]["bias"].shape[0]
        parts = [self.query_key_value(f"{prefix}blocks.{i}.attn.qkv") for i in range(depth)]
        blocks["attention"] |= stack(parts)
        return self.tree(VISION, prefix) | {"blocks": blocks}

    def query_key_value(self, name: str) -> Params:
        weights = np.split(self.take(f"{name}.weight"), 3)
        biases = np.split(self.take(f"{name}.bias"), 3)
        return {
            part: {"kernel": w.T, "bias": b}
            for part, w, b in zip(("query", "key", "value"), weights, biases, strict=True)
        }

    def unused(self) -> list[str]:
        """Names nothing asked for."""
        return sorted(set(self.state) - self.used)


def put(tree: Params, path: str, value: np.ndarray) -> None:
    """tree["a"]["b"] = value for the path "a/b"."""
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def stack(trees: list[Params]) -> Params:
    """Like trees -> one tree with a leading axis."""
    first = trees[0]
    return {
        name: stack([tree[name] for tree in trees])
        if isinstance(value, dict)
        else np.stack([tree[name] for tree in trees])
        for name, value in first.items()
    }
