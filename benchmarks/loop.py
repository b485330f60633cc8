"""What the training loop costs beside its steps, and whether its memory grows.

    python benchmarks/loop.py --steps 2000

Pre-trains `configs/pretrain.py:tiny` on one batch of noise, so that the data cost nothing:
the loop with its metrics (every 10 steps), log of samples and asynchronous checkpoints (one every
`--checkpoint_every` steps), in turn with the bare jitted step.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grain
import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "configs"))
from pretrain import get_config

from blip_jax.config import BlipConfig
from blip_jax.models.blip import Blip
from blip_jax.tasks import pretrain
from blip_jax.train import journal
from blip_jax.train.folder import RunFolder
from blip_jax.train.loop import Run, train
from blip_jax.train.mesh import make_mesh, put_batch
from blip_jax.train.optimizer import make_optimizer
from blip_jax.train.state import init_state, make_train_step


def noise(config, blip: Blip) -> dict[str, np.ndarray]:
    """One batch as the pipeline gives it."""
    rows, length = config.batch_size, config.data.max_tokens
    size = blip.config.vision.image_size
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3), np.uint8),
        "input_ids": rng.integers(5, 200, (rows, length)).astype(np.int32),
        "attention_mask": np.ones((rows, length), np.int32),
        "image_index": np.arange(rows, dtype=np.int32),
        "uid_hash": np.arange(rows, dtype=np.uint32),
        "prompt_length": np.ones(rows, np.int32),
    }


def bare_seconds(config, task, params, batch, steps: int) -> float:
    """Seconds a step of the jitted step alone."""
    mesh = make_mesh(config.mesh.to_dict())
    optimizer = make_optimizer(config.optimizer, config.steps)
    with jax.set_mesh(mesh):
        state = init_state(task, params, optimizer, 0, mesh)
        layout = jax.tree.map(lambda x: x.sharding, state)
        step = make_train_step(task, optimizer, layout, mesh)
        arrays = put_batch({k: v for k, v in batch.items() if k != "uid_hash"}, mesh)
        state, metrics = step(state, arrays)
        jax.block_until_ready(metrics)
        started = time.perf_counter()
        for _ in range(steps):
            state, metrics = step(state, arrays)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - started) / steps


def loop_seconds(config, task, params, batch) -> tuple[float, list[tuple[int, float]]]:
    """Seconds a step of the whole loop between its first report and its last but one, and
    (step, resident MiB)."""
    memory: list[tuple[int, float]] = []

    def count(number: int) -> dict[str, np.ndarray]:
        if number % 200 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.append((number, pages * resource.getpagesize() / 2**20))
        return batch

    data = grain.MapDataset.range(0, 10 * config.steps).map(count).to_iter_dataset()
    with tempfile.TemporaryDirectory() as folder:
        train(Run(RunFolder(folder), "loop", config), task, params, data)
        rows = [row for row in journal.read(Path(folder) / "goodput.jsonl") if row.get("step")]
    first, last = rows[0], rows[-2]  # before the last checkpoint, which is waited for
    return (last["end"] - first["end"]) / (last["step"] - first["step"]), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="of the run that shows the memory")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--checkpoint_every", type=int, default=200)
    args = parser.parse_args()
    config = get_config("tiny")
    blip = Blip(BlipConfig.from_dict(config.model.to_dict()))
    config = config.run
    config.update({"log_every": 10, "checkpoint_every": args.checkpoint_every})
    config.batch_size, config.steps = args.batch_size, args.checkpoint_every + 20
    task = pretrain.objective(blip, config)
    params = jax.device_get(jax.jit(blip.init)(jax.random.key(0)))
    batch = noise(config, blip)
    pairs = []
    for _ in range(args.rounds):
        bare = bare_seconds(config, task, params, batch, 100)
        loop, _ = loop_seconds(config, task, params, batch)
        pairs.append((bare, loop))
        print(
            f"bare {1e3 * bare:.1f} ms, loop {1e3 * loop:.1f} ms, {100 * (loop / bare - 1):+.1f} %"
        )
    cost = statistics.median(loop / bare - 1 for bare, loop in pairs)
    print(f"median over {args.rounds} rounds: the loop costs {100 * cost:+.1f} % of a step")
    config.batch_size, config.steps = 16, args.steps
    _, memory = loop_seconds(config, task, params, {k: v[:16] for k, v in batch.items()})
    print("resident memory, MiB, by step: " + ", ".join(f"{s}: {m:.0f}" for s, m in memory))


if __name__ == "__main__":
    main()
