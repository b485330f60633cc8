"""Hugging Face folders: in, out, and the same numbers as transformers' own models."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released import CONFIG, random_tree, tree
from safetensors.numpy import load_file, save_file

from blip_jax.interop.huggingface import export_huggingface, import_huggingface
from blip_jax.interop.source import find_tokenizer, load_source
from blip_jax.interop.torch_file import write_torch
from blip_jax.models.blip import Blip, decoder_view, encoder_view
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


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    return torch


def their_model(torch, task):
    import transformers

    config = transformers.BlipConfig(
        text_config={
            "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48, "max_position_embeddings": 12, "bos_token_id": 38,
        },
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 40, "image_size": 32, "patch_size": 8, "initializer_range": 0.02,
        },
        image_text_hidden_size=6,
    )  # fmt: skip
    model = getattr(transformers, CLASSES[task])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("task", CLASSES)
def test_transformers_gives_the_same_numbers_and_gets_the_same_tensors(torch, tmp_path, task):
    theirs = their_model(torch, task)
    theirs.save_pretrained(tmp_path / "in")
    imported = import_huggingface(tmp_path / "in")
    assert imported.config.vision.norm_eps == 1e-5
    blip, params = Blip(imported.config), imported.params
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.tensor([[1, 20, 21, 2], [1, 22, 2, 0]])
    mask = (ids > 0).long()
    text = [jnp.asarray(x.numpy(), jnp.int32) for x in (ids, mask)]
    tokens = blip.image_tokens(params, jnp.asarray(pixels.permute(0, 2, 3, 1).numpy()))
    expected = theirs.vision_model(pixels).last_hidden_state
    close(tokens, expected)
    if task == "caption":
        out = theirs.text_decoder(ids, attention_mask=mask, encoder_hidden_states=expected)
        close(blip.lm_logits(params, tokens, *text), out.logits)
    if task == "vqa":
        asked = theirs.text_encoder(ids, attention_mask=mask, encoder_hidden_states=expected)[0]
        sees = {"encoder_hidden_states": asked, "encoder_attention_mask": torch.ones_like(mask)}
        out = theirs.text_decoder(ids, attention_mask=mask, **sees)
        question = jnp.asarray(asked.detach().numpy())
        close(blip.lm_logits(params, question, *text), out.logits)
    if task == "retrieval":
        close(blip.match_logits(params, tokens, *text), theirs(ids, pixels, attention_mask=mask)[0])
        cosine = theirs(ids, pixels, attention_mask=mask, use_itm_head=False)[0]
        close(blip.image_embeds(params, tokens) @ blip.text_embeds(params, *text).T, cosine)

    export_huggingface(params, imported.config, small_tokenizer(), tmp_path / "out")
    back, info = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    ours = back.state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours[k], v) for k, v in theirs.state_dict().items())
    assert torch.equal(back.eval().vision_model(pixels).last_hidden_state, expected)


def test_bin_files_are_read(tmp_path):
    params, _ = export("retrieval", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    write_torch(state, tmp_path / "pytorch_model.bin")
    # transformers wrote the state dict at the top; under "model" it is the original's way.
    jax.tree.map(np.testing.assert_array_equal, import_huggingface(tmp_path).params, params)
