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


def multiplied(multipliers: dict[str, float]) -> optax.GradientTransformation:
    """Scales the updates of parameters whose path a pattern is found in."""

    def factor(path: tuple[Any, ...]) -> float:
        name = path_name(path)
        return next((f for pattern, f in multipliers.items() if re.search(pattern, name)), 1.0)

    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(
            lambda path, update: factor(path) * update, updates
        )
    )


def frozen(multipliers: dict[str, float]) -> tuple[str, ...]:
    """The patterns of parameters that stay as they are, those whose factor is 0."""
    return tuple(pattern for pattern, factor in multipliers.items() if factor == 0)


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (0.9, `config.b2`) with decoupled decay, after clipping by global norm.

    `config.multipliers` maps patterns of parameter paths to factors of the learning rate; what
    has a factor of 0 is left to `frozen`.
    """
    adamw = optax.adamw(
        schedule(config, steps), b2=config.b2, weight_decay=config.weight_decay, mask=decayed
    )
    clip = optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(clip, adamw, multiplied(dict(config.multipliers)))
