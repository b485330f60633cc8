"""What the model's passes cost, beside transformers' torch models in the same run.

    python benchmarks/speed.py --list
    python benchmarks/speed.py caption_greedy match_one --batch_size 8 --rounds 5 --out speed.json

Weights are random and the same length is written by both, so that both do the same work. A row
runs ours and theirs in turn, `--rounds` times two calls after a first one of each; figures are
medians of the second calls.
Beside them stand the matrix products of our side and how near they come to the rate that the
machine has for nothing else (`benchmarks/roofline.py` draws both).
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers
import torch
import transformers

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
SIDES = ("ours", "theirs")
SETTINGS = ("size", "image_size", "batch_size", "dtype", "remat")  # flags that a figure depends on
NEW, LENGTH = 20, 30  # tokens written, tokens of a text that is read
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure: how to make what a call of either side does, and how much of it."""

    unit: str
    items: int  # of the unit, a call
    ours: Callable[[], Call]
    theirs: Callable[[], Call]


def our_config(args: argparse.Namespace, task: str) -> BlipConfig:
    """Our model of a size, at transformers' patch size and vocabulary."""
    config = SIZES[args.size]
    vision = dataclasses.replace(
        config.vision, image_size=args.image_size, patch_size=16, remat=args.remat
    )
    text = dataclasses.replace(config.text, vocab_size=30524, max_positions=512, remat=args.remat)
    return dataclasses.replace(config, vision=vision, text=text, task=task, dtype=args.dtype)


def random_model(args: argparse.Namespace, task: str) -> tuple[Blip, Any]:
    blip = Blip(our_config(args, task))
    return blip, jax.block_until_ready(jax.jit(blip.init)(jax.random.key(0)))


def working_model(args: argparse.Namespace, task: str) -> tuple[Blip, Any]:
    """A random model as inference has it."""
    blip, params = random_model(args, task)
    return blip, ready(blip.working(params))


def pictures(args: argparse.Namespace, count: int) -> np.ndarray:
    """Normalised pixels [N, H, W, 3]."""
    shape = (count, args.image_size, args.image_size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def for_torch(args: argparse.Namespace, pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(torch_dtype(args))


def torch_dtype(args: argparse.Namespace) -> torch.dtype:
    return getattr(torch, args.dtype)


def read_texts(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks [N, T] of texts that fill their room."""
    ids = np.random.default_rng(1).integers(1000, 30000, (count, LENGTH)).astype(np.int32)
    return ids, np.ones_like(ids)


def torch_model(args: argparse.Namespace, model: Any) -> Any:
    """In the precision asked for, its towers compiled where asked."""
    model = model.to(torch_dtype(args)).requires_grad_(False)
    for tower in ("vision_model", "text_encoder", "text_decoder") if args.compile else ():
        if hasattr(model, tower):
            getattr(model, tower).compile()
    return model


def ready(value: Any) -> Any:
    return jax.block_until_ready(value)


def our_captions(args: argparse.Namespace, method: str) -> Callable[[Any], Any]:
    """What writes a caption for each of `batch_size` pictures, or for their tokens."""
    count = args.batch_size
    blip, params = working_model(args, "caption")
    options = CaptionOptions(method=method, num_beams=3, min_new_tokens=NEW, max_new_tokens=NEW)
    program = caption_program(blip, options)
    prompt = np.full((count, 1), blip.config.text.dec_id, np.int32)
    inputs = (prompt, np.ones(count, np.int32), seed_keys(range(count)))
    return lambda images: ready(program(params, images, *inputs))


def caption_row(method: str) -> Callable[[argparse.Namespace], Row]:
    """`batch_size` pictures captioned by greedy, nucleus (p = 0.9) or beam search (3 beams)."""

    def build(args: argparse.Namespace) -> Row:
        count = args.batch_size

        def ours() -> Call:
            write, pixels = our_captions(args, method), pictures(args, count)
            return lambda: write(pixels)

        def theirs() -> Call:
            lengths = {"min_new_tokens": NEW, "max_new_tokens": NEW}
            model = torch_model(args, peers.captioner(args.size, args.image_size))
            seen = for_torch(args, pictures(args, count))
            search = {
                "greedy": {"num_beams": 1},
                "nucleus": {"do_sample": True, "top_p": 0.9, "top_k": 0},
                "beam": {"num_beams": 3},
            }[method]
            return lambda: model.generate(seen, **search, **lengths)

        return Row("captions", count, ours, theirs)

    return build


def our_scores(args: argparse.Namespace, images: int, texts: int, itc: bool = False) -> Call:
    """ITM of `images` pictures with `texts` texts each, or ITM and ITC."""
    blip, params = working_model(args, "retrieval")
    pixels = pictures(args, images)
    ids, mask = (x.reshape(images, texts, -1) for x in read_texts(images * texts))

    @jax.jit
    def itm(params: Any, pixels: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return match_logits(blip, params, blip.image_tokens(params, pixels), ids, mask)

    score = functools.partial(score_texts, blip) if itc else itm
    return lambda: ready(score(params, pixels, ids, mask))


def their_matcher(args: argparse.Namespace) -> Any:
    return torch_model(args, peers.matcher(args.size, args.image_size))


def match_one(args: argparse.Namespace) -> Row:
    """One picture against 64 texts; theirs encodes it once too, by hand."""

    def theirs() -> Call:
        model, seen = their_matcher(args), for_torch(args, pictures(args, 1))
        ids, mask = map(torch.from_numpy, read_texts(64))

        @torch.no_grad()
        def by_hand() -> Any:
            tokens = model.vision_model(seen).last_hidden_state.expand(64, -1, -1)
            hidden = model.text_encoder(
                ids.long(), attention_mask=mask, encoder_hidden_states=tokens
            )
            return model.itm_head(hidden[0][:, 0])

        return by_hand

    return Row("pairs", 64, lambda: our_scores(args, 1, 64), theirs)


def their_pairs(args: argparse.Namespace, pixels: np.ndarray, ids: np.ndarray) -> Call:
    """transformers' forward as documented: a picture beside each text."""
    model, seen, texts = their_matcher(args), for_torch(args, pixels), torch.from_numpy(ids).long()
    return torch.no_grad()(lambda: model(texts, seen).itm_score)


def match_one_forward(args: argparse.Namespace) -> Row:
    """One picture against 64 texts; theirs by its forward, which takes a picture a text."""

    def theirs() -> Call:
        return their_pairs(args, pictures(args, 1).repeat(64, 0), read_texts(64)[0])

    return Row("pairs", 64, lambda: our_scores(args, 1, 64), theirs)


def match_pairs(args: argparse.Namespace) -> Row:
    """64 pictures with a text each."""

    def theirs() -> Call:
        return their_pairs(args, pictures(args, 64), read_texts(64)[0])

    return Row("pairs", 64, lambda: our_scores(args, 64, 1), theirs)


def capfilt(args: argparse.Namespace) -> Row:
    """A nucleus caption and two match scores a picture, captioner and filter apart.

    Ours scores by ITC too, as CapFilt does.
    """
    write, count = caption_row("nucleus")(args), args.batch_size

    def ours() -> Call:
        caption, score = write.ours(), our_scores(args, count, 2, itc=True)
        return lambda: (caption(), score())

    def theirs() -> Call:
        caption, pixels = write.theirs(), pictures(args, count)
        model, seen = their_matcher(args), for_torch(args, pixels)
        texts = torch.from_numpy(read_texts(2 * count)[0]).long().reshape(count, 2, -1)

        @torch.no_grad()
        def both() -> None:
            caption()
            for text in texts.unbind(1):
                model(text, seen)

        return both

    return Row("images", count, ours, theirs)


def capfilt_shared(args: argparse.Namespace) -> Row:
    """The same of models that share a vision tower, which ours runs once a picture.

    Theirs runs its tower in every call: none of its models takes image tokens.
    """
    count = args.batch_size

    def ours() -> Call:
        write, (blip, params) = our_captions(args, "nucleus"), working_model(args, "retrieval")
        pixels = pictures(args, count)
        ids, mask = (x.reshape(count, 2, -1) for x in read_texts(2 * count))

        def both() -> Any:
            tokens, vectors = encode_images(blip, params, pixels)
            return write(tokens), ready(score_tokens(blip, params, tokens, vectors, ids, mask))

        return both

    return Row("images", count, ours, capfilt(args).theirs)


def our_step(args: argparse.Namespace, blip: Blip, params: Any, task: Any) -> Call:
    """One optimiser step of ours at a time; the state is kept between calls."""
    config = train_settings(steps=1000, batch_size=args.batch_size, lr=1e-5)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, config.steps)
    ids, mask = read_texts(args.batch_size)
    batch = {
        "image": pictures(args, args.batch_size),
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


def their_step(args: argparse.Namespace, model: Any, loss_of: Callable[[Any], Any]) -> Call:
    """The same of theirs, with torch's fused AdamW."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, weight_decay=0.05, fused=True)
    if args.compile:
        model.compile()

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
            loss_of(model).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return call


def torch_batch(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, ids, mask."""
    ids, mask = map(torch.from_numpy, read_texts(args.batch_size))
    return torch.from_numpy(pictures(args, args.batch_size)).permute(0, 3, 1, 2), ids.long(), mask


def train_caption(args: argparse.Namespace) -> Row:
    """A step of caption fine-tuning."""

    def ours() -> Call:
        blip, params = random_model(args, "caption")
        return our_step(args, blip, params, Stateless(functools.partial(caption.loss, blip)))

    def theirs() -> Call:
        seen, ids, mask = torch_batch(args)
        given = {"pixel_values": seen, "input_ids": ids, "attention_mask": mask, "labels": ids}
        model = peers.captioner(args.size, args.image_size)
        return their_step(args, model, lambda m: m(**given).loss)

    return Row("samples", args.batch_size, ours, theirs)


def train_pretrain(args: argparse.Namespace) -> Row:
    """A step of pre-training with teacher, queues of 57,600 and the three losses."""

    def ours() -> Call:
        blip, params = random_model(args, "pretrain")
        return our_step(args, blip, params, Pretrain(Contrastive(blip)))

    def theirs() -> Call:
        config = peers.their_config(args.size, args.image_size)
        torch.manual_seed(0)
        model = peers.TorchPretrain(config.vision_config, config.text_config)
        return their_step(args, model, lambda m: m(*torch_batch(args)))

    return Row("samples", args.batch_size, ours, theirs)


ROWS: dict[str, Callable[[argparse.Namespace], Row]] = {
    **{f"caption_{method}": caption_row(method) for method in ("greedy", "nucleus", "beam")},
    "match_one": match_one,
    "match_one_forward": match_one_forward,
    "match_pairs": match_pairs,
    "capfilt": capfilt,
    "capfilt_shared": capfilt_shared,
    "train_caption": train_caption,
    "train_pretrain": train_pretrain,
}


def turn(call: Call) -> float:
    """Seconds of the second of two calls: the first finds again what memory the other side's
    made the process give up, which a virtual machine may be slow to give."""
    call()
    return seconds(call)


def seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row: medians, and the ratio of each pair of calls that followed each other."""
    row = ROWS[name](args)
    flops, moved = work(row.ours())  # a call of its own, gone again: a traced step is spoilt
    calls = row.ours(), row.theirs()
    first = [seconds(call) for call in calls]
    pairs = [[turn(call) for call in calls] for _ in range(args.rounds)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "row": name,
        "unit": f"{row.unit}/s",
        "ours": row.items / ours,
        "theirs": row.items / theirs,
        "ratio": statistics.median(b / a for a, b in pairs),
        "spread": [min(b / a for a, b in pairs), max(b / a for a, b in pairs)],
        "first_call_seconds": first,
        "gflop": flops / 1e9,
        "gbyte": moved / 1e9,
        "gflops": flops / 1e9 / ours,
        **({"peak_gib": {side: peak(name, side, args) for side in SIDES}} if args.memory else {}),
    }


def work(call: Call) -> tuple[int, int]:
    """FLOPs and bytes of the matrix products of a call of ours."""
    jaxpr = jax.make_jaxpr(call)().jaxpr
    return matmul_flops(jaxpr, turns=NEW), matmul_bytes(jaxpr, turns=NEW)


@functools.cache
def machine(dtype: str) -> dict[str, float]:
    """What the machine does at best of nothing but a ViT's widest product, and of copying."""
    x, w = jnp.ones((4608, 768), dtype), jnp.ones((768, 3072), dtype)
    held = [jnp.ones((4096, 8192))]
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    again = jax.jit(jnp.negative, donate_argnums=0)

    def copy() -> None:
        held[0] = ready(again(held[0]))

    calls = (lambda: ready(product(x, w)), copy)
    best = [min(seconds(call) for _ in range(20)) for call in calls]
    gflop, gbyte = 2 * 4608 * 768 * 3072 / 1e9, 2 * held[0].nbytes / 1e9
    return {"gflops": gflop / best[0], "gbytes": gbyte / best[1]}


def peak(name: str, side: str, args: argparse.Namespace) -> float:
    """Most memory, GiB, of a process that builds and runs one side alone, twice."""
    given = [f"--{key}={getattr(args, key)}" for key in SETTINGS]
    command = [sys.executable, __file__, name, f"--only={side}", *given]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def alone(name: str, args: argparse.Namespace) -> float:
    """GiB that this process held at most, running one side (on Linux)."""
    call = getattr(ROWS[name](args), args.only)()
    call()
    call()
    # What getrusage tells begins at the most that the parent held.
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 2**20


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """What a figure means nothing without."""
    return {
        "command": " ".join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
        "device": str(jax.devices()[0].device_kind),
        "machine": machine(args.dtype),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {m.__name__: m.__version__ for m in (jax, torch, transformers)},
        **{k: getattr(args, k) for k in (*SETTINGS, "rounds")},
    }


def table(results: list[dict[str, Any]], best: float) -> str:
    """Markdown; `best` is the machine's GFLOP/s."""
    lines = [
        "| row | ours | transformers | ratio (lowest to highest) | of the machine's rate |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        low, high = r["spread"]
        lines.append(
            f"| {r['row']} | {r['ours']:.3g} {r['unit']} | {r['theirs']:.3g} {r['unit']} | "
            f"{r['ratio']:.2f} ({low:.2f} to {high:.2f}) | {100 * r['gflops'] / best:.0f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="all where none is named")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--size", choices=SIZES, default="b16")
    parser.add_argument("--image_size", type=int, default=384)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--remat", choices=("none", "dots"), default="none", help="of our training")
    parser.add_argument("--compile", action="store_true", help="torch.compile theirs")
    parser.add_argument("--memory", action="store_true", help="peak memory of each side, alone")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.list:
        print("\n".join(ROWS))
        return
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"no row {unknown[0]!r}; --list names them")
    if args.only:
        print(alone(args.rows[0], args))
        return
    results = []
    for name in args.rows or ROWS:
        results.append(measure(name, args))
        print(json.dumps(results[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(facts(args) | {"results": results}, indent=1) + "\n")
    print("\n" + table(results, machine(args.dtype)["gflops"]))


if __name__ == "__main__":
    main()
