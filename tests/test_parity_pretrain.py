"""The pre-training step against the original's own numbers, float32."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.config import BlipConfig, TextConfig, VisionConfig
from blip_jax.interop.names import CROSS_ATTENTION, EMBEDDINGS, LM_HEAD, MLP, SELF_ATTENTION
from blip_jax.interop.names import VISION, VISION_LAYER
from blip_jax.interop.salesforce import import_pretrain
from blip_jax.interop.torch_file import read_torch
from blip_jax.models.blip import Blip
from blip_jax.tasks.contrastive import Contrastive
from blip_jax.tasks.pretrain import Pretrain


@dataclasses.dataclass
class Step:
    """What ours computes where theirs did."""

    theirs: dict
    metrics: dict
    memory: dict
    grads: dict


@pytest.fixture(scope="module")
def step(shared):
    facts = json.loads((shared / "parity/pretrain.json").read_text())
    arrays = dict(np.load(shared / "parity/pretrain.npz"))
    params, memory = import_pretrain(read_torch(shared / "parity/pretrain.pth")["model"])
    vision, text = facts["arch"]["vision"], facts["arch"]["text"]
    config = BlipConfig(
        vision=VisionConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["width"],
            depth=vision["depth"],
            heads=vision["heads"],
            mlp_width=vision["mlp_dim"],
        ),
        text=TextConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            depth=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            mlp_width=text["intermediate_size"],
            max_positions=text["max_position_embeddings"],
            dropout=0.0,
            attention_dropout=0.0,
        ),
        embed_dim=facts["embed_dim"],
    )
    contrastive = Contrastive(
        Blip(config), facts["queue_size"], facts["momentum"], facts["alpha"], 0
    )
    batch = {
        "image": jnp.asarray(arrays["image"]),
        "input_ids": jnp.asarray(arrays["input_ids"], jnp.int32),
        "attention_mask": jnp.asarray(arrays["attention_mask"], jnp.int32),
        "image_index": jnp.arange(2, dtype=jnp.int32),
    }
    loss = jax.value_and_grad(Pretrain(contrastive).loss, has_aux=True)
    (_, (memory, metrics)), grads = jax.jit(loss)(
        params, memory, batch, jax.random.key(0), jnp.float32(1)
    )
    return Step(arrays, metrics, memory, grads)


@pytest.mark.parametrize("name", ["itc", "itm", "lm"])
def test_losses(step, name):
    np.testing.assert_allclose(
        step.metrics[f"loss_{name}"], step.theirs[f"loss_{name}"], rtol=1e-4
    )


def leaf(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return np.asarray(tree)


def norm_of(*arrays):
    return np.sqrt(sum(np.square(a).sum() for a in arrays))


def expected_norms(grads):
    """(the original's name, our norm) of every gradient."""
    for theirs, ours, _ in VISION:
        yield f"visual_encoder.{theirs}", norm_of(leaf(grads["vision"], ours))
    text = grads["text"]
    for theirs, ours, _ in EMBEDDINGS:
        yield f"text_encoder.embeddings.{theirs}", norm_of(leaf(text["embeddings"], ours))
    for theirs, ours, _ in LM_HEAD:
        yield f"text_decoder.cls.predictions.{theirs}", norm_of(leaf(text["lm_head"], ours))
    for i in range(3):
        block, attention = f"visual_encoder.blocks.{i}.", grads["vision"]["blocks"]["attention"]
        for theirs, ours, _ in VISION_LAYER:
            yield block + theirs, norm_of(leaf(grads["vision"]["blocks"], ours)[i])
        for theirs, ours in (("weight", "kernel"), ("bias", "bias")):
            parts = [attention[n][ours][i] for n in ("query", "key", "value")]
            yield f"{block}attn.qkv.{theirs}", norm_of(*parts)
        for theirs, ours, _ in (*CROSS_ATTENTION, *MLP):
            yield f"text_encoder.encoder.layer.{i}.{theirs}", norm_of(leaf(text["blocks"], ours)[i])
        for theirs, ours, _ in SELF_ATTENTION:
            for tower, role in (("text_encoder.", "encoder"), ("text_decoder.bert.", "decoder")):
                own = leaf(text["blocks"], f"{role}_{ours}")[i]
                yield f"{tower}encoder.layer.{i}.{theirs}", norm_of(own)
    for head in ("vision_proj", "text_proj", "itm_head"):
        yield f"{head}.weight", norm_of(grads[head]["kernel"])
        yield f"{head}.bias", norm_of(grads[head]["bias"])
    yield "temp", norm_of(grads["temperature"])


def test_gradient_norms(step):
    recorded = {k.removeprefix("grad/"): v for k, v in step.theirs.items() if k.startswith("grad/")}
    ours = dict(expected_norms(step.grads))
    # Shared tensors and the tied output matrix stand once, under the encoder's name.
    assert set(recorded) - set(ours) <= {"text_decoder.cls.predictions.bias"}
    compared = sorted(set(recorded) & set(ours))
    assert len(compared) > 100
    np.testing.assert_allclose(
        [ours[k] for k in compared], [recorded[k] for k in compared], rtol=1e-3, atol=1e-5
    )


def test_queue_and_momentum_after_the_step(step):
    after = {k.removeprefix("after/"): v for k, v in step.theirs.items() if k.startswith("after/")}
    queue, teacher = step.memory["queue"], step.memory["teacher"]
    np.testing.assert_allclose(queue["image"].T, after["image_queue"], atol=1e-5)
    np.testing.assert_allclose(queue["text"].T, after["text_queue"], atol=1e-5)
    size = queue["image"].shape[0]
    assert int(queue["count"]) % size == int(np.ravel(after["queue_ptr"])[0])
    checked = 0
    for name, value in after.items():
        if name.startswith("visual_encoder_m.") and "blocks" not in name:
            path = next(o for t, o, _ in VISION if name == f"visual_encoder_m.{t}")
            transform = next(f for t, _, f in VISION if name == f"visual_encoder_m.{t}")
            np.testing.assert_allclose(leaf(teacher["vision"], path), transform(value), atol=1e-5)
            checked += 1
        elif name.startswith("text_encoder_m.embeddings."):
            path = next(o for t, o, _ in EMBEDDINGS if name.endswith(f"embeddings.{t}"))
            np.testing.assert_allclose(leaf(teacher["text"]["embeddings"], path), value, atol=1e-5)
            checked += 1
    assert checked, sorted(after)
