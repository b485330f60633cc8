"""Our side of `speed.py`: `CALLS` has for each row what makes its call."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from inputs import NEW, TEXTS, Args, Call, pictures, read_texts

from blip_jax.config import BLIP_B16, BLIP_L16, TINY, BlipConfig
from blip_jax.inference.caption import CaptionOptions, caption_program, seed_keys
from blip_jax.inference.embed import encode_images
from blip_jax.inference.match import match_logits, score_texts, score_tokens
from blip_jax.models.blip import Blip
from blip_jax.tasks import caption
from blip_jax.tasks.contrastive import Contrastive
from blip_jax.tasks.pretrain import Pretrain
from blip_jax.tasks.stateless import Stateless
from blip_jax.train.flops import matmul_bytes, matmul_flops
from blip_jax.train.mesh import make_mesh, put_batch
from blip_jax.train.optimizer import make_optimizer
from blip_jax.train.settings import train_settings
from blip_jax.train.state import init_state, make_train_step

SIZES = {"tiny": TINY, "b16": BLIP_B16, "l16": BLIP_L16}


def our_config(args: Args, task: str) -> BlipConfig:
    """Our model of a size, at transformers' patch size and vocabulary."""
    config = SIZES[args.size]
    vision = dataclasses.replace(
        config.vision, image_size=args.image_size, patch_size=16, remat=args.remat
    )
    text = dataclasses.replace(config.text, vocab_size=30524, max_positions=512, remat=args.remat)
    return dataclasses.replace(config, vision=vision, text=text, task=task, dtype=args.dtype)


def random_model(args: Args, task: str) -> tuple[Blip, Any]:
    blip = Blip(our_config(args, task))
    return blip, ready(jax.jit(blip.init)(jax.random.key(0)))


def working_model(args: Args, task: str) -> tuple[Blip, Any]:
    """A random model as inference has it."""
    blip, params = random_model(args, task)
    return blip, ready(blip.working(params))


def ready(value: Any) -> Any:
    return jax.block_until_ready(value)


def placed_pictures(args: Args, count: int) -> jax.Array:
    """Pixels where the model is, as theirs are."""
    return ready(jnp.asarray(pictures(count, args.image_size)))


def device_peak() -> int | None:
    """Most bytes of an accelerator that were held; none without one."""
    held = jax.devices()[0].memory_stats()
    return held["peak_bytes_in_use"] if held else None


def writer(args: Args, method: str) -> Callable[[Any], Any]:
    """What writes a caption for each of `batch_size` pictures, or for their tokens."""
    count = args.batch_size
    blip, params = working_model(args, "caption")
    options = CaptionOptions(method=method, num_beams=3, min_new_tokens=NEW, max_new_tokens=NEW)
    program = caption_program(blip, options)
    prompt = np.full((count, 1), blip.config.text.dec_id, np.int32)
    inputs = (prompt, np.ones(count, np.int32), seed_keys(range(count)))
    return lambda images: ready(program(params, images, *inputs))


def captions(method: str, args: Args) -> Call:
    write, pixels = writer(args, method), placed_pictures(args, args.batch_size)
    return lambda: write(pixels)


def scores(args: Args, images: int, texts: int, itc: bool = False) -> Call:
    """ITM of `images` pictures with `texts` texts each, or ITM and ITC."""
    blip, params = working_model(args, "retrieval")
    pixels = placed_pictures(args, images)
    ids, mask = (x.reshape(images, texts, -1) for x in read_texts(images * texts))

    @jax.jit
    def itm(params: Any, pixels: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return match_logits(blip, params, blip.image_tokens(params, pixels), ids, mask)

    score = functools.partial(score_texts, blip) if itc else itm
    return lambda: ready(score(params, pixels, ids, mask))


def match_one(args: Args) -> Call:
    return scores(args, 1, TEXTS)


def match_pairs(args: Args) -> Call:
    return scores(args, TEXTS, 1)


def capfilt(args: Args) -> Call:
    """Scores by ITC too, as CapFilt does."""
    caption, score = captions("nucleus", args), scores(args, args.batch_size, 2, itc=True)
    return lambda: (caption(), score())


def capfilt_shared(args: Args) -> Call:
    """Runs the one vision tower once a picture."""
    count = args.batch_size
    write, (blip, params) = writer(args, "nucleus"), working_model(args, "retrieval")
    pixels = placed_pictures(args, count)
    ids, mask = (x.reshape(count, 2, -1) for x in read_texts(2 * count))

    def both() -> Any:
        tokens, vectors = encode_images(blip, params, pixels)
        return write(tokens), ready(score_tokens(blip, params, tokens, vectors, ids, mask))

    return both


def train_step(args: Args, blip: Blip, params: Any, task: Any) -> Call:
    """One optimiser step at a time; the state is kept between calls."""
    config = train_settings(steps=1000, batch_size=args.batch_size, lr=1e-5)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, config.steps)
    ids, mask = read_texts(args.batch_size)
    batch = {
        "image": pictures(args.batch_size, args.image_size),
        "input_ids": ids,
        "attention_mask": mask,
        "image_index": np.arange(args.batch_size, dtype=np.int32),
        "prompt_length": np.ones(args.batch_size, np.int32),
    }
    with jax.set_mesh(mesh):
        held = [init_state(task, params, optimizer, 0, mesh)]
        layout = jax.tree.map(lambda x: x.sharding, held[0])
        step = make_train_step(task, optimizer, layout, mesh)
        arrays = put_batch(batch, mesh)

    def call() -> Any:
        held[0], metrics = step(held[0], arrays)
        return ready(metrics)

    return call


def train_caption(args: Args) -> Call:
    blip, params = random_model(args, "caption")
    return train_step(args, blip, params, Stateless(functools.partial(caption.loss, blip)))


def train_pretrain(args: Args) -> Call:
    blip, params = random_model(args, "pretrain")
    return train_step(args, blip, params, Pretrain(Contrastive(blip)))


CALLS: dict[str, Callable[[Args], Call]] = {
    "caption_greedy": functools.partial(captions, "greedy"),
    "caption_nucleus": functools.partial(captions, "nucleus"),
    "caption_beam": functools.partial(captions, "beam"),
    "match_one": match_one,
    "match_one_forward": match_one,
    "match_pairs": match_pairs,
    "capfilt": capfilt,
    "capfilt_shared": capfilt_shared,
    "train_caption": train_caption,
    "train_pretrain": train_pretrain,
}


def work(call: Call) -> tuple[int, int]:
    """FLOPs and bytes of the matrix products of a call."""
    jaxpr = jax.make_jaxpr(call)().jaxpr
    counted = (jaxpr, jax.default_backend(), NEW)
    return matmul_flops(*counted), matmul_bytes(*counted)


def probes(dtype: str) -> dict[str, tuple[Call, float]]:
    """What asks the machine for nothing but a ViT's widest product, and for nothing but copying:
    a call, and the GFLOP or GB that it is. An accelerator is asked for more at once: what it is
    asked takes longer than the asking."""
    on_processor = jax.default_backend() == "cpu"
    m, k, n = (4608, 768, 3072) if on_processor else (16384, 8192, 8192)
    x, w = jnp.ones((m, k), dtype), jnp.ones((k, n), dtype)
    held = [jnp.ones(2**25 if on_processor else 2**30)]
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    again = jax.jit(jnp.negative, donate_argnums=0)

    def copy() -> None:
        held[0] = ready(again(held[0]))

    return {
        "gflops": (lambda: ready(product(x, w)), 2 * m * k * n / 1e9),
        "gbytes": (copy, 2 * held[0].nbytes / 1e9),
    }
