"""Training: devices, killing and resuming, queues and teacher, and what it refuses."""

import functools
import json
import os
import signal
from types import SimpleNamespace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import STILL, batch, init_params, pretraining, settings

from blip_jax.errors import Stopped
from blip_jax.models.blip import Blip
from blip_jax.tasks import caption
from blip_jax.tasks.contrastive import enqueue
from blip_jax.train import folder as folder_module
from blip_jax.train import loop
from blip_jax.train.folder import RunFolder
from blip_jax.train.goodput import goodput, read_goodput, table
from blip_jax.train.journal import by_step
from blip_jax.train.loop import DivergedError, Run, published, train
from blip_jax.train.mesh import make_mesh, put_batch, shardings
from blip_jax.train.optimizer import decayed, frozen, make_optimizer, schedule
from blip_jax.train.state import init_state, joined, make_train_step, split


@pytest.fixture
def one_device(monkeypatch):
    """Programs for one device compile in half the time."""
    one = functools.partial(make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", one)


def run_in(folder, name, config):
    return Run(RunFolder(str(folder)), name, config)


def dataset():
    return grain.MapDataset.range(0, 1000).seed(1).shuffle().map(batch).to_iter_dataset()


def steps_on(shape, devices, count=10):
    mesh = make_mesh(shape, jax.devices()[:devices])
    optimizer = optax.sgd(0.1)  # linear in the gradients, so that it hides no difference
    with jax.set_mesh(mesh):
        task = pretraining()
        state = init_state(task, init_params(), optimizer, 0, mesh)
        layout = jax.tree.map(lambda x: x.sharding, state)
        step = make_train_step(task, optimizer, layout, mesh)
        losses = []
        for i in range(count):
            state, metrics = step(state, put_batch(batch(i), mesh))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.params), jax.device_get(state.memory)


def test_eight_devices_compute_what_one_does():
    losses, params, memory = steps_on({"data": 1}, 1)
    for shape in ({"data": 8}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}):
        again, others, their_memory = steps_on(shape, 8)
        np.testing.assert_allclose(again, losses, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), others, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), their_memory, memory)


def test_parameters_moments_and_teacher_are_split_by_the_rules():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    optimizer = optax.adamw(1e-3)
    with jax.set_mesh(mesh):
        state = init_state(pretraining(), init_params(), optimizer, 0, mesh)
    spec = jax.P(None, "fsdp", "tensor")
    moments = state.opt_state[0].mu
    for tree in (state.params, moments, state.memory["teacher"]):
        assert tree["vision"]["blocks"]["mlp"]["up"]["kernel"].sharding.spec == spec
    assert state.memory["queue"]["image"].sharding.spec == jax.P("fsdp", None)
    assert state.params["vision"]["norm"]["scale"].sharding.spec == jax.P()
    odd = {"up": {"kernel": jax.ShapeDtypeStruct((3, 6), jnp.float32)}}
    assert shardings(odd, mesh)["up"]["kernel"].spec == jax.P(None, "tensor")


def test_queue_is_first_in_first_out_for_any_length():
    for size, rows in ((7, 3), (4, 4), (3, 5)):
        queue = {
            "image": jnp.zeros((size, 1)),
            "text": jnp.zeros((size, 1)),
            "image_index": jnp.full(size, -1, jnp.int32),
            "count": jnp.int32(0),
        }
        seen = []
        for start in range(0, 4 * rows, rows):
            new = jnp.arange(start, start + rows)
            rows_of = {"image": new[:, None] * 1.0, "text": new[:, None] * 2.0}
            queue = enqueue(queue, rows_of | {"image_index": new})
            seen += new.tolist()
            stored = [i for i in queue["image_index"].tolist() if i >= 0]
            assert sorted(stored) == seen[-size:]
            np.testing.assert_array_equal(queue["text"], 2 * queue["image"])
        assert int(queue["count"]) == 4 * rows


def step_of(task, params, memory):
    def step(params, memory, rows):
        memory = task.begin(params, memory)
        return task.loss(params, memory, rows, jax.random.key(0), jnp.int32(0))[1][0]

    return jax.jit(step)(params, memory, batch(0))


def test_teacher_moves_by_an_exponential_average_before_its_features_are_taken():
    task, params = pretraining(momentum=0.9), init_params()
    memory = task.init_memory(init_params(1))
    after = step_of(task, params, memory)
    for name in ("vision_proj", "text_proj"):
        expected = 0.9 * memory["teacher"][name]["kernel"] + 0.1 * params[name]["kernel"]
        np.testing.assert_allclose(after["teacher"][name]["kernel"], expected, atol=1e-6)
    still = pretraining(momentum=1.0)
    unmoved = step_of(still, params, memory)
    difference = np.abs(after["queue"]["image"][:8] - unmoved["queue"]["image"][:8]).max()
    assert difference > 1e-4


def test_no_gradient_reaches_the_teacher_or_the_queue():
    task, params = pretraining(alpha_ramp_steps=0), init_params()
    memory = task.init_memory(params)
    queue = memory["queue"] | {"image_index": jnp.arange(500, 520, dtype=jnp.int32)}
    rows = jax.tree.map(jnp.asarray, batch(0))
    params = jax.tree.map(jnp.asarray, params)
    queue |= {"image": jnp.ones((20, 16)) / 4, "text": jnp.ones((20, 16)) / 4}

    def loss(teacher):
        full = {"teacher": teacher, "queue": queue}
        return task.loss(params, full, rows, jax.random.key(0), jnp.int32(9))[0]

    grads = jax.jit(jax.grad(loss))(memory["teacher"])
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads))


def test_alpha_ramps_up_and_metrics_tell_of_collapse():
    task, params = pretraining(), init_params()
    memory = task.init_memory(params)
    for step, alpha in ((0, 0.0), (2, 0.2), (9, 0.4)):
        _, (_, metrics) = jax.jit(task.loss)(
            params, memory, batch(0), jax.random.key(0), jnp.int32(step)
        )
        np.testing.assert_allclose(metrics["alpha"], alpha, rtol=1e-6)
    names = {"itm_accuracy_match", "itm_accuracy_mismatch", "itm_below_chance", "recall_i2t"}
    assert names | {"recall_t2i", "temperature", "teacher_cosine_image"} <= set(metrics)
    assert float(metrics["teacher_cosine_image"]) > 0.9  # the teacher starts as a copy


class Killed(Exception):
    pass


def killed_at(last, monkeypatch, run, task, params):
    """Trains until a kill at step `last`; every second step before it is saved."""

    class DyingCheckpoints(loop.Checkpoints):
        def save(self, step, state, data, now=False):
            begun = super().save(step, state, data, now)
            if step == last:
                raise Killed
            return begun

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Checkpoints", DyingCheckpoints)
        with pytest.raises(Killed):
            train(run, task, params, dataset())


def test_a_killed_run_ends_as_one_that_was_not(tmp_path, monkeypatch, one_device):
    task = pretraining()
    whole = train(run_in(tmp_path / "a", "a", settings()), task, init_params(), dataset())
    run = run_in(tmp_path / "b", "b", settings())
    killed_at(5, monkeypatch, run, task, init_params())
    resumed = train(run, task, init_params(7), dataset())  # other parameters must not matter
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    losses = [[row["loss"] for row in by_step(tmp_path / name / "metrics.jsonl")] for name in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    read = [by_step(tmp_path / name / "samples.jsonl") for name in "ab"]
    assert read[0] == read[1] and [row["step"] for row in read[0]] == list(range(1, 7))
    assert len({row["uids"] for row in read[0]}) == 6


def test_a_run_goes_on_with_fewer_devices(tmp_path, monkeypatch):
    """From eight to four to one, each from the last checkpoint of the one before."""
    task, config = pretraining(), settings(checkpoint_every=2)
    config.optimizer.lr = 1e-4

    def use(count):
        some = functools.partial(make_mesh, devices=jax.devices()[:count])
        monkeypatch.setattr(loop, "make_mesh", some)

    use(8)
    whole = train(run_in(tmp_path / "a", "a", config), task, init_params(), dataset())
    run = run_in(tmp_path / "b", "b", config)
    killed_at(3, monkeypatch, run, task, init_params())
    use(4)
    killed_at(5, monkeypatch, run, task, init_params(7))
    use(1)
    ended = train(run, task, init_params(7), dataset())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ended, whole)
    losses = [[row["loss"] for row in by_step(tmp_path / name / "metrics.jsonl")] for name in "ab"]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_a_batch_in_parts_moves_the_teacher_once_and_fills_the_queue():
    """Where no row looks at another, the parts' mean is the whole batch's gradient."""
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    task, states = caption.objective(Blip(STILL), settings()), []
    for parts in (1, 4):
        with jax.set_mesh(mesh):
            optimizer = optax.sgd(0.1)
            state = init_state(task, init_params(), optimizer, 0, mesh)
            layout = jax.tree.map(lambda x: x.sharding, state)
            step = make_train_step(task, optimizer, layout, mesh, accumulate=parts)
            states.append(step(state, put_batch(batch(0), mesh))[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *states)

    task = pretraining(momentum=0.9)
    with jax.set_mesh(mesh):
        state = init_state(task, init_params(), optimizer, 0, mesh)
        before = jax.device_get(state)
        layout = jax.tree.map(lambda x: x.sharding, state)
        step = make_train_step(task, optimizer, layout, mesh, accumulate=2)
        after, metrics = step(state, put_batch(batch(0), mesh))
    # The teacher started as the student's copy: one move leaves it there.
    np.testing.assert_allclose(
        after.memory["teacher"]["text_proj"]["kernel"],
        before.params["text_proj"]["kernel"],
        atol=1e-6,
    )
    assert int(after.memory["queue"]["count"]) == 8
    indices = sorted(i for i in after.memory["queue"]["image_index"].tolist() if i >= 0)
    assert indices == list(range(8))
    assert np.isfinite(float(metrics["loss"]))


def test_sigterm_saves_stops_and_the_rest_is_what_it_would_have_been(tmp_path, one_device):
    task = pretraining()
    whole = train(run_in(tmp_path / "a", "a", settings()), task, init_params(), dataset())

    def killer(i):
        if i == killer.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(i)

    ids = list(grain.MapDataset.range(0, 1000).seed(1).shuffle()[:3])
    killer.at = ids[2]
    deadly = grain.MapDataset.range(0, 1000).seed(1).shuffle().map(killer)
    deadly = deadly.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    run = run_in(tmp_path / "b", "b", settings(checkpoint_every=100))
    with pytest.raises(Stopped, match="b stopped after step 3, which is saved"):
        train(run, task, init_params(), deadly)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = train(run, task, init_params(7), dataset())
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    launches = read_goodput(tmp_path / "b")
    assert [launch[1]["step"] for launch in launches] == [0, 3]
    seconds = goodput(launches)
    assert seconds["compile"] > 0 and seconds["down"] >= 0 and "lost" not in seconds


def test_a_run_in_a_bucket_keeps_its_small_files_at_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "CACHE", tmp_path)
    folder = RunFolder("memory://bucket/run/")
    assert folder.checkpoints == "memory://bucket/run/checkpoints"
    (folder.local / "metrics.jsonl").write_text("1\n")
    (folder.local / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder.local / "model" / name).write_text(name)
    folder.publish()
    (folder.local / "metrics.jsonl").write_text("lost with its machine")
    (folder.local / "model/config.json").unlink()
    again = RunFolder("memory://bucket/run")
    assert again.local == folder.local
    assert (again.local / "metrics.jsonl").read_text() == "1\n"
    assert (again.local / "model/config.json").read_text() == "config.json"
    assert RunFolder(str(tmp_path)).local == tmp_path


def test_what_a_stopped_run_wrote_is_sent():
    sent = []
    run = Run(SimpleNamespace(publish=lambda: sent.append(1)), "x", settings())
    with pytest.raises(Stopped), published(run):
        raise Stopped("x")
    assert sent == [1]


def test_time_of_steps_done_again_is_lost():
    def row(end, done, **seconds):
        return {"end": end, "step": done, "seconds": seconds}

    launches = [
        [{"start": 0.0}, row(1, 0, setup=1), row(5, 4, step=4), row(9, 8, step=3, data=1)],
        [{"start": 20.0}, row(21, 4, restore=1), row(25, 8, step=4)],
    ]
    seconds = goodput(launches)
    assert seconds == {"setup": 1, "step": 8, "lost": 3, "data": 1, "down": 11, "restore": 1}
    assert "goodput" in table(seconds) and f"{100 * 8 / 25:.1f} %" in table(seconds)


def test_losses_fall_on_what_can_be_learnt_without_a_queue(tmp_path, one_device):
    data = grain.MapDataset.source([batch(0)]).repeat().to_iter_dataset()
    config = settings(steps=40, checkpoint_every=1000)
    config.optimizer.lr = 5e-3
    task = pretraining(queue_size=0)
    assert set(task.init_memory(init_params())) == {"teacher"}
    train(run_in(tmp_path, "x", config), task, init_params(), data)
    rows = by_step(tmp_path / "metrics.jsonl")
    # Eight candidates and a blind start: ln 8 nats, were the others from a queue it would be more.
    assert rows[0]["loss_itc"] < 3.0
    for name in ("loss_itc", "loss_lm"):
        assert rows[-1][name] < rows[0][name] - 0.3


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(tmp_path, one_device):
    params = init_params()
    params["temperature"] = np.float32(np.nan)
    with pytest.raises(DivergedError, match="at step 1"):
        train(run_in(tmp_path, "x", settings()), pretraining(), params, dataset())


def test_batches_that_do_not_divide_are_refused(tmp_path):
    run = run_in(tmp_path, "x", settings(mesh={"data": 8, "fsdp": 1, "tensor": 1}, batch_size=12))
    with pytest.raises(
        ValueError, match="batch_size 12 in 1 part.s. does not divide over the 8 devices"
    ):
        train(run, pretraining(), init_params(), dataset())
    with pytest.raises(ValueError, match="divide batch_size 10"):
        pretraining().check(10)
    with pytest.raises(ValueError, match="does not multiply to 8 devices"):
        make_mesh({"data": 3})


def test_metrics_survive_a_line_cut_by_a_kill(tmp_path):
    lines = [json.dumps({"step": s, "loss": v}) for s, v in ((1, 3.0), (2, 2.0), (2, 2.5))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "lo')
    assert [row["loss"] for row in by_step(tmp_path / "metrics.jsonl")] == [3.0, 2.5]


def test_a_factor_of_zero_freezes_what_its_pattern_finds(tmp_path, one_device):
    start = init_params()
    config = settings(2)
    config.optimizer.multipliers = {"^itm_head": 1.0, "^vision/": 0}
    end = train(run_in(tmp_path, "pretrain", config), pretraining(), start, dataset())
    jax.tree.map(np.testing.assert_array_equal, end["vision"], start["vision"])
    assert not np.array_equal(end["vision_proj"]["kernel"], start["vision_proj"]["kernel"])
    trained, still = split(start, frozen({"^vision/": 0}))
    optimizer = make_optimizer(config.optimizer, 2)
    assert len(jax.tree.leaves(still)) == len(jax.tree.leaves(start["vision"]))
    jax.tree.map(np.testing.assert_array_equal, joined(trained, still), start)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    state = init_state(pretraining(), start, optimizer, 0, mesh, frozen({"^vision/": 0}))
    moments = sum(x.ndim > 0 for x in jax.tree.leaves(state.opt_state))
    assert moments == 2 * sum(x.ndim > 0 for x in jax.tree.leaves(trained))


def test_schedule_warms_up_and_decays_and_small_vectors_are_not_decayed():
    config = settings().optimizer
    rate = schedule(config, 100)
    assert rate(0) == pytest.approx(1e-5, rel=1e-3) and rate(2) == pytest.approx(1e-3)
    assert rate(100) == pytest.approx(1e-5, rel=1e-3)
    mask = decayed(init_params())
    assert mask["text"]["blocks"]["mlp"]["up"]["kernel"]
    assert mask["text"]["embeddings"]["word"]
    assert not mask["text"]["blocks"]["mlp"]["up"]["bias"]
    assert not mask["temperature"] and not mask["vision"]["positions"]
    config.update({"decay": "cosine_epoch", "epoch_steps": 25})
    rate, cosine = schedule(config, 100), [0.5 * (1 + np.cos(np.pi * e / 4)) for e in range(4)]
    for epoch, share in enumerate(cosine):
        expected = config.min_lr + (config.lr - config.min_lr) * share
        for step in (25 * epoch, 25 * epoch + 24):
            assert rate(step) == pytest.approx(expected, rel=1e-4)
    config.decay = "sometimes"
    with pytest.raises(ValueError, match="expected 'cosine', 'constant', 'epoch' or"):
        make_optimizer(config, 10)
