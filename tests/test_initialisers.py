"""Pre-training's start: a pretrained ViT in timm's or in Google's names, a pretrained BERT."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import CONFIG, init_params

from blip_jax.interop.initialisers import initialise
from blip_jax.models.blip import Blip


@pytest.fixture(scope="module")
def start():
    """A small model's parameters, NumPy."""
    return init_params()


def bert(width=32, layers=2, vocab=64, positions=64):
    rng = np.random.default_rng(0)
    state = {
        "embeddings.word_embeddings.weight": (vocab, width),
        "embeddings.position_embeddings.weight": (positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(layers):
        prefix = f"encoder.layer.{i}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            state |= {f"{prefix}{name}.weight": (width, width), f"{prefix}{name}.bias": (width,)}
        for name in ("attention.output.dense", "output.dense", "intermediate.dense"):
            shape = {"output.dense": (width, 64), "intermediate.dense": (64, width)}.get(
                name, (width, width)
            )
            state |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            state |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
    return {f"bert.{k}": rng.normal(size=v).astype(np.float32) for k, v in state.items()}


def test_both_self_attentions_start_from_berts_one(tmp_path, start):
    state = bert(vocab=62)
    save_file(state, tmp_path / "bert.safetensors")
    params = initialise(start, "", str(tmp_path / "bert.safetensors"))
    blocks = params["text"]["blocks"]
    weight = state["bert.encoder.layer.1.attention.self.query.weight"]
    for role in ("encoder_attention", "decoder_attention"):
        np.testing.assert_array_equal(blocks[role]["query"]["kernel"][1], weight.T)
    word = params["text"]["embeddings"]["word"]
    np.testing.assert_array_equal(word[:62], state["bert.embeddings.word_embeddings.weight"])
    np.testing.assert_array_equal(word[62:], start["text"]["embeddings"]["word"][62:])
    kept = blocks["cross_attention"]["query"]["kernel"]
    np.testing.assert_array_equal(
        kept, start["text"]["blocks"]["cross_attention"]["query"]["kernel"]
    )
    assert jax.tree.structure(params) == jax.tree.structure(start)


def test_a_tower_that_does_not_fit_is_refused_with_every_shape(tmp_path, start):
    path = tmp_path / "wide.safetensors"
    save_file(bert(width=48), path)
    with pytest.raises(ValueError, match=r"wide\.safetensors does not fit.*word is \(64, 48\)"):
        initialise(start, "", str(path))
    state = bert()
    del state["bert.encoder.layer.1.output.dense.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.bias is missing"):
        initialise(start, "", str(path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        initialise(start, str(tmp_path / "nowhere.npz"), "")


def test_a_real_vit_fits(shared):
    vision = dataclasses.replace(
        CONFIG.vision, image_size=112, patch_size=16, width=384, depth=12, heads=6, mlp_width=1536
    )
    config = dataclasses.replace(CONFIG, vision=vision)
    params = jax.eval_shape(Blip(config).init, jax.random.key(0))
    path = shared / "vit_small/vit_small_patch16_224.npz"
    tower = initialise(params, str(path), "")["vision"]
    raw = np.load(path)
    qkv = raw["blocks.3.attn.qkv.weight"].astype(np.float32)
    kernel = tower["blocks"]["attention"]["key"]["kernel"][3]
    np.testing.assert_array_equal(kernel, qkv[384:768].T)
    assert tower["positions"].shape == (1, 50, 384)


def timm_vit(config):
    """A random ViT in timm's names."""
    rng = np.random.default_rng(1)
    width, patch = config.width, config.patch_size
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, config.tokens, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(config.depth):
        for name, out, into in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", config.mlp_width, width),
            ("mlp.fc2", width, config.mlp_width),
        ):
            shapes |= {f"blocks.{i}.{name}.weight": (out, into), f"blocks.{i}.{name}.bias": (out,)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{i}.{name}"] = (width,)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def googles(state, config):
    """The same ViT as Google's .npz files hold it: [in, out], heads apart."""
    width, heads = config.width, config.heads
    split = (heads, width // heads)
    weights = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": np.zeros((width, 10)),
        "head/bias": np.zeros(10),
    }
    for i in range(config.depth):
        theirs, timm = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        kernels = np.split(state[f"{timm}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{timm}.attn.qkv.bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            weights[f"{attention}/{name}/kernel"] = kernel.T.reshape(width, *split)
            weights[f"{attention}/{name}/bias"] = bias.reshape(split)
        out = state[f"{timm}.attn.proj.weight"].T
        weights[f"{attention}/out/kernel"] = out.reshape(*split, width)
        weights[f"{attention}/out/bias"] = state[f"{timm}.attn.proj.bias"]
        for number in (0, 1):
            dense = f"{theirs}/MlpBlock_3/Dense_{number}"
            weights[f"{dense}/kernel"] = state[f"{timm}.mlp.fc{number + 1}.weight"].T
            weights[f"{dense}/bias"] = state[f"{timm}.mlp.fc{number + 1}.bias"]
        for number, norm in ((0, "norm1"), (2, "norm2")):
            weights[f"{theirs}/LayerNorm_{number}/scale"] = state[f"{timm}.{norm}.weight"]
            weights[f"{theirs}/LayerNorm_{number}/bias"] = state[f"{timm}.{norm}.bias"]
    return weights


def test_googles_vit_is_timms(tmp_path, start):
    state = timm_vit(CONFIG.vision)
    np.savez(tmp_path / "timm.npz", **state)
    expected = initialise(start, str(tmp_path / "timm.npz"), "")
    kernel = expected["vision"]["blocks"]["attention"]["key"]["kernel"][1]
    width = CONFIG.vision.width
    np.testing.assert_array_equal(kernel, state["blocks.1.attn.qkv.weight"][width : 2 * width].T)
    weights = googles(state, CONFIG.vision)
    for prefix in ("", "opt/target/"):
        path = tmp_path / "google.npz"
        np.savez(path, **{prefix + name: value for name, value in weights.items()})
        found = initialise(start, str(path), "")
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    del weights["Transformer/encoderblock_1/LayerNorm_2/bias"]
    np.savez(path, **weights)
    with pytest.raises(ValueError, match=r"google\.npz: tensor blocks\.1\.norm2\.bias is missing"):
        initialise(start, str(path), "")
