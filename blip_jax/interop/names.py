"""One table a module: the names that the original and we give to the same tensor."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from blip_jax.models.blip import Params

State = dict[str, np.ndarray]
Table = tuple[tuple[str, str], ...]  # (name of theirs, path of ours)


def linear(theirs: str, ours: str) -> Table:
    return (f"{theirs}.weight", f"{ours}/kernel"), (f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> Table:
    return (f"{theirs}.weight", f"{ours}/scale"), (f"{theirs}.bias", f"{ours}/bias")


def bert_projections(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for name in ("query", "key", "value"):
        yield from linear(f"{theirs}.{name}", f"{ours}/{name}")


def bert_attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from bert_projections(f"{theirs}.self", ours)
    yield from linear(f"{theirs}.output.dense", f"{ours}/out")
    yield from norm(f"{theirs}.output.LayerNorm", f"{ours}/norm")


def twin_attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for number, side in enumerate(("left", "right")):
        yield from bert_projections(f"{theirs}.self{number}", f"{ours}/{side}")
        yield from linear(f"{theirs}.output.dense{number}", f"{ours}/{side}/out")
    yield from norm(f"{theirs}.output.LayerNorm", f"{ours}/norm")


# Of one text layer.
SELF_ATTENTION: Table = tuple(bert_attention("attention", "attention"))
CROSS_ATTENTION: Table = tuple(bert_attention("crossattention", "cross_attention"))
TWIN_CROSS_ATTENTION: Table = tuple(twin_attention("crossattention", "cross_attention"))
MERGE: Table = linear("crossattention.output.merge_layer", "cross_attention/merge")
MLP: Table = (
    *linear("intermediate.dense", "mlp/up"),
    *linear("output.dense", "mlp/down"),
    *norm("output.LayerNorm", "mlp/norm"),
)
# Of the whole text tower.
EMBEDDINGS: Table = (
    ("word_embeddings.weight", "word"),
    ("position_embeddings.weight", "position"),
    *norm("LayerNorm", "norm"),
)
LM_HEAD: Table = (
    *linear("transform.dense", "transform"),
    *norm("transform.LayerNorm", "norm"),
    ("decoder.bias", "bias"),
)
# Of one ViT layer; the original fuses query, key and value into `attn.qkv`.
VISION_LAYER: Table = (
    *norm("norm1", "attention/norm"),
    *bert_projections("attn", "attention"),
    *linear("attn.proj", "attention/out"),
    *norm("norm2", "mlp/norm"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
)
VISION: Table = (
    ("cls_token", "class_token"),
    ("pos_embed", "positions"),
    *linear("patch_embed.proj", "patch"),
    *norm("norm", "norm"),
)
PROJECTIONS: Table = (*linear("vision_proj", "vision_proj"), *linear("text_proj", "text_proj"))
ITM_HEAD: Table = linear("itm_head", "itm_head")
NLVR_HEAD: Table = (
    *linear("cls_head.0", "nlvr_head/hidden"),
    *linear("cls_head.2", "nlvr_head/out"),
)
TEMPERATURE: Table = (("temp", "temperature"),)


def from_torch(path: str, value: np.ndarray) -> np.ndarray:
    """A weight [out, in, ...] -> kernel [..., in, out]; anything else as it is."""
    if not path.endswith("kernel"):
        return value
    return value.transpose(*range(2, value.ndim), 1, 0)


def to_torch(path: str, value: np.ndarray) -> np.ndarray:
    """Inverse of `from_torch`."""
    if not path.endswith("kernel"):
        return value
    return value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))


def split_fused(state: State) -> State:
    """Every `attn.qkv` as `attn.query`, `attn.key` and `attn.value`; views, not copies."""
    split: State = {}
    for name, value in state.items():
        if ".attn.qkv." not in name:
            split[name] = value
            continue
        for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
            split[name.replace(".qkv.", f".{part}.")] = third
    return split


def fused(state: State, join: Callable[[list[np.ndarray]], np.ndarray] = np.concatenate) -> State:
    """Inverse of `split_fused`."""
    whole: State = {}
    for name, value in state.items():
        if ".attn.query." in name:
            parts = [state[name.replace(".query.", f".{p}.")] for p in ("query", "key", "value")]
            whole[name.replace(".query.", ".qkv.")] = join(parts)
        elif ".attn.key." not in name and ".attn.value." not in name:
            whole[name] = value
    return whole


class Reader:
    """Takes tensors out of a state dict, each once, so that memory is freed on the way."""

    def __init__(self, state: State) -> None:
        self.state = split_fused(state)

    def take(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        """One tensor.

        Raises:
          ValueError: there is none of that name.
        """
        if name not in self.state:
            raise ValueError(f"tensor {name} is missing")
        return np.asarray(self.state.pop(name), dtype)

    def tree(self, table: Table, prefix: str) -> Params:
        """The tensors of a table under `prefix`."""
        tree: Params = {}
        for theirs, ours in table:
            put(tree, ours, from_torch(ours, self.take(prefix + theirs)))
        return tree

    def layers(self, table: Table, prefix: str, first: int = 0) -> Params:
        """The tensors of a table under `prefix`N. for every N from `first` on, stacked."""
        count = sum(number >= first for number in layer_numbers(self.state, prefix))
        if not count:
            raise ValueError(f"tensors {prefix}{first}.* are missing")
        tree: Params = {}
        for theirs, ours in table:
            names = [f"{prefix}{i}.{theirs}" for i in range(first, first + count)]
            put(tree, ours, np.stack([from_torch(ours, self.take(name)) for name in names]))
        return tree

    def vision(self, prefix: str) -> Params:
        """A whole ViT in timm's names."""
        return self.tree(VISION, prefix) | {"blocks": self.layers(VISION_LAYER, f"{prefix}blocks.")}

    def text(self, prefix: str, table: Table) -> Params:
        """Embeddings and layers of a text tower."""
        return {
            "embeddings": self.tree(EMBEDDINGS, f"{prefix}embeddings."),
            "blocks": self.layers(table, f"{prefix}encoder.layer."),
        }


def layer_numbers(names: Iterable[str], prefix: str) -> list[int]:
    """The sorted numbers that follow `prefix` in any of the names."""
    found = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    return sorted(int(number) for number in found if number.isdecimal())


def written(table: Table, tree: Params, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves that a table names, as torch lays them out."""
    for theirs, ours in table:
        yield prefix + theirs, to_torch(ours, leaf(tree, ours))


def written_layers(
    table: Table, tree: Params, prefix: str, first: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """The same of stacked layers, numbered from `first`."""
    for theirs, ours in table:
        for i, value in enumerate(leaf(tree, ours), first):
            yield f"{prefix}{i}.{theirs}", to_torch(ours, value)


def put(tree: Params, path: str, value: np.ndarray) -> None:
    """tree["a"]["b"] = value for the path "a/b"."""
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def leaf(tree: Params, path: str) -> np.ndarray:
    """tree["a"]["b"] for the path "a/b"."""
    for name in path.split("/"):
        tree = tree[name]
    return np.asarray(tree)
