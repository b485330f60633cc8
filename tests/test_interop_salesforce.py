"""The original's checkpoints of all five tasks: whole in, whole out, or refused in one sentence."""

import json

import jax
import numpy as np
import pytest
from released import CONFIG, HEADS, TASKS, file, memory_like, tree

from blip_jax.interop.salesforce import (
    export_salesforce,
    flatten_like_salesforce,
    import_salesforce,
)
from blip_jax.interop.torch_file import read_torch, write_torch

PARITY = ("pretrain", "caption", "itm", "vqa", "nlvr")
DECODER = "text_decoder.bert."
HEAD = "text_decoder.cls.predictions."


def assert_same_state(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_a_random_model_goes_out_and_comes_back(tmp_path, task):
    write_torch(file(task), tmp_path / "x.pth")
    state = read_torch(tmp_path / "x.pth")["model"]
    imported = import_salesforce(state, **HEADS)
    jax.tree.map(np.testing.assert_array_equal, imported.params, tree(task))
    assert imported.config.task == task
    assert (imported.config.vision.heads, imported.config.vision.image_size) == (4, 32)
    assert imported.config.text == CONFIG.text
    back = export_salesforce(imported.params, imported.config, imported.memory, imported.unread)
    assert_same_state(back, state)


@pytest.mark.parametrize("name", PARITY)
def test_the_originals_files_go_out_as_they_came_in(shared, name):
    state = read_torch(shared / f"parity/{name}.pth")["model"]
    arch = json.loads((shared / f"parity/{name}.json").read_text())["arch"]
    imported = import_salesforce(state, vision_heads=4, text_heads=4)
    vision, text = imported.config.vision, imported.config.text
    assert vision.image_size == arch["vision"]["image_size"]
    assert (vision.depth, vision.mlp_width) == (arch["vision"]["depth"], arch["vision"]["mlp_dim"])
    assert text.max_positions == arch["text"]["max_position_embeddings"]
    back = export_salesforce(imported.params, imported.config, imported.memory, imported.unread)
    assert_same_state(back, state)


def test_exported_names_are_the_originals_parameters(shared):
    state = read_torch(shared / "parity/pretrain.pth")["model"]
    flat = flatten_like_salesforce(import_salesforce(state).params)
    recorded = np.load(shared / "parity/pretrain.npz").files
    assert set(flat) == {k.removeprefix("grad/") for k in recorded if k.startswith("grad/")}


@pytest.mark.parametrize("task", ["pretrain", "retrieval"])
def test_memory_is_what_training_keeps(task):
    imported = import_salesforce(file(task), **HEADS)
    expected = memory_like(task)
    jax.tree.map(np.testing.assert_array_equal, imported.memory["teacher"], expected["teacher"])
    queue = imported.memory["queue"]
    np.testing.assert_array_equal(queue["text"], expected["queue"]["text"])
    assert queue["count"] % 4 == 3
    # An image that nobody knows has a number that no batch carries, not a negative one:
    # negative slots are taken for empty.
    known = [5, 7, 8] if task == "retrieval" else []
    assert sorted(set(queue["image_index"]) & set(range(100))) == known
    assert len(set(queue["image_index"])) == 4
    assert (queue["image_index"] > 0).all()


def test_memory_trained_here_gets_the_cross_attention_that_the_original_wants():
    state = file("pretrain")  # written without `unread`
    name = "encoder.layer.1.crossattention.self.key.weight"
    np.testing.assert_array_equal(state[f"text_encoder_m.{name}"], state[f"text_encoder.{name}"])


def test_lavis_files_lack_momentum():
    state = {k: v for k, v in file("pretrain").items() if "_m." not in k}
    imported = import_salesforce(state, **HEADS)
    assert imported.memory is None
    assert {"image_queue", "text_queue", "queue_ptr"} <= set(imported.report.dropped)
    assert "momentum encoders and queues" in imported.report.initialised[0]


def test_the_report_tells_what_was_done():
    report = import_salesforce(file("caption"), **HEADS).report
    assert report.tied == [f"{HEAD}decoder.weight", f"{HEAD}bias"]
    assert "visual_encoder.blocks.1.attn.qkv.weight" in report.split
    assert report.dropped == [f"{DECODER}embeddings.position_ids"]
    assert str(report).splitlines()[0] == f"tied 2: {HEAD}decoder.weight, {HEAD}bias"
    assert "split 4: " in str(report)
    assert "and 1 more" in str(report)
    assert "resized" not in str(report)


def test_a_leftover_bias_gives_way_to_the_decoders():
    state = file("pretrain")
    leftover = np.zeros(38, np.float32)  # before the two task tokens came
    imported = import_salesforce(state | {f"{HEAD}bias": leftover}, **HEADS)
    bias = imported.params["text"]["lm_head"]["bias"]
    np.testing.assert_array_equal(bias, state[f"{HEAD}decoder.bias"])
    assert f"{HEAD}bias" in imported.report.dropped
    back = export_salesforce(imported.params, imported.config, imported.memory, imported.unread)
    np.testing.assert_array_equal(back[f"{HEAD}bias"], leftover)


def test_a_copy_that_is_left_out_is_filled_in():
    state = file("caption")
    for name in (f"{HEAD}decoder.weight", f"{HEAD}decoder.bias"):
        del state[name]
    params = import_salesforce(state, **HEADS).params
    jax.tree.map(np.testing.assert_array_equal, params, tree("caption"))


def test_everything_wrong_is_named_at_once():
    state = file("pretrain")
    tied = [f"{DECODER}embeddings.LayerNorm.bias", f"{DECODER}encoder.layer.1.output.dense.weight"]
    state |= {name: state[name] + 1 for name in tied}
    state |= {"surprise": np.zeros(1), "itm_head.weight": np.zeros((3, 16))}
    state["module.temp"] = state["temp"]
    del state["visual_encoder.blocks.1.attn.qkv.bias"], state["visual_encoder_m.cls_token"]
    with pytest.raises(ValueError, match="not a pretrain model") as error:
        import_salesforce(state, **HEADS)
    for phrase in (
        *(f"{name} is tied to" for name in tied),
        "surprise is unknown",
        "itm_head.weight is (3, 16), expected (2, 16)",
        "module.temp is there twice",
        "visual_encoder.blocks.1.attn.qkv.bias is missing",
        "visual_encoder_m.cls_token is missing",
    ):
        assert phrase in str(error.value)
    assert str(error.value).count(";") == 6


def test_nlvr_merges_from_the_seventh_layer_on():
    state = file("nlvr")
    merge = "crossattention.output.merge_layer.bias"
    layers = [f"text_encoder.encoder.layer.{i}.{merge}" for i in range(8)]
    assert [name for name in state if merge in name] == layers[6:]
    del state[layers[6]]
    with pytest.raises(ValueError, match="6.crossattention.output.merge_layer.bias is missing"):
        import_salesforce(state, **HEADS)
    state = file("nlvr") | {layers[5]: np.zeros(16, np.float32)}
    with pytest.raises(ValueError, match="5.crossattention.output.merge_layer.bias is unknown"):
        import_salesforce(state, **HEADS)


def test_other_architectures_and_heads_are_refused():
    with pytest.raises(ValueError, match="not a BLIP model.*found conv1, fc"):
        import_salesforce({"conv1.weight": np.zeros(1), "fc.bias": np.zeros(1)})
    with pytest.raises(ValueError, match="vision.width 24 is not a multiple of vision.heads 5"):
        import_salesforce(file("caption"), vision_heads=5)
