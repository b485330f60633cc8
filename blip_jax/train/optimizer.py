"""AdamW with the schedules of the original (`utils.py`), by step instead of by epoch."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from blip_jax.train.mesh import path_name

# LayerNorms, biases and the temperature are not decayed. The released code decays everything.
NO_DECAY = re.compile(r"(^|/)(bias|scale|temperature|class_token|positions|position)$")


def schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up from `config.min_lr`, then `config.decay`, never under `config.min_lr`.

    "cosine" ends at the last step, "constant" stays, and "epoch" multiplies by
    `config.decay_rate` after every `config.epoch_steps`, as the original's pre-training does.
    "cosine_epoch" moves along the cosine once in `config.epoch_steps`, without a warm-up, as its
    fine-tuning does: the last epoch is still above the lowest rate.

    Raises:
      ValueError: another decay, or one by epochs without the steps of one.
    """
    warmup = min(config.warmup_steps, steps - 1)
    if config.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(
            config.min_lr, config.lr, warmup, steps, config.min_lr
        )
    if config.decay == "constant":
        after = optax.constant_schedule(config.lr)
    elif config.decay not in ("epoch", "cosine_epoch"):
        raise ValueError(
            f"optimizer.decay is {config.decay!r}; expected 'cosine', 'constant', 'epoch' or "
            "'cosine_epoch'"
        )
    elif config.epoch_steps < 1:
        raise ValueError(f"optimizer.decay {config.decay!r} needs optimizer.epoch_steps above 0")
    elif config.decay == "cosine_epoch":
        cosine = optax.warmup_cosine_decay_schedule(config.lr, config.lr, 0, steps, config.min_lr)
        return lambda step: cosine(step // config.epoch_steps * config.epoch_steps)
    else:
        after = by_epoch(config, warmup)
    ramp = optax.linear_schedule(config.min_lr, config.lr, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def by_epoch(config: ConfigDict, warmup: int) -> optax.Schedule:
    """Stairs of the epochs of the whole run; told the steps since the warm-up."""

    def rate(step: Any) -> Any:
        epoch = (step + warmup) // config.epoch_steps
        return jnp.maximum(config.lr * config.decay_rate**epoch, config.min_lr)

    return rate


def decayed(params: Any) -> Any:
    """Tree of bools: which parameters weight decay moves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not NO_DECAY.search(path_name(path)), params
    )


def factor(name: str, multipliers: dict[str, float]) -> float:
    """What a parameter's learning rate is multiplied by: that of the first pattern found in its
    path, 1 without one. A config keeps its patterns in alphabetical order."""
    return next((f for pattern, f in multipliers.items() if re.search(pattern, name)), 1.0)


def multiplied(multipliers: dict[str, float]) -> optax.GradientTransformation:
    """Scales the updates by `factor`."""
    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(
            lambda path, update: factor(path_name(path), multipliers) * update, updates
        )
    )


def frozen(multipliers: dict[str, float]) -> Callable[[str], bool]:
    """Whether the parameter of a path stays as it is: a factor of 0."""
    return lambda name: factor(name, multipliers) == 0


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (0.9, `config.b2`) with decoupled decay, after clipping by global norm.

    `config.multipliers` maps patterns of parameter paths to factors of the learning rate; see
    `factor`. What has a factor of 0 stays (`blip_jax.train.state.split`).
    """
    adamw = optax.adamw(
        schedule(config, steps),
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=None if config.decay_all else decayed,
    )
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, adamw, multiplied(dict(config.multipliers)))
