"""Hugging Face folders: in and out, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from released import CONFIG, random_tree, tree
from safetensors.numpy import load_file, save_file

from blip_jax.interop.huggingface import export_huggingface, import_huggingface
from blip_jax.interop.source import find_tokenizer, load_source
from blip_jax.interop.torch_file import write_torch
from blip_jax.models.views import decoder_view, encoder_view
from blip_jax.tokenizer import Tokenizer

CLASSES = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
}


def config_of(task, width=CONFIG.vision.width):
    vision = dataclasses.replace(CONFIG.vision, width=width)
    return dataclasses.replace(CONFIG, task=task, vision=vision)


def export(task, folder, **options):
    """A folder of a random model of a task; VQA takes towers of one width there."""
    config = config_of(task, 16 if task == "vqa" else 24)
    params = random_tree(config)
    export_huggingface(params, config, small_tokenizer(), folder, **options)
    return params, config


def small_tokenizer():
    return Tokenizer.train(["a red circle above a blue square"], vocab_size=40)


@pytest.mark.parametrize("task", CLASSES)
def test_a_folder_goes_out_and_comes_back(tmp_path, task):
    params, config = export(task, tmp_path)
    imported = load_source(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, imported.params, params)
    assert imported.config.vision == dataclasses.replace(
        config.vision, drop_path=imported.config.vision.drop_path
    )
    assert imported.config.text == config.text
    conventions = imported.config.conventions
    assert (conventions.match_first, conventions.question_first) == ("cls", "cls")
    assert (conventions.prompt, conventions.question_mask) == ("", False)
    theirs = json.loads((tmp_path / "config.json").read_text())
    assert theirs["architectures"] == [CLASSES[task]]
    assert find_tokenizer(tmp_path).vocab_size == small_tokenizer().vocab_size


def test_shards_and_bin_files_hold_the_same(tmp_path):
    params, _ = export("caption", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    index = {}
    for number, part in enumerate((names[:50], names[50:])):
        shard = f"model-{number}.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / shard)
        index |= dict.fromkeys(part, shard)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    jax.tree.map(np.testing.assert_array_equal, import_huggingface(tmp_path).params, params)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor pytorch_model.bin"):
        import_huggingface(tmp_path)


def edit(folder, part, **changes):
    path = folder / "config.json"
    theirs = json.loads(path.read_text())
    (theirs[part] if part else theirs).update(changes)
    path.write_text(json.dumps(theirs))


def test_folders_of_something_else_are_refused(tmp_path):
    export("caption", tmp_path)
    edit(tmp_path, "text_config", num_hidden_layers=9, intermediate_size=7)
    with pytest.raises(ValueError, match="text_config.num_hidden_layers is 9.*intermediate_size"):
        import_huggingface(tmp_path)
    edit(tmp_path, "text_config", num_hidden_layers=8, intermediate_size=20, hidden_act="relu")
    with pytest.raises(ValueError, match="hidden_act is not gelu"):
        import_huggingface(tmp_path)
    edit(tmp_path, "", model_type="blip-2")
    with pytest.raises(ValueError, match="model_type is 'blip-2'"):
        import_huggingface(tmp_path)


def test_two_namings_at_once_are_refused(tmp_path):
    export("caption", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["visual_encoder.norm.bias"] = np.zeros(24, np.float32)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="two namings.*post_layernorm.bias"):
        import_huggingface(tmp_path)


def test_eight_heads_on_768_are_a_known_mistake(tmp_path):
    text = dataclasses.replace(
        CONFIG.text, width=768, heads=12, depth=1, mlp_width=8, max_positions=4
    )
    config = dataclasses.replace(config_of("caption"), text=text)
    export_huggingface(random_tree(config), config, small_tokenizer(), tmp_path)
    edit(tmp_path, "text_config", num_attention_heads=8)
    imported = import_huggingface(tmp_path)
    assert imported.config.text.heads == 12
    assert any("num_attention_heads 8" in line for line in imported.report.dropped)
    assert import_huggingface(tmp_path, text_heads=6).config.text.heads == 6


def test_a_pretraining_model_goes_out_in_parts(tmp_path):
    params, config = tree("pretrain"), config_of("pretrain")
    export_huggingface(params, config, small_tokenizer(), tmp_path / "caption")
    captioner = import_huggingface(tmp_path / "caption").params
    jax.tree.map(np.testing.assert_array_equal, captioner["text"], decoder_view(params))
    export_huggingface(params, config, small_tokenizer(), tmp_path / "itm", task="retrieval")
    matcher = import_huggingface(tmp_path / "itm").params
    own = encoder_view(params)["blocks"]
    jax.tree.map(np.testing.assert_array_equal, matcher["text"]["blocks"], own)
    with pytest.raises(ValueError, match="no class for a nlvr model"):
        export_huggingface(tree("nlvr"), config_of("nlvr"), small_tokenizer(), tmp_path / "no")
    with pytest.raises(ValueError, match="towers of one width"):
        export_huggingface(tree("vqa"), config_of("vqa"), small_tokenizer(), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_bin_files_are_read(tmp_path):
    params, _ = export("retrieval", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    write_torch(state, tmp_path / "pytorch_model.bin")
    # transformers wrote the state dict at the top; under "model" it is the original's way.
    jax.tree.map(np.testing.assert_array_equal, import_huggingface(tmp_path).params, params)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "config.json is not JSON"),
        ("[" * 100_000, "config.json is not JSON"),
        ("[1]", "config.json holds no JSON object"),
        ('{"model_type": "blip", "text_config": 3}', "text_config is no JSON object"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path, text, complaint):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        import_huggingface(tmp_path)


def test_odd_settings_are_named_and_absent_ones_have_transformers_defaults(tmp_path):
    export("caption", tmp_path)
    for value in (0, "12", None):
        edit(tmp_path, "text_config", num_attention_heads=value, pad_token_id=None)
        if value is not None:
            with pytest.raises(ValueError, match=f"text_config.num_attention_heads is {value!r}"):
                import_huggingface(tmp_path)
    imported = import_huggingface(tmp_path, text_heads=2)
    assert (imported.config.text.pad_id, imported.config.text.heads) == (0, 2)


@pytest.mark.parametrize("placed", [{"x": "../outside.safetensors"}, {}, ["x"], {"x": "/etc/x"}])
def test_shards_lie_beside_their_index(tmp_path, placed):
    export("caption", tmp_path / "model")
    (tmp_path / "model/model.safetensors").rename(tmp_path / "outside.safetensors")
    index = tmp_path / "model/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(ValueError, match=r"index\.json: weight_map must name files"):
        import_huggingface(tmp_path / "model")
