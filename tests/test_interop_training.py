"""A pre-training checkpoint of the original is trained on, teacher, queue and temperature too."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blip_jax.interop.source import load_source
from blip_jax.models.blip import Blip
from blip_jax.tasks.contrastive import Contrastive
from blip_jax.tasks.pretrain import Pretrain
from blip_jax.train.mesh import make_mesh, put_batch
from blip_jax.train.state import init_state, make_train_step


def carried_on(found, alpha, optimizer, mesh):
    """The step and the state that go on with what was found."""
    text = dataclasses.replace(found.config.text, dropout=0.0, attention_dropout=0.0)
    blip = Blip(dataclasses.replace(found.config, text=text))
    task = Pretrain(Contrastive(blip, queue_size=found.queue_size, alpha=alpha))
    state = init_state(task, found.params, optimizer, 0, mesh)
    layout = jax.tree.map(lambda x: x.sharding, state)
    assert jax.tree.structure(found.memory) == jax.tree.structure(state.memory)
    memory = jax.device_put(found.memory, layout.memory)
    # Not the first step, at which the teacher's opinion does not count yet.
    state = dataclasses.replace(state, memory=memory, step=jnp.ones_like(state.step))
    return make_train_step(task, optimizer, layout, mesh), state


def test_the_step_after_the_checkpoint_is_the_originals_and_others_follow(shared):
    facts = json.loads((shared / "parity/pretrain.json").read_text())
    arrays = dict(np.load(shared / "parity/pretrain.npz"))
    found = load_source(shared / "parity/pretrain.pth", vision_heads=4, text_heads=4)
    assert found.queue_size == facts["queue_size"] and "temperature" in found.params
    batch = {
        "image": arrays["image"],
        "input_ids": arrays["input_ids"].astype(np.int32),
        "attention_mask": arrays["attention_mask"].astype(np.int32),
        "image_index": np.arange(2, dtype=np.int32),
    }
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step, state = carried_on(found, facts["alpha"], optax.adamw(1e-3), mesh)
        seen = []
        for _ in range(3):
            state, metrics = step(state, put_batch(batch, mesh))
            seen.append(jax.device_get(metrics))
    for name in ("itc", "itm", "lm"):
        assert seen[0][f"loss_{name}"] == pytest.approx(float(arrays[f"loss_{name}"]), rel=1e-4)
    assert seen[2]["loss"] < seen[1]["loss"] < seen[0]["loss"]
    assert seen[0]["temperature"] == found.params["temperature"] != seen[2]["temperature"]
    start = found.memory["queue"]
    assert int(state.memory["queue"]["count"]) == int(start["count"]) + 3 * 2
    drift = state.memory["teacher"]["vision_proj"]["kernel"]
    assert 0 < np.abs(drift - found.memory["teacher"]["vision_proj"]["kernel"]).max() < 0.01


def test_a_file_without_memory_has_no_queue(shared):
    found = load_source(shared / "parity/caption.pth", vision_heads=4, text_heads=4)
    assert (found.memory, found.queue_size, found.unread) == (None, 0, {})
