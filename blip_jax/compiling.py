"""The programs of a config compiled where they will not run: `blip-jax compile`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data.examples import TRUNCATED
from blip_jax.inference.caption import CaptionOptions, caption_program, seed_keys
from blip_jax.inference.match import score_texts
from blip_jax.inference.trained import ROWS
from blip_jax.model import ABILITIES
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks import trainable
from blip_jax.tokenizer import Tokenizer
from blip_jax.train import ahead
from blip_jax.train.loop import check_batch
from blip_jax.train.mesh import make_mesh
from blip_jax.training import changed, count_rows

TEXTS = 2  # that a scored image has: CapFilt's web text and its synthetic one


def compile_programs(config: ConfigDict, topology: str | None) -> list[ahead.Program]:
    """The train step of `config`, and the passes its model can do, compiled for a topology or for
    the devices there are. Nothing is allocated and nothing is run.

    The step takes `run.batch_size` rows over all devices, each pass one device's share of them:
    captions by nucleus sampling, as long as they may be, two texts an image scored by ITM and
    ITC, and ITM of one text an image.
    """
    devices = ahead.topology_devices(topology, config.run.mesh.slice) if topology else None
    mesh = make_mesh(config.run.mesh.to_dict(), devices)
    count_rows(config, config.run.batch_size)  # how many steps does not matter
    check_batch(config.run, mesh)
    model = changed(BlipConfig(), config.model)
    return [train_step(config, model, mesh), *passes(config.run, model.as_saved(), mesh)]


def train_step(config: ConfigDict, model: BlipConfig, mesh: Mesh) -> ahead.Program:
    """The step of the config's task."""
    task, blip = trainable(config.task), Blip(model)
    objective = task.objective(blip, config.run)
    objective.check(config.run.batch_size // config.run.accumulate)
    batch = batch_shapes(task, model, config.run)
    return ahead.compile_step(objective, shapes_of(blip), batch, config.run, mesh)


def batch_shapes(task: Any, model: BlipConfig, run: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a batch, known from the reader's sample; any tokenizer gives their shapes."""
    reader = task.reader(Tokenizer.train(["a"], 100), model, run.data)
    example = reader(reader.sample, np.random.default_rng(0))
    example.pop(TRUNCATED, None)
    arrays = {name: np.asarray(value) for name, value in example.items()}
    return {
        name: jax.ShapeDtypeStruct((run.batch_size, *x.shape), x.dtype)
        for name, x in arrays.items()
    }


def passes(run: ConfigDict, model: BlipConfig, mesh: Mesh) -> Iterator[ahead.Program]:
    """The programs of inference, for one device: each has rows of its own and all parameters."""
    blip, rows = Blip(model), -(-run.batch_size // mesh.size)
    one = Mesh(mesh.devices.reshape(-1)[:1], (ROWS,))
    params = ahead.lying(jax.eval_shape(blip.working, shapes_of(blip)), one, P())

    def shapes(*shape: int, dtype: Any = jnp.int32) -> Any:
        return ahead.lying(jax.ShapeDtypeStruct((rows, *shape), dtype), one, P())

    pixels = shapes(*(model.vision.image_size,) * 2, 3, dtype=jnp.uint8)
    length = run.data.max_tokens
    if "caption" in ABILITIES[model.task]:
        keys = ahead.lying(jax.eval_shape(lambda: seed_keys(range(rows))), one, P())
        options = CaptionOptions(method="nucleus")
        program, inputs = caption_program(blip, options), (pixels, shapes(1), shapes(), keys)
        turns = options.max_new_tokens
        yield ahead.describe("captions", one, program, params, *inputs, turns=turns)
    if "match" in ABILITIES[model.task]:
        for name, texts in (("scores", TEXTS), ("ITM", 1)):
            ids = shapes(texts, length)
            yield ahead.describe(name, one, score_texts, blip, params, pixels, ids, ids)


def shapes_of(blip: Blip) -> Params:
    """The parameters' shapes."""
    return jax.eval_shape(blip.init, jax.random.key(0))
