"""transformers' torch models, weights random, float32: the same numbers, the same tokens.

`pytest -m full_size tests/test_torch_parity.py -s` does it with ViT-B and ViT-L at 384 pixels,
which takes minutes and 8 GiB, and prints the largest deviations.
"""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.inference import answer
from blip_jax.inference.caption import CaptionOptions, caption_program, seed_keys
from blip_jax.inference.trained import program
from blip_jax.interop.huggingface import export_huggingface, import_huggingface
from blip_jax.models.blip import Blip
from blip_jax.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

CLASSES = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
}
SMALL_TEXT = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 24, "bos_token_id": 38,
    "sep_token_id": 2, "eos_token_id": 2,
}  # fmt: skip
SIZES = {  # of vision: image, patch, width, depth, heads, mlp; settings of text; [SEP]'s bias
    "small": ((32, 8, 32, 2, 2, 40), SMALL_TEXT, 0.6),
    "B": ((384, 16, 768, 12, 12, 3072), {"num_attention_heads": 12}, 6.0),
    "L": ((384, 16, 1024, 24, 16, 4096), {"num_attention_heads": 12}, 8.0),
}
VISION = (
    "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size",
)  # fmt: skip
IMAGES, TEXT, NEW = 3, 12, 10
full_size = pytest.mark.full_size
CASES = [("small", task) for task in CLASSES] + [
    # transformers' VQA model takes towers of one width, so it has no ViT-L.
    *(pytest.param("B", task, marks=full_size) for task in CLASSES),
    *(pytest.param("L", task, marks=full_size) for task in ("caption", "retrieval")),
]


def their_model(size, task):
    """A random model of transformers whose answers differ from image to image."""
    sizes, text, sep_bias = SIZES[size]
    vision = dict(zip(VISION, sizes, strict=True))
    text = text | {"encoder_hidden_size": vision["hidden_size"]}
    config = transformers.BlipConfig(
        text_config=text, vision_config=vision, image_text_hidden_size=256
    )
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[task])(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            is_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(float(is_scale), 0.1)
        elif "embedding" in name and "patch" not in name:
            parameter.normal_(0, 0.1)
        else:  # narrow branches, so that each token still shows above twelve layers
            narrow = 0.35 if "text" in name and "output.dense" in name else 1
            parameter.normal_(0, narrow / parameter[0].numel() ** 0.5)
    if task == "caption":
        model.text_decoder.cls.predictions.bias[config.text_config.sep_token_id] = sep_bias
    return model


def some_images(side):
    """Blots and noise [N, 3, S, S]."""
    blots = torch.nn.functional.interpolate(torch.randn(IMAGES, 3, 4, 4), side, mode="bicubic")
    return blots + 0.5 * torch.randn(IMAGES, 3, side, side)


def some_texts(config):
    """Texts of different lengths [N, T] and their masks, long."""
    ids = torch.randint(5, config.bos_token_id, (IMAGES, TEXT))
    ids[:, 0] = 1
    for row in range(IMAGES):
        ids[row, TEXT - 1 - 3 * row] = config.sep_token_id
        ids[row, TEXT - 3 * row :] = config.pad_token_id
    return ids, (ids != config.pad_token_id).long()


def ours(tensor):
    return jnp.asarray(tensor.numpy(), jnp.int32)


def close(name, mine, theirs):
    """Within 2e-5, of the value where that is above 1."""
    mine, theirs = np.asarray(mine, np.float64), theirs.numpy().astype(np.float64)
    deviation = np.abs(mine - theirs) / np.maximum(1, np.abs(theirs))
    print(f"{name}: {deviation.max():.1e} of values up to {np.abs(theirs).max():.3g}")
    assert theirs.std() > 1e-3
    assert deviation.max() < 2e-5, name


def same_tokens(mine, theirs, text):
    """New tokens of one text an image; returns them, the end and padding left out."""
    theirs = theirs.numpy()
    theirs = np.pad(theirs, ((0, 0), (0, NEW - theirs.shape[1])))
    ends = theirs == text.sep_token_id
    # What stands behind the end is padding in one search of theirs and more ends in another.
    expected = np.where(ends.cumsum(1) - ends > 0, text.pad_token_id, theirs)
    np.testing.assert_array_equal(np.asarray(mine)[:, 0], expected)
    special = (text.sep_token_id, text.pad_token_id)
    return [tuple(row[~np.isin(row, special)]) for row in expected]


def check_caption(theirs, blip, params, pixels, tokens):
    """Logits; greedy and beam search after two prompts."""
    text = theirs.config.text_config
    ids, mask = some_texts(text)
    seen = theirs.vision_model(pixels).last_hidden_state
    logits = theirs.text_decoder(ids, attention_mask=mask, encoder_hidden_states=seen).logits
    mine = jax.jit(blip.lm_logits)(params, tokens, ours(ids), ours(mask))
    close("LM logits", np.asarray(mine)[mask.bool().numpy()], logits[mask.bool()])
    images = jnp.asarray(pixels.permute(0, 2, 3, 1).numpy())
    texts = []
    for length, method, penalty in ((1, "greedy", 1.0), (1, "beam", 1.0), (4, "beam", 1.5)):
        prompt = ids[:1, :length].repeat(IMAGES, 1)
        prompt[:, 0] = text.bos_token_id
        # Sums of log-probabilities: since 4.15 transformers has changed what length it divides by.
        found = theirs.generate(
            pixels,
            input_ids=torch.nn.functional.pad(prompt, (0, 1)),  # it drops the last
            max_new_tokens=NEW,
            num_beams=3 if method == "beam" else 1,
            repetition_penalty=penalty,
            **({"length_penalty": 0.0} if method == "beam" else {}),
        )
        options = CaptionOptions(
            method=method,
            min_new_tokens=0,
            max_new_tokens=NEW,
            repetition_penalty=penalty,
            length_penalty=0.0,
        )
        keys, lengths = seed_keys(range(IMAGES)), jnp.full(IMAGES, length)
        written = caption_program(blip, options)(params, images, ours(prompt), lengths, keys)
        texts += same_tokens(written.tokens, found[:, length:], text)
    sizes = set(map(len, texts))
    assert len(set(texts)) > IMAGES and max(sizes) == NEW > min(sizes)


def check_vqa(theirs, blip, params, pixels, tokens):
    """Logits; greedy and beam search of answers, which see the padding of questions."""
    text = theirs.config.text_config
    ids, mask = some_texts(text)
    seen = theirs.vision_model(pixels).last_hidden_state
    asked = theirs.text_encoder(ids, attention_mask=mask, encoder_hidden_states=seen)[0]
    close("question", blip.question_tokens(params, tokens, ours(ids), ours(mask)), asked)
    answers, answer_mask = some_texts(text)
    # Their cross-attention looks at no mask, whatever `encoder_attention_mask` it is given.
    question = {"attention_mask": answer_mask, "encoder_hidden_states": asked}
    logits = theirs.text_decoder(answers, **question).logits
    source = jnp.asarray(asked.numpy())
    mine = jax.jit(blip.lm_logits)(params, source, ours(answers), ours(answer_mask))
    real = answer_mask.bool()
    close("LM logits", np.asarray(mine)[real.numpy()], logits[real])
    images = jnp.asarray(pixels.permute(0, 2, 3, 1).numpy())
    texts = []
    for beams in (1, 3):
        lengths = {"min_new_tokens": NEW, "max_new_tokens": NEW, "num_beams": beams}
        found = theirs.generate(ids, pixels, attention_mask=mask, **lengths)
        asked = (images, ours(ids), ours(mask))
        written = program(answer.written, blip, None, num_return=1, **lengths)(params, *asked)
        texts += same_tokens(written.tokens, found[:, 1:], text)
    assert len(set(texts)) > 1


def check_retrieval(theirs, blip, params, pixels, tokens):
    """Embeddings, ITC's cosines, ITM's logits."""
    ids, mask = some_texts(theirs.config.text_config)
    unit = torch.nn.functional.normalize
    hidden = theirs.text_encoder(ids, attention_mask=mask).last_hidden_state
    seen = theirs.vision_model(pixels).last_hidden_state
    image = jax.jit(blip.image_embeds)(params, tokens)
    text = jax.jit(blip.text_embeds)(params, ours(ids), ours(mask))
    close("image embeddings", image, unit(theirs.vision_proj(seen[:, 0])))
    close("text embeddings", text, unit(theirs.text_proj(hidden[:, 0])))
    cosine = theirs(ids, pixels, attention_mask=mask, use_itm_head=False).itm_score
    close("ITC", image @ text.T, cosine)
    match = theirs(ids, pixels, attention_mask=mask).itm_score
    close("ITM", jax.jit(blip.match_logits)(params, tokens, ours(ids), ours(mask)), match)


CHECKS = {"caption": check_caption, "vqa": check_vqa, "retrieval": check_retrieval}


@pytest.mark.parametrize(("size", "task"), CASES)
def test_transformers_gives_the_same_numbers_and_gets_the_same_tensors(tmp_path, size, task):
    theirs = their_model(size, task)
    theirs.save_pretrained(tmp_path / "in")
    pixels = some_images(theirs.config.vision_config.image_size)
    imported = import_huggingface(tmp_path / "in")
    assert imported.config.vision.norm_eps == 1e-5
    blip, params = Blip(imported.config), jax.device_put(imported.params)
    tokens = jax.jit(blip.image_tokens)(params, jnp.asarray(pixels.permute(0, 2, 3, 1).numpy()))
    expected = theirs.vision_model(pixels).last_hidden_state
    close(f"{size} {task}: image tokens", tokens, expected)
    CHECKS[task](theirs, blip, params, pixels, tokens)

    tokenizer = Tokenizer.train(["a red circle"], vocab_size=40)
    del params, tokens  # a full-size model is held several times as it is
    export_huggingface(imported.params, imported.config, tokenizer, tmp_path / "out")
    del imported
    gc.collect()
    back, info = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    state = back.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
    with torch.no_grad():
        again = back.eval().vision_model(pixels).last_hidden_state
    assert torch.equal(again, expected)
