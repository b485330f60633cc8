"""The pre-training step against the original's own numbers, float32."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.interop.salesforce import flatten_like_salesforce, import_salesforce
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
    heads = facts["arch"]["vision"]["heads"], facts["arch"]["text"]["num_attention_heads"]
    imported = import_salesforce(start, vision_heads=heads[0], text_heads=heads[1])
    text = dataclasses.replace(imported.config.text, dropout=0.0, attention_dropout=0.0)
    config = dataclasses.replace(imported.config, text=text)
    params, memory = imported.params, imported.memory
    contrastive = Contrastive(
        Blip(config), facts["queue_size"], facts["momentum"], facts["alpha"], 0
    )
    batch = {
        "image": jnp.asarray(arrays["image"]),
        "input_ids": jnp.asarray(arrays["input_ids"], jnp.int32),
        "attention_mask": jnp.asarray(arrays["attention_mask"], jnp.int32),
        "image_index": jnp.arange(2, dtype=jnp.int32),
    }
    task = Pretrain(contrastive)
    memory = jax.jit(task.begin)(params, memory)
    loss = jax.value_and_grad(task.loss, has_aux=True)
    (_, (memory, metrics)), grads = jax.jit(loss)(
        params, memory, batch, jax.random.key(0), jnp.float32(1)
    )
    return Step(arrays, start, metrics, memory, grads)


@pytest.mark.parametrize("name", ["itc", "itm", "lm"])
def test_losses(step, name):
    np.testing.assert_allclose(step.metrics[f"loss_{name}"], step.theirs[f"loss_{name}"], rtol=1e-4)


def test_gradient_norms(step):
    recorded = {k.removeprefix("grad/"): v for k, v in step.theirs.items() if k.startswith("grad/")}
    # Gradients have the parameters' shape, so they go out under the original's names as well.
    ours = {k: np.linalg.norm(v) for k, v in flatten_like_salesforce(step.grads).items()}
    assert ours.keys() == recorded.keys()
    names = sorted(ours)
    np.testing.assert_allclose(
        [ours[k] for k in names], [recorded[k] for k in names], rtol=1e-3, atol=1e-5
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
