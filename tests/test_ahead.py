"""Programs compiled without running: what the compiler finds in the train step."""

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from tiny import CONFIG, STILL, batch, pretraining, settings

from blip_jax.compiling import batch_shapes, compile_programs
from blip_jax.config import BlipConfig
from blip_jax.models.blip import Blip
from blip_jax.tasks import caption, trainable
from blip_jax.train import ahead, hlo
from blip_jax.train.flops import matmul_bytes, matmul_flops
from blip_jax.train.mesh import BATCH, make_mesh
from blip_jax.train.state import abstract_state, make_train_step
from blip_jax.training import changed

SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch(0))
PARAMS = jax.eval_shape(Blip(CONFIG).init, jax.random.key(0))


def load_config(name):
    """The module of configs/NAME.py."""
    path = Path(__file__).resolve().parents[1] / f"configs/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def compiled(devices=8, group=0, rows=8, **mesh):
    mesh = {"data": 1} | mesh
    grid = make_mesh(mesh, jax.devices()[:devices])
    shapes = {k: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for k, x in SHAPES.items()}
    return ahead.compile_step(pretraining(STILL, group=group), PARAMS, shapes, settings(), grid)


def lowered(mesh):
    """The step as it is handed to the compiler."""
    grid, optimizer = make_mesh(mesh), optax.sgd(0.1)
    with jax.set_mesh(grid):
        state = abstract_state(pretraining(STILL), PARAMS, optimizer, grid)
        layout = jax.tree.map(lambda x: x.sharding, state)
        step = make_train_step(pretraining(STILL), optimizer, layout, grid)
        return step.lower(state, ahead.lying(SHAPES, grid, BATCH)).as_text()


def test_one_device_needs_no_collectives_and_eight_need_less_memory_each():
    one, many = compiled(1, data=1), compiled(data=8)
    assert one.collectives == {} and one.flops > 0
    assert many.collectives["all-reduce"][0] > 0
    assert many.memory < one.memory and many.flops < one.flops / 3


def test_collectives_are_those_the_mesh_is_for():
    """All of them, in bytes over all turns of the loops, beside those of the weights."""
    weights = 4 * sum(x.size for x in jax.tree.leaves(PARAMS))
    meshes = {"data": {"data": 8}, "fsdp": {"fsdp": 8}, "tensor": {"tensor": 8}}
    moved = {
        name: {kind: size / weights for kind, (_, size) in compiled(**mesh).collectives.items()}
        for name, mesh in meshes.items()
    }
    summed = {name: kinds.pop("all-reduce") for name, kinds in moved.items()}
    gathered = {name: kinds.pop("all-gather") for name, kinds in moved.items()}
    others = {name: sum(kinds.values()) for name, kinds in moved.items()}
    # Rows alone are split: every use of a tower sums its gradients (the text tower has three), and
    # features are gathered for the contrast.
    assert 1 < summed["data"] < 2 and gathered["data"] < 0.1
    # Weights are split too: each use gathers them, and the backward pass once more.
    assert 1 < summed["fsdp"] < 2 and 2 < gathered["fsdp"] < 5
    # Heads and MLPs are split: activations are summed and no weight is moved.
    assert 1 < summed["tensor"] < 5 and gathered["tensor"] < 0.1
    assert max(others.values()) < 0.01
    assert compiled(fsdp=8).memory < compiled(data=8).memory


def test_hard_negatives_of_a_devices_own_groups_move_no_image_tokens():
    own, whole = (compiled(data=8, group=g, rows=64) for g in (8, 0))
    tokens = 4 * 64 * CONFIG.vision.tokens * CONFIG.vision.width  # bytes
    assert own.collectives["all-gather"][1] < tokens < whole.collectives["all-gather"][1]
    assert own.collectives["collective-permute"][1] < tokens / 8


def test_the_step_says_how_activations_lie():
    text = lowered({"data": 2, "fsdp": 2, "tensor": 2})
    found = re.findall(r"sdy.sharding_constraint .*?<@mesh, (\[.*?\])>", text)
    rows = '{"slice", "data", "fsdp"}'
    assert any(spec.startswith(f"[{rows}, ") and '{"tensor"}' in spec for spec in found)
    assert any(spec == f"[{rows}, {{}}, {{}}]" for spec in found), found[:5]


HLO = """
%turn (p: (s32[], bf16[1,128])) -> (s32[], bf16[1,128]) {
  %a = bf16[8,128]{1,0} all-gather(bf16[1,128] %x), backend_config={"estimated_cycles":"70"}
}

%end (p: (s32[], bf16[1,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], bf16[1,128]) while(%t), condition=%end, body=%turn
  %b = (f32[4]{0}, f32[2,2]{1,0}) all-reduce-start(f32[4] %y, f32[2,2] %z)
  %c = f32[] add(f32[] %p, f32[] %q), backend_config={"estimated_cycles":"30"}
}
"""


def test_a_compiled_program_is_read_with_the_turns_of_its_loops():
    gathered = 2 * 8 * 128
    assert hlo.collectives(HLO) == {"all-gather": (12, 12 * gathered), "all-reduce": (1, 4 * 8)}
    assert hlo.cycles(HLO) == 12 * 70 + 30
    assert hlo.cycles(HLO.replace('"30"', f'"{2**63 - 1}"')) == 0  # it cannot tell
    endless = HLO.replace("direction=LT", "direction=NE")
    assert hlo.collectives(endless)["all-gather"] == (1, gathered)
    line = next(line for line in HLO.splitlines() if "all-reduce-start" in line)
    pieces = HLO.replace(line, f"{line}, channel_id=7\n{line}, channel_id=7")
    assert hlo.collectives(pieces) == hlo.collectives(HLO)
    noted = endless.replace("body=%turn", 'body=%turn, {"known_trip_count":{"n":"3"}}')
    assert hlo.collectives(noted)["all-gather"] == (3, 3 * gathered)


def test_flops_are_those_of_the_formula():
    """A ViT: patches, and a block's four maps of the tokens, attention and MLP."""
    vision, rows = CONFIG.vision, 3
    blip, size = Blip(CONFIG), vision.image_size
    images = jax.ShapeDtypeStruct((rows, size, size, 3), np.float32)
    found = matmul_flops(jax.make_jaxpr(blip.image_tokens)(PARAMS, images).jaxpr, "cpu")
    t, w, m = vision.tokens, vision.width, vision.mlp_width
    patches = 2 * vision.grid**2 * 3 * vision.patch_size**2 * w
    block = 8 * t * w**2 + 4 * t**2 * w + 4 * t * w * m
    assert found == rows * (patches + vision.depth * block)


def test_products_are_counted_with_the_turns_of_their_loops():
    a, b = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((4, 3), (3, 3)))

    def program(a, b):
        a, _ = jax.lax.scan(lambda x, _: (x @ b, None), a, length=5)
        a = jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ b, a)
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a @ b)

    jaxpr = jax.make_jaxpr(program)(a, b).jaxpr
    for turns in (1, 7):
        assert matmul_flops(jaxpr, "cpu", turns) == (5 + turns + 2) * 2 * 4 * 3 * 3
        assert matmul_bytes(jaxpr, "cpu", turns) == (5 + turns + 2) * 4 * (4 * 3 + 3 * 3 + 4 * 3)


@pytest.mark.parametrize(("platform", "count"), [("cpu", 1), ("cuda", 2), ("tpu", 0)])
def test_products_are_those_of_the_platform(platform, count):
    a = jax.ShapeDtypeStruct((3, 3), np.float32)
    ways = {"cpu": lambda a: a @ a, "cuda": lambda a: a @ a @ a, "default": lambda a: a}
    jaxpr = jax.make_jaxpr(lambda a: jax.lax.platform_dependent(a, **ways))(a).jaxpr
    assert matmul_flops(jaxpr, platform) == count * 2 * 3**3


def test_flops_are_those_the_compiler_counts():
    """It counts one turn of a loop, so none is left here; and elementwise work, which is little."""
    wide = {"width": 256, "mlp_width": 1024}
    text = dataclasses.replace(STILL.text, **wide)
    vision = dataclasses.replace(CONFIG.vision, **wide)
    blip = Blip(dataclasses.replace(CONFIG, vision=vision, text=text, unroll=2))
    params, memory = jax.eval_shape(blip.init, jax.random.key(0)), {}
    task = caption.objective(blip, settings())
    step = jax.jit(jax.grad(task.loss, has_aux=True))
    traced = step.trace(params, memory, SHAPES, jax.random.key(0), 0)
    compiler = traced.lower().compile().cost_analysis()["flops"]
    assert 0.9 < matmul_flops(traced.jaxpr.jaxpr, "cpu") / compiler <= 1


def test_the_table_sets_what_is_needed_beside_what_there_is():
    moved = {"all-reduce": (2, 2**21)}
    program = ahead.Program("train step", 8 * ahead.GIB, 100e12, 1e12, moved, 10**9, 30.0)
    chip = ahead.CHIPS["v5e"]
    assert np.isclose(chip.seconds(10**9), 1 / 1.503, rtol=1e-3)  # its clock is 1.5 GHz
    text = ahead.table([program], chip)
    assert "GiB a device of 16" in text and "8.00" in text
    assert "665.3 ms | 76 % | 30 s" in text
    here = ahead.table([dataclasses.replace(program, cycles=0)], None)
    assert "GiB a device |" in here and "none | none | 30 s" in here


def test_every_pass_of_a_config_is_compiled():
    config = load_config("pretrain").get_config("tiny")
    config.run.mesh.data = 8
    config.model.text.dropout = 0.0  # which the compiler takes its time for
    programs = compile_programs(config, None)
    assert [p.name for p in programs] == ["train step", "captions", "scores", "ITM"]
    step, captions, scores, itm = programs
    assert itm.flops < scores.flops < step.flops and captions.flops < step.flops
    assert all(p.memory > 0 and p.moved > 0 for p in programs)


@pytest.mark.parametrize("name", ["caption", "vqa", "retrieval", "nlvr", "visdial"])
def test_a_batch_is_known_without_data(name):
    config = load_config(name).get_config("tiny")
    model = changed(BlipConfig(), config.model)
    batch = batch_shapes(trainable(config.task), model, config.run)
    assert {x.shape[0] for x in batch.values()} == {config.run.batch_size}
    assert any(x.dtype == np.uint8 for x in batch.values())


def test_unknown_topologies_are_refused():
    with pytest.raises(ValueError, match="expected VERSION:SHAPE with one of v4, v5e"):
        ahead.topology_devices("h100:8")
    assert np.isclose(hlo.array_bytes("bf16", "3,5"), 30)
