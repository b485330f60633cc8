"""Checkpoints of the original (and of LAVIS, which kept its names), in and out, for all tasks."""

from collections.abc import Iterator

import numpy as np

from blip_jax.config import BlipConfig, Task
from blip_jax.interop.memory import (
    Memory,
    Shapes,
    is_memory,
    is_momentum,
    memory_shapes,
    read_memory,
    write_memory,
)
from blip_jax.interop.names import (
    CROSS_ATTENTION,
    EMBEDDINGS,
    ITM_HEAD,
    LM_HEAD,
    MERGE,
    MLP,
    NLVR_HEAD,
    PROJECTIONS,
    SELF_ATTENTION,
    TEMPERATURE,
    TWIN_CROSS_ATTENTION,
    VISION,
    VISION_LAYER,
    Reader,
    State,
    fused,
    written,
    written_layers,
)
from blip_jax.interop.report import Imported, Report, listed
from blip_jax.interop.shapes import template
from blip_jax.interop.sizes import read_config
from blip_jax.models.blip import Params
from blip_jax.models.nlvr import FIRST_MERGE
from blip_jax.models.views import decoder_view, encoder_view

ENCODER, DECODER = "text_encoder.", "text_decoder.bert."
HEAD = "text_decoder.cls.predictions."
WORDS = "embeddings.word_embeddings.weight"
_LAYERS = "encoder.layer."
_ENCODE: tuple[Task, ...] = ("pretrain", "retrieval", "vqa", "nlvr")
_DECODE: tuple[Task, ...] = ("pretrain", "caption", "vqa")
_HEADS = (PROJECTIONS, ITM_HEAD, NLVR_HEAD, TEMPERATURE)


def import_salesforce(
    state: State, *, vision_heads: int | None = None, text_heads: int | None = None
) -> Imported:
    """The original's state dict of any task -> parameters, config, memory and report.

    Task and sizes are read off names and shapes; heads are 64 wide unless given. What a file
    holds twice (pre-training's shared tensors, the tied output matrix) must be equal.

    Raises:
      ValueError: no BLIP model; heads that do not divide a width; or tensors that are unknown,
        missing, misshapen, there twice, or tied and different: all of them in one sentence.
    """
    report = Report()
    tensors, problems = with_one_name_each(state, report)
    del state  # whoever passed it alone lets it be freed, tensor by tensor
    config = read_config(tensors, vision_heads, text_heads)
    expected = expected_shapes(config)
    unread = settle_bias(tensors, report) if config.task in _DECODE else {}
    problems += settle_ties(tensors, expected, config.task, report)
    remembers = any(map(is_momentum, tensors)) and config.task in ("pretrain", "retrieval")
    if remembers:
        expected |= memory_shapes(expected, tensors, config.task, config.embed_dim)
    elif config.task in ("pretrain", "retrieval"):
        forget(tensors, report)
    if "temp" in tensors and config.task == "retrieval":
        expected["temp"] = ()
    problems += misfits(tensors, expected)
    if problems:
        raise ValueError(f"not a {config.task} model of BLIP: {listed(problems)}")
    report.split += [name for name in tensors if ".attn.qkv." in name]
    reader = Reader(tensors)
    del tensors
    params = read_params(reader, config.task)
    memory, more = read_memory(reader) if remembers else (None, {})
    return Imported(params, config, memory, report, unread | more)


def export_salesforce(
    params: Params,
    config: BlipConfig,
    memory: Memory | None = None,
    unread: State | None = None,
) -> State:
    """Parameters -> the original's state dict, complete: tied tensors under each of their names.

    With `memory`, as `import_salesforce` gives it or training keeps it, momentum encoders and
    queues too; with `unread` what the import found no place for. Values are views of the
    parameters where they can be.

    Raises:
      ValueError: the original has no model of the task.
    """
    if config.task in ("visdial", "classify"):
        raise ValueError(f"the original has no model of task {config.task!r} to write it as")
    state = fused(write_params(params, config.task))
    if memory is not None:
        state |= write_memory(memory, state, config.task)
    state |= unread or {}
    for name in [name for name in state if name.endswith(".position_embeddings.weight")]:
        ids = name.replace("position_embeddings.weight", "position_ids")
        state[ids] = np.arange(len(state[name]))[None]
    return state


def flatten_like_salesforce(params: Params) -> State:
    """A tree shaped like pre-training's parameters, such as gradients, in the original's names.

    The names are those that the original's `named_parameters()` gives: what encoder and decoder
    share stands once, under `text_encoder`, and the tied output matrix is the word embedding.
    """
    state = fused(write_params(params, "pretrain"))
    copies = {copy for copy, _ in ties(list(state), "pretrain")}
    # torch lists a tied tensor under the first of its names.
    kept = (copies | {f"{HEAD}decoder.bias"}) - {f"{HEAD}bias"}
    return {name: value for name, value in state.items() if name not in kept}


def expected_shapes(config: BlipConfig) -> Shapes:
    """Every tensor that a file of this config holds, memory and position ids aside."""

    def stretched(parts: list[np.ndarray]) -> np.ndarray:
        return np.broadcast_to(np.float32(0), (3 * len(parts[0]), *parts[0].shape[1:]))

    state = fused(write_params(template(config), config.task), stretched)
    return {name: value.shape for name, value in state.items()}


def with_one_name_each(state: State, report: Report) -> tuple[State, list[str]]:
    """Renames what goes by several names, drops position ids; names what is there twice."""
    tensors: State = {}
    problems = []
    for original, value in state.items():
        name = original.removeprefix("module.")  # of DistributedDataParallel
        name = "queue_ptr" if name == "ptr_queue" else name
        if name.endswith("position_ids"):
            report.dropped.append(original)
        elif name in tensors:
            problems.append(f"{original} is there twice")
        else:
            tensors[name] = value
    return tensors, problems


def ties(names: list[str], task: Task) -> Iterator[tuple[str, str]]:
    """(copy, original) of every tensor that the original keeps under two names."""
    for name in names:
        if task == "pretrain" and name.startswith(DECODER) and ".attention." not in name:
            yield name, name.replace(DECODER, ENCODER)
    if task in _DECODE:
        yield f"{HEAD}decoder.weight", f"{DECODER}{WORDS}"
        yield f"{HEAD}bias", f"{HEAD}decoder.bias"


def settle_bias(state: State, report: Report) -> State:
    """Takes `decoder.bias` where `bias` differs, and returns the other under its name.

    transformers 4.15 resized only the former, so the latter is a leftover of another length.
    """
    ours, theirs = f"{HEAD}decoder.bias", f"{HEAD}bias"
    if ours not in state or theirs not in state or np.array_equal(state[ours], state[theirs]):
        return {}
    report.dropped.append(theirs)
    leftover, state[theirs] = state[theirs], state[ours]
    return {theirs: leftover}


def settle_ties(state: State, expected: Shapes, task: Task, report: Report) -> list[str]:
    """Fills in the copy that a file leaves out; says which copies differ."""
    problems = []
    for copy, original in ties(list(expected), task):
        if copy in state and original in state:
            report.tied.append(copy)
            if not np.array_equal(state[copy], state[original]):
                problems.append(f"{copy} is tied to {original} and differs from it")
        elif copy in state or original in state:
            state[copy] = state[original] = state[copy if copy in state else original]
    return problems


def forget(state: State, report: Report) -> None:
    """Drops queues without momentum encoders, as LAVIS leaves them."""
    queues = [name for name in state if is_memory(name)]
    for name in queues:
        del state[name]
    report.dropped += queues
    report.initialised.append("momentum encoders and queues, when training starts")


def misfits(state: State, expected: Shapes) -> Iterator[str]:
    """What is unknown, missing or misshapen, a phrase each."""
    for name in sorted(state.keys() | expected.keys()):
        if name not in expected:
            yield f"{name} is unknown"
        elif name not in state:
            yield f"{name} is missing"
        elif state[name].shape != expected[name]:
            yield f"{name} is {state[name].shape}, expected {expected[name]}"


def read_params(reader: Reader, task: Task) -> Params:
    """The parameter tree out of a state dict that is known to fit."""
    params: Params = {"vision": reader.vision("visual_encoder.")}
    cross = TWIN_CROSS_ATTENTION if task == "nlvr" else CROSS_ATTENTION
    main = DECODER if task == "caption" else ENCODER
    text = params["text"] = reader.text(main, (*SELF_ATTENTION, *cross, *MLP))
    if f"{main}{_LAYERS}{FIRST_MERGE}.{MERGE[0][0]}" in reader.state:
        merge = reader.layers(MERGE, f"{main}{_LAYERS}", FIRST_MERGE)
        text["blocks"]["cross_attention"] |= merge["cross_attention"]
    if task == "pretrain":
        own = reader.layers(SELF_ATTENTION, f"{DECODER}{_LAYERS}")["attention"]
        text["blocks"]["encoder_attention"] = text["blocks"].pop("attention")
        text["blocks"]["decoder_attention"] = own
    if task == "vqa":
        text = params["text_decoder"] = reader.text(DECODER, (*SELF_ATTENTION, *cross, *MLP))
    if task in _DECODE:
        text["lm_head"] = reader.tree(LM_HEAD, HEAD)
    for table in _HEADS:
        if table[0][0] in reader.state:
            params |= reader.tree(table, "")
    return params


def write_params(params: Params, task: Task) -> State:
    """Every view written out in full; the ViT's query, key and value not yet fused."""
    vision = params["vision"]
    state = dict(written(VISION, vision, "visual_encoder."))
    state |= written_layers(VISION_LAYER, vision["blocks"], "visual_encoder.blocks.")
    if task in _ENCODE:
        state |= write_text(encoder_view(params), ENCODER)
    if task in _DECODE:
        view = decoder_view(params)
        state |= write_text(view, DECODER)
        state |= written(LM_HEAD, view["lm_head"], HEAD)
        state[f"{HEAD}bias"] = state[f"{HEAD}decoder.bias"]
        state[f"{HEAD}decoder.weight"] = state[f"{DECODER}{WORDS}"]
    for table in _HEADS:
        if table[0][1].split("/")[0] in params:
            state |= written(table, params, "")
    return state


def write_text(view: Params, prefix: str) -> State:
    """A view's embeddings and layers."""
    blocks, layers = view["blocks"], f"{prefix}{_LAYERS}"
    attention = blocks["cross_attention"]
    cross = TWIN_CROSS_ATTENTION if "left" in attention else CROSS_ATTENTION
    state = dict(written(EMBEDDINGS, view["embeddings"], f"{prefix}embeddings."))
    state |= written_layers((*SELF_ATTENTION, *cross, *MLP), blocks, layers)
    if "merge" in attention:
        state |= written_layers(MERGE, blocks, layers, FIRST_MERGE)
    return state
