"""Questions against the original's own answers, under both conventions, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from original import original, under

from blip_jax import losses
from blip_jax.inference.answer import encode_questions, rank_answers, read_question, write_answers
from blip_jax.inference.batching import encode


@pytest.fixture(scope="module")
def recorded(shared):
    return original(shared, "vqa")


@pytest.mark.parametrize("k", [4, 10])
def test_ranks(recorded, k):
    model, arrays, facts = recorded
    args = (model, arrays["image"], facts["questions"], facts["answers"])
    chosen, _ = rank_answers(*args, top_k=k)
    np.testing.assert_array_equal(chosen[:, 0], arrays[f"rank{k}"])


def test_answers_that_ignore_padding(recorded):
    model, arrays, facts = recorded
    texts, _ = write_answers(model, arrays["image"], facts["questions"])
    assert [row[0] for row in texts] == facts["generate_one_by_one"]


def test_answers_that_see_padding(recorded):
    model, arrays, facts = recorded
    released = under(model, question_mask=False)
    texts, _ = write_answers(released, arrays["image"], facts["questions"])
    assert [row[0] for row in texts] == facts["generate_batched_no_mask"]


def test_training_loss(recorded):
    model, arrays, facts = recorded
    blip, params = model.blip, model.params
    asked, mask = encode_questions(model, facts["questions"])
    source = jax.jit(read_question, static_argnums=0)(blip, params, arrays["image"], asked, mask)
    owners = np.repeat(np.arange(2), facts["n"])
    ids, answer_mask = encode(model.tokenizer, facts["train_answers"], 48, "[DEC]")
    logits = blip.lm_logits(
        params, source[owners], jnp.asarray(ids), answer_mask, source_mask=mask[owners]
    )
    weights = jnp.asarray(facts["weights"], jnp.float32)
    loss = losses.vqa(logits, ids, answer_mask, weights, images=2)
    np.testing.assert_allclose(loss, arrays["train_loss"], rtol=1e-5)
