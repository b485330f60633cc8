"""What the tasks learn: against the original's numbers, and against definitions in plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from original import original

from blip_jax import losses
from blip_jax.config import BlipConfig
from blip_jax.models.blip import Blip
from blip_jax.models.transfer import transfer
from blip_jax.tasks import caption, nlvr, retrieval, visdial, vqa
from blip_jax.tasks.contrastive import Contrastive


def quiet(config: BlipConfig) -> Blip:
    """The functions of a model that drops nothing out."""
    text = dataclasses.replace(config.text, dropout=0.0, attention_dropout=0.0)
    vision = dataclasses.replace(config.vision, drop_path=0.0)
    return Blip(dataclasses.replace(config, text=text, vision=vision))


def computed(task, blip, params, batch):
    """The task's loss and metrics."""
    return jax.jit(task.objective(blip, None).compute)(params, batch, jax.random.key(0))


def test_caption_loss_is_the_originals(shared):
    model, arrays, facts = original(shared, "caption")
    prompt = facts["prompt"]
    ids, mask = model.tokenizer.encode(facts["captions"], max_length=40)
    length = np.full(len(ids), model.tokenizer.count([prompt])[0] - 1)
    batch = {
        "image": arrays["image"],
        "input_ids": jnp.asarray(ids),
        "attention_mask": mask,
        "prompt_length": length,
    }
    task = caption.objective(quiet(model.config), None)
    loss, _ = jax.jit(task.loss)(model.params, {}, batch, jax.random.key(0), 0)
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)


def test_vqa_loss_is_the_originals(shared):
    model, arrays, facts = original(shared, "vqa")
    ids, mask = model.tokenizer.encode(facts["questions"], max_length=35, first="[ENC]")
    answers, weights = list(facts["train_answers"]), list(facts["weights"])
    most = max(facts["n"])
    rows = []
    for count in facts["n"]:  # as `Questions` fills them up
        own = [(answers.pop(0), weights.pop(0)) for _ in range(count)]
        rows += own + [("", 0.0)] * (most - count)
    answer_ids, answer_mask = model.tokenizer.encode(
        [a for a, _ in rows], max_length=12, first="[DEC]"
    )
    shape = (len(ids), most, 12)
    batch = {
        "image": arrays["image"],
        "input_ids": ids,
        "attention_mask": mask,
        "answer_ids": jnp.asarray(answer_ids.reshape(shape)),
        "answer_mask": answer_mask.reshape(shape),
        "weights": np.array([w for _, w in rows], np.float32).reshape(shape[:2]),
    }
    loss, _ = computed(vqa, quiet(model.config), model.params, batch)
    np.testing.assert_allclose(loss, arrays["train_loss"], rtol=1e-5)


def test_nlvr_loss_is_the_originals(shared):
    model, arrays, facts = original(shared, "nlvr")
    ids, mask = model.tokenizer.encode(facts["texts"], max_length=32, first="[ENC]")
    batch = {
        "left": arrays["image"][:2],
        "right": arrays["image"][2:],
        "input_ids": ids,
        "attention_mask": mask,
        "label": jnp.asarray(facts["labels"]),
    }
    loss, _ = computed(nlvr, quiet(model.config), model.params, batch)
    np.testing.assert_allclose(loss, arrays["loss"], atol=1e-4)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_retrieval_loss_is_its_definition():
    """ITC over batch and queue with every caption of an image a positive; ITM over 1 + 2 pairs."""
    blip = quiet(dataclasses.replace(tiny.CONFIG, task="retrieval"))
    params = jax.device_get(jax.jit(blip.init)(jax.random.key(0)))
    task = retrieval.Retrieval(Contrastive(blip, queue_size=12, alpha=0.4))
    rng = np.random.default_rng(0)
    images = np.array([3, 5, 3, 7])  # two captions of image 3 in the batch
    batch = tiny.batch(0, 4) | {"image_index": images.astype(np.int32)}
    queue_index = np.array(
        [5, 3, 11, 3, 5, 12, 13, -1, -1, -1, -1, -1]
    )  # the rest was never filled
    queue = rng.normal(size=(2, 12, 16))
    queue /= np.linalg.norm(queue, axis=-1, keepdims=True)
    memory = task.init_memory(jax.tree.map(lambda x: 0.9 * x, params))  # a teacher that differs
    memory["queue"] |= {
        "image": jnp.asarray(queue[0], jnp.float32),
        "text": jnp.asarray(queue[1], jnp.float32),
        "image_index": jnp.asarray(queue_index, jnp.int32),
        "count": jnp.int32(7),
    }
    key = jax.random.key(1)
    args = (params, memory, {k: jnp.asarray(v) for k, v in batch.items()}, key, jnp.int32(99))
    total, (after, metrics) = jax.jit(task.loss)(*args)

    def features(tree):
        tokens = blip.image_tokens(tree, batch["image"])
        text = blip.text_embeds(tree, batch["input_ids"], batch["attention_mask"])
        return tokens, np.asarray(blip.image_embeds(tree, tokens)), np.asarray(text)

    tokens, image, text = features(params)
    _, teacher_image, teacher_text = features(memory["teacher"])
    temperature = float(params["temperature"])
    everyone = np.concatenate([images, queue_index[:7]])
    positive = (images[:, None] == everyone[None]).astype(float)
    itc, in_batch = 0.0, []
    for online, teacher, own, queued in (
        (image, teacher_image, teacher_text, queue[1][:7]),
        (text, teacher_text, teacher_image, queue[0][:7]),
    ):
        candidates = np.concatenate([own, queued])
        soft = np.exp(log_softmax(teacher @ candidates.T / temperature))
        targets = 0.4 * soft + 0.6 * positive / positive.sum(1, keepdims=True)
        logits = online @ candidates.T / temperature
        itc -= (targets * log_softmax(logits)).sum(1).mean() / 2
        in_batch.append(logits[:, :4])
    np.testing.assert_allclose(metrics["loss_itc"], itc, rtol=1e-4)

    # The same draws, looked at: never of the row's own image, over the whole batch.
    keys, same = jax.random.split(key, 6)[3:], images[:, None] == images[None]
    hard_image, _ = losses.hard_negatives(keys[0], jnp.asarray(in_batch[1]), jnp.asarray(same), 4)
    hard_text, _ = losses.hard_negatives(keys[1], jnp.asarray(in_batch[0]), jnp.asarray(same), 4)
    assert (images[hard_image] != images).all() and (images[hard_text] != images).all()
    rows = np.arange(4)
    pairs = [(rows, rows, 1), (np.asarray(hard_image), rows, 0), (rows, np.asarray(hard_text), 0)]
    ids = batch["input_ids"].copy()
    ids[:, 0] = blip.config.text.enc_id
    itm = []
    for i, t, label in pairs:
        logits = blip.match_logits(params, tokens[i], ids[t], batch["attention_mask"][t])
        itm.append(-log_softmax(np.asarray(logits))[:, label])
    np.testing.assert_allclose(metrics["loss_itm"], np.mean(itm), rtol=1e-4)
    np.testing.assert_allclose(total, itc + np.mean(itm), rtol=1e-4)
    np.testing.assert_array_equal(after["queue"]["image_index"][7:11], images)
    np.testing.assert_allclose(after["queue"]["text"][7:11], teacher_text, atol=1e-5)


def test_dialogue_loss_tells_right_from_wrong():
    blip = quiet(dataclasses.replace(tiny.CONFIG, task="visdial"))
    params = jax.device_get(jax.jit(blip.init)(jax.random.key(0)))
    row = tiny.batch(0, 2)
    ids = np.stack([row["input_ids"], row["input_ids"][::-1]], 1)  # [2, 1 + 1, 8]
    batch = {
        "image": row["image"],
        "caption_ids": row["input_ids"],
        "caption_mask": row["attention_mask"],
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
    }
    loss, _ = computed(visdial, blip, params, batch)
    tokens = blip.image_tokens(params, row["image"])
    source, mask = blip.dialog_source(params, tokens, row["input_ids"], row["attention_mask"])
    assert source.shape[1] == tokens.shape[1] + 8 and mask.shape == source.shape[:2]
    log_probs = [
        log_softmax(np.asarray(blip.dialog_logits(params, source, mask, ids[:, i], mask[:, :8])))
        for i in (0, 1)
    ]
    expected = -(log_probs[0][:, 1].mean() + log_probs[1][:, 0].mean()) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


# parameters from a pre-trained checkpoint


def drawn(**fields):
    blip = Blip(dataclasses.replace(tiny.CONFIG, **fields))
    return jax.eval_shape(blip.init, jax.random.key(1))


def test_trees_begin_as_the_pretrained_ones():
    params = tiny.init_params()
    blocks = params["text"]["blocks"]
    tree, new = transfer(params, "pretrain", drawn(task="vqa"), "vqa")
    assert new == []
    np.testing.assert_array_equal(
        tree["text"]["blocks"]["attention"]["query"]["kernel"],
        blocks["encoder_attention"]["query"]["kernel"],
    )
    for part in ("attention", "cross_attention"):
        name = "decoder_attention" if part == "attention" else part
        np.testing.assert_array_equal(
            tree["text_decoder"]["blocks"][part]["key"]["kernel"], blocks[name]["key"]["kernel"]
        )
    twins, new = transfer(params, "pretrain", drawn(task="nlvr"), "nlvr")
    cross = twins["text"]["blocks"]["cross_attention"]
    for side in ("left", "right"):
        for name in ("query", "key", "value", "out"):
            expected = blocks["cross_attention"][name]["kernel"]
            np.testing.assert_array_equal(cross[side][name]["kernel"], expected)
    assert {name.split("/")[0] for name in new} == {"nlvr_head"}
    deep = dataclasses.replace(tiny.TEXT, depth=8)
    source = jax.eval_shape(
        Blip(dataclasses.replace(tiny.CONFIG, text=deep)).init, jax.random.key(0)
    )
    _, new = transfer(source, "pretrain", drawn(task="nlvr", text=deep), "nlvr")
    assert {n for n in new if "nlvr_head" not in n} == {
        f"text/blocks/cross_attention/merge/{n}" for n in ("kernel", "bias")
    }


def test_a_wider_image_tower_draws_what_cannot_be_taken():
    wide = dataclasses.replace(tiny.VISION, width=64)
    params = drawn(vision=wide)
    _, new = transfer(params, "pretrain", drawn(vision=wide, task="vqa"), "vqa")
    assert new == [
        f"text_decoder/blocks/cross_attention/{part}/kernel" for part in ("key", "value")
    ]
    _, new = transfer(params, "pretrain", drawn(vision=wide, task="visdial"), "visdial")
    assert {name.split("/")[0] for name in new} == {"caption_proj"}


@pytest.mark.parametrize(
    ("source", "task", "sentence"),
    [
        ("caption", "classify", "a model of task 'caption' has no text encoder"),
        ("retrieval", "vqa", "a model of task 'retrieval' has no text decoder"),
    ],
)
def test_a_source_without_the_tower_is_refused(source, task, sentence):
    fields = {"classes": ("a",)} if task == "classify" else {}
    with pytest.raises(ValueError, match=sentence):
        transfer(drawn(task=source), source, drawn(task=task, **fields), task)


def test_a_tower_of_another_size_is_refused():
    shallow = dataclasses.replace(tiny.VISION, depth=1)
    with pytest.raises(ValueError, match="of other sizes, or missing: vision/blocks/"):
        transfer(drawn(), "pretrain", drawn(task="caption", vision=shallow), "caption")
