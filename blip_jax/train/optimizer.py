"""AdamW with the schedules of the original (`utils.py`), by step instead of by epoch."""

import re
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from blip_jax.train.mesh import path_name

# LayerNorms, biases and the temperature are not decayed. The released code decays everything.
NO_DECAY = re.compile(r"(^|/)(bias|scale|temperature|class_token|positions|position)$")


def schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up, then `config.decay` ("cosine" or "constant") down to `config.min_lr`."""
    warmup = min(config.warmup_steps, steps - 1)
    if config.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(
            config.min_lr, config.lr, warmup, steps, config.min_lr
        )
    if config.decay == "constant":
        ramp = optax.linear_schedule(config.min_lr, config.lr, warmup)
        return optax.join_schedules([ramp, optax.constant_schedule(config.lr)], [warmup])
    raise ValueError(f"optimizer.decay is {config.decay!r}; expected 'cosine' or 'constant'")


def decayed(params: Any) -> Any:
    """Tree of bools: which parameters weight decay moves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not NO_DECAY.search(path_name(path)), params
    )


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (0.9, `config.b2`) with decoupled decay, after clipping by global norm."""
    adamw = optax.adamw(
        schedule(config, steps), b2=config.b2, weight_decay=config.weight_decay, mask=decayed
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
