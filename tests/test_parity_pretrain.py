"""The pre-training step against the original's own numbers, float32."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.config import BlipConfig, TextConfig, VisionConfig
from blip_jax.interop.names import (
    CROSS_ATTENTION,
    EMBEDDINGS,
    LM_HEAD,
    MLP,
    SELF_ATTENTION,
    VISION,
    VISION_LAYER,
)
from blip_jax.interop.salesforce import import_pretrain
from blip_jax.interop.torch_file import read_torch
from blip_jax.models.blip import Blip
from blip_jax.tasks.contrastive import Contrastive
from blip_jax.tasks.pretrain import Pretrain


@dataclasses.dataclass
class Step:
    """What ours computes where theirs did."""

    theirs: dict
    start: dict
    metrics: dict
    memory: dict
    grads: dict


@pytest.fixture(scope="module")
def step(shared):
    facts = json.loads((shared / "parity/pretrain.json").read_text())
    arrays = dict(np.load(shared / "parity/pretrain.npz"))
    start = read_torch(shared / "parity/pretrain.pth")["model"]
    params, memory = import_pretrain(start)
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
    return Step(arrays, start, metrics, memory, grads)


@pytest.mark.parametrize("name", ["itc", "itm", "lm"])
def test_losses(step, name):
    np.testing.assert_allclose(step.metrics[f"loss_{name}"], step.theirs[f"loss_{name}"], rtol=1e-4)


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
    """The recorded after/... tensors are the ones before the step, so they show what must stay;
    what must change is checked by its definition. That the teacher moved before its features
    were taken shows in the ITC loss above, which is 2.5e-4 off without."""
    queue, before = step.memory["queue"], step.theirs
    assert int(queue["count"]) == 6 + 2
    for name in ("image", "text"):
        expected = before[f"after/{name}_queue"].T
        np.testing.assert_allclose(queue[name][2:], expected[2:], atol=1e-5)
        assert np.abs(queue[name][:2] - expected[:2]).max() > 0.1
        np.testing.assert_allclose(np.linalg.norm(queue[name], axis=1), 1, atol=1e-5)
    moved = 0.995 * step.start["vision_proj_m.weight"] + 0.005 * step.start["vision_proj.weight"]
    np.testing.assert_allclose(step.memory["teacher"]["vision_proj"]["kernel"].T, moved, atol=1e-6)
