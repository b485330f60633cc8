"""Padding of the word embedding: no number changes, and nothing of it is exported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from tiny import CONFIG, batch, init_params, pretraining, settings

from blip_jax.models.blip import Blip
from blip_jax.models.vocabulary import with_rows
from blip_jax.tasks import caption

PADDED = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, vocab_multiple=50))


def test_rows_are_a_multiple_and_zeros_are_cut_off_again():
    params = init_params()
    more = with_rows(params, PADDED.text.vocab_rows)
    assert PADDED.text.vocab_rows % 50 == 0 and PADDED.text.vocab_rows > CONFIG.text.vocab_size
    assert more["text"]["embeddings"]["word"].shape[0] == PADDED.text.vocab_rows
    assert not np.any(more["text"]["lm_head"]["bias"][CONFIG.text.vocab_size :])
    like = jax.eval_shape(Blip(PADDED).init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, more) == jax.tree.map(jnp.shape, like)
    back = with_rows(more, CONFIG.text.vocab_size)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert dataclasses.replace(PADDED, unroll=2).as_saved() == CONFIG


def test_padding_changes_no_loss_and_no_gradient():
    def gradient(config, params):
        text = dataclasses.replace(config.text, dropout=0.0, attention_dropout=0.0)
        task = caption.objective(Blip(dataclasses.replace(config, text=text)), settings())
        args = (
            {},
            jax.tree.map(jnp.asarray, batch(0)),
            jax.random.key(0),
            jnp.zeros((), jnp.int32),
        )
        return jax.value_and_grad(lambda p: task.loss(p, *args)[0])(params)

    rows = PADDED.text.vocab_rows
    loss, grads = gradient(CONFIG, init_params())
    padded_loss, padded_grads = gradient(PADDED, with_rows(init_params(), rows))
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    expected = with_rows(grads, rows)  # the padding gets none
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), padded_grads, expected)


def test_teacher_and_queue_are_padded_as_the_student_is():
    memory = pretraining().init_memory(init_params())
    more = with_rows(memory, PADDED.text.vocab_rows)
    word = more["teacher"]["text"]["embeddings"]["word"]
    assert word.shape[0] == PADDED.text.vocab_rows
    np.testing.assert_array_equal(more["queue"]["image"], memory["queue"]["image"])
    assert with_rows(None, 5) is None
