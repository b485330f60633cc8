"""Pre-training starts from a pretrained ViT and a pretrained BERT (paper section 4.1)."""

from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from safetensors import SafetensorError, safe_open

from blip_jax.interop.archive import open_archive
from blip_jax.interop.names import EMBEDDINGS, MLP, SELF_ATTENTION, Reader, State, to_torch
from blip_jax.interop.torch_file import read_torch
from blip_jax.models.blip import Params
from blip_jax.models.vit import resize_positions

# (Google's, timm's) parts of a ViT's names, as in the original's `_load_weights`.
_GOOGLE = (
    ("cls", "cls_token"),
    ("embedding/", "patch_embed/proj/"),
    ("Transformer/posembed_input/pos_embedding", "pos_embed"),
    ("Transformer/encoder_norm/", "norm/"),
    ("Transformer/encoderblock_", "blocks/"),
    ("/LayerNorm_0/", "/norm1/"),
    ("/LayerNorm_2/", "/norm2/"),
    ("/MultiHeadDotProductAttention_1/out/", "/attn/proj/"),
    ("/MultiHeadDotProductAttention_1/", "/attn/"),
    ("/MlpBlock_3/Dense_0/", "/mlp/fc1/"),
    ("/MlpBlock_3/Dense_1/", "/mlp/fc2/"),
    ("/scale", "/weight"),
    ("/kernel", "/weight"),
)


def read_tensors(path: str | Path) -> State:
    """A flat dict of tensors from .npz, .safetensors or .pth.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is damaged, or of another kind; it is named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        content = read_torch(path)
        state = content.get("model", content) if isinstance(content, dict) else None
        if not is_state(state):
            raise ValueError(f"{path} holds no state dict, neither at its top nor under 'model'")
        return state
    raise ValueError(f"{path}: expected a .npz, .safetensors, .pth, .pt or .bin file")


def is_state(value: Any) -> TypeGuard[State]:
    """Whether it is a dict of named arrays."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(leaf, np.ndarray) for name, leaf in value.items()
    )


def read_safetensors(path: Path) -> State:
    """The tensors of a .safetensors; the file is mapped anew for each, and so never twice there."""
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
        return {name: read_one(path, name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def read_one(path: Path, name: str) -> np.ndarray:
    with safe_open(path, "numpy") as file:
        return file.get_tensor(name)


def read_npz(path: Path) -> State:
    """The arrays of a .npz; nothing pickled."""
    with open_archive(path, ".npz file", ratio=20):  # weights hardly pack
        return dict(np.load(path, allow_pickle=False))


def initialise(params: Params, vision: str, text: str) -> Params:
    """`params` with the towers that the files hold; "" keeps a tower as it is.

    Raises:
      ValueError: a tensor is missing or does not fit; the file, its tensor's place and both
        shapes are named.
    """
    params = dict(params)
    if vision:
        state = with_timm_names(read_tensors(vision))
        params["vision"] = vision_from_timm(state, params["vision"], vision)
    if text:
        params["text"] = text_from_bert(read_tensors(text), params["text"], text)
    return params


def vision_from_timm(state: State, like: Params, source: str = "the ViT") -> Params:
    """A ViT in timm's names (DeiT's too); the classifier is ignored, positions are resized."""
    tree = named(source, lambda: Reader(state).vision(""))
    side = round((like["positions"].shape[1] - 1) ** 0.5)
    tree["positions"] = np.asarray(resize_positions(tree["positions"], (side, side)))
    check_shapes(tree, like, source)
    return tree


def with_timm_names(state: State) -> State:
    """Google's ViT, as its .npz files hold it, in timm's names; any other state as it is.

    There `query`, `key` and `value` have kernels [D, H, D/H], `out` [H, D/H, D], the convolution
    [P, P, 3, D] and every other map [in, out], which is our layout but for the heads.
    """
    state = {name.removeprefix("opt/target/"): value for name, value in state.items()}
    if "embedding/kernel" not in state:
        return state
    renamed = {}
    for name, value in state.items():
        if "/MultiHeadDotProductAttention_1/" in name:
            value = merged_heads(name, value)
        if name.endswith("/kernel"):
            value = to_torch(name, value)
        for theirs, timm in _GOOGLE:
            name = name.replace(theirs, timm)
        renamed[name.replace("/", ".")] = value
    return renamed


def merged_heads(name: str, value: np.ndarray) -> np.ndarray:
    """Heads and their width as one dimension."""
    if name.endswith("out/bias"):
        return value
    if name.endswith("out/kernel"):
        return value.reshape(-1, value.shape[-1])
    return value.reshape(*value.shape[:-2], -1)


def text_from_bert(state: State, like: Params, source: str = "the BERT") -> Params:
    """A BERT in Hugging Face's names; both self-attentions start from its one.

    As in the original, token types are dropped and cross-attention and LM head stay random. Rows
    of the vocabulary, positions beyond BERT's, and layers beyond the model's depth keep `like`'s
    values or are left out; the model may have fewer layers than BERT, not more.
    """
    state = {name.removeprefix("bert."): value for name, value in state.items()}
    reader = Reader(state)
    embeddings = named(source, lambda: reader.tree(EMBEDDINGS, "embeddings."))
    blocks = named(source, lambda: reader.layers((*SELF_ATTENTION, *MLP), "encoder.layer."))
    depth = like["blocks"]["mlp"]["up"]["bias"].shape[0]
    blocks = first_layers(blocks, depth)
    for name in ("word", "position"):
        embeddings[name] = overlaid(embeddings[name], like["embeddings"][name])
    own = {"encoder_attention", "decoder_attention", "attention"} & set(like["blocks"])
    grown = dict(like["blocks"]) | {"mlp": blocks["mlp"]}
    grown |= {name: blocks["attention"] for name in own}
    tree = dict(like) | {"embeddings": embeddings, "blocks": grown}
    check_shapes(tree, like, source)
    return tree


def first_layers(tree: Params, depth: int) -> Params:
    """The first `depth` entries of every stacked leaf."""
    return {
        k: first_layers(v, depth) if isinstance(v, dict) else v[:depth] for k, v in tree.items()
    }


def overlaid(source: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`like` with the rows that `source` has; width must agree, checked later."""
    if source.shape[1:] != like.shape[1:]:
        return source
    rows = min(len(source), len(like))
    return np.concatenate([source[:rows], like[rows:]])


def named(source: str, read: Any) -> Params:
    """Runs `read`, putting the file's name before what it complains of."""
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_shapes(tree: Params, like: Params, source: str, path: str = "") -> None:
    """Raises ValueError that names every leaf that does not fit."""
    wrong = list(mismatches(tree, like, path))
    if wrong:
        raise ValueError(f"{source} does not fit the model: {'; '.join(wrong)}")


def mismatches(tree: Params, like: Params, path: str) -> Any:
    for name in sorted(tree.keys() | like.keys()):
        here = f"{path}{name}"
        if name not in tree or name not in like:
            yield f"{here} is missing on one side"
        elif isinstance(like[name], dict):
            yield from mismatches(tree[name], like[name], f"{here}/")
        elif tree[name].shape != like[name].shape:
            yield f"{here} is {tree[name].shape}, expected {like[name].shape}"
