"""The training state, and the step that moves it."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from blip_jax.models.blip import Params
from blip_jax.train.mesh import laid_out, path_name, shardings

Metrics = dict[str, jax.Array]

TEMPERATURE_RANGE = (0.001, 0.5)  # the original clamps its learnt temperature to it


class Task(Protocol):
    """What the loop needs of a task; see `blip_jax.tasks`."""

    def check(self, batch_size: int) -> None: ...

    def init_memory(self, params: Params) -> dict[str, Any]: ...

    def begin(self, params: Params, memory: dict[str, Any]) -> dict[str, Any]:
        """What moves once a step whatever a batch is cut into, before the losses: a teacher."""

    def loss(
        self,
        params: Params,
        memory: dict[str, Any],
        batch: dict[str, jax.Array],
        rng: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[dict[str, Any], dict[str, jax.Array]]]: ...


@flax.struct.dataclass
class TrainState:
    """All that changes while training. Saved whole, so a restored run goes on bit for bit."""

    step: jax.Array  # int32, steps done
    params: Params
    opt_state: optax.OptState
    memory: dict[str, Any]  # the task's own: momentum teacher and queues, or nothing
    rng: jax.Array  # key; never changes, each step folds its number in


def nothing(name: str) -> bool:
    """Freezes no parameter."""
    return False


def split(params: Params, frozen: Callable[[str], bool]) -> tuple[Params, Params]:
    """(what is trained, what stays), each with None where the other has a leaf.

    A parameter stays if `frozen` says so of its path. It then costs no backward pass and no
    moments.
    """

    def pick(stays: bool) -> Params:
        def leaf(path: tuple[Any, ...], value: jax.Array) -> jax.Array | None:
            return value if frozen(path_name(path)) is stays else None

        return jax.tree_util.tree_map_with_path(leaf, params)

    return pick(False), pick(True)


def joined(trained: Params, still: Params) -> Params:
    """Inverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, still, is_leaf=lambda x: x is None
    )


def builder(
    task: Task, optimizer: optax.GradientTransformation, frozen: Callable[[str], bool]
) -> Callable[[Params, jax.Array], TrainState]:
    """The function that makes the state at step 0 of params and a random key."""

    def build(params: Params, rng: jax.Array) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(split(params, frozen)[0]),
            memory=task.init_memory(params),
            rng=rng,
        )

    return build


def init_state(
    task: Task,
    params: Params,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    frozen: Callable[[str], bool] = nothing,
    memory: dict[str, Any] | None = None,
) -> TrainState:
    """A state at step 0 around `params`, laid out on the mesh. `frozen` is as in `split`.

    Raises:
      ValueError: `memory` is not what the task keeps, as a queue of another length.
    """
    build, rng = builder(task, optimizer, frozen), jax.random.key(seed)
    shapes = jax.eval_shape(build, params, rng)
    layout = shardings(shapes, mesh)
    state = jax.jit(build, out_shardings=layout)(params, rng)
    if memory is None:
        return state
    check_memory(memory, shapes.memory)
    return dataclasses.replace(state, memory=jax.device_put(memory, layout.memory))


def check_memory(memory: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError that names what does not fit the task."""
    found, needed = (
        {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (memory, wanted)
    )
    wrong = [
        f"{name} is {found.get(name, 'missing')}, expected {needed.get(name, 'none')}"
        for name in sorted(found | needed)
        if found.get(name) != needed.get(name)
    ]
    if wrong:
        raise ValueError(f"the checkpoint's teacher or queue does not fit: {'; '.join(wrong[:3])}")


def abstract_state(
    task: Task,
    params: Params,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: Callable[[str], bool] = nothing,
) -> TrainState:
    """Shapes and shardings of `init_state`'s result; `params` may be shapes. Allocates nothing."""
    rng = jax.eval_shape(lambda: jax.random.key(0))
    return laid_out(jax.eval_shape(builder(task, optimizer, frozen), params, rng), mesh)


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    layout: TrainState,
    mesh: Mesh,
    frozen: Callable[[str], bool] = nothing,
    accumulate: int = 1,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step: state, batch -> state, metrics. The old state's buffers are reused.

    A batch is cut into `accumulate` parts, whose gradients and metrics are averaged. The teacher
    moves once; each part finds the features of the parts before it in the queue.
    """

    def step(
        state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(state.rng, state.step)
        trained, still = split(state.params, frozen)

        def gradient(memory: Any, rng: jax.Array, batch: Any) -> tuple[Any, Params, Metrics]:
            def loss_of(trained: Params) -> Any:
                return task.loss(joined(trained, still), memory, batch, rng, state.step)

            out, grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
            loss, (memory, metrics) = out
            return memory, grads, metrics | {"loss": loss}

        memory = task.begin(state.params, state.memory)
        if accumulate == 1:
            memory, grads, metrics = gradient(memory, rng, batch)
        else:
            memory, grads, metrics = accumulated(gradient, memory, rng, batch, accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = joined(optax.apply_updates(trained, updates), still)
        if "temperature" in params:
            params["temperature"] = jnp.clip(params["temperature"], *TEMPERATURE_RANGE)
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        return dataclasses.replace(
            state, step=state.step + 1, params=params, opt_state=opt_state, memory=memory
        ), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, NamedSharding(mesh, P())))


def accumulated(
    gradient: Callable[..., tuple[Any, Params, Metrics]],
    memory: Any,
    rng: jax.Array,
    batch: dict[str, jax.Array],
    parts: int,
) -> tuple[Any, Params, Metrics]:
    """`gradient` over the parts of a batch in turn: the last memory, mean gradients and metrics."""

    def part_of(x: jax.Array) -> jax.Array:
        # Every parts-th row, so that each device cuts up the rows it has.
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    def body(carry: Any, part: Any) -> tuple[Any, None]:
        memory, sums = carry
        memory, *new = gradient(memory, *part)
        return (memory, jax.tree.map(jnp.add, sums, new)), None

    cut = (jax.random.split(rng, parts), jax.tree.map(part_of, batch))
    shapes = jax.eval_shape(gradient, memory, *jax.tree.map(lambda x: x[0], cut))[1:]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), list(shapes))
    (memory, sums), _ = jax.lax.scan(body, (memory, zeros), cut)
    grads, metrics = jax.tree.map(lambda x: x / parts, sums)
    return memory, grads, metrics
