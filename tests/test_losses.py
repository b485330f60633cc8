"""The objectives against plain statements of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax import losses


def unit(key, *shape):
    x = jax.random.normal(jax.random.key(key), shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_itc_is_the_mean_of_two_soft_cross_entropies(alpha):
    features = [np.asarray(unit(i, 4, 8)) for i in range(4)]
    image, text, teacher_image, teacher_text = features
    queue = [np.asarray(unit(9 + i, 5, 8)) for i in range(2)]
    own = np.eye(4, 9)
    loss, i2t, _ = losses.itc(
        *features,
        jnp.concatenate([teacher_image, queue[0]]),
        jnp.concatenate([teacher_text, queue[1]]),
        jnp.asarray(own, bool),
        jnp.ones(9, bool),
        jnp.float32(0.2),
        jnp.float32(alpha),
    )
    total = 0.0
    for student, teacher, candidates in (
        (image, teacher_image, np.concatenate([teacher_text, queue[1]])),
        (text, teacher_text, np.concatenate([teacher_image, queue[0]])),
    ):
        target = alpha * softmax(teacher @ candidates.T / 0.2) + (1 - alpha) * own
        total -= (target * np.log(softmax(student @ candidates.T / 0.2))).sum(1).mean() / 2
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert i2t.shape == (4, 9)


def test_unfilled_queue_slots_change_nothing():
    image, text = unit(0, 4, 8), unit(1, 4, 8)
    rubbish = jnp.concatenate([image, 100 * jnp.ones((3, 8))])
    filled = jnp.arange(7) < 4

    def loss(image):
        args = (image, text, image, text)
        with_queue = losses.itc(
            *args, rubbish, rubbish, jnp.eye(4, 7, dtype=bool), filled,
            jnp.float32(0.07), jnp.float32(0.4),
        )[0]  # fmt: skip
        without = losses.itc(
            *args, rubbish[:4], rubbish[:4], jnp.eye(4, dtype=bool), filled[:4],
            jnp.float32(0.07), jnp.float32(0.4),
        )[0]  # fmt: skip
        return with_queue, without

    a, b = loss(image)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    grad = jax.grad(lambda x: loss(x)[0])(image)
    assert np.isfinite(grad).all()


def test_pairs_of_one_image_share_the_truth():
    positives = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    targets = losses.itc_targets(jnp.zeros((3, 3)), positives, jnp.float32(0))
    np.testing.assert_allclose(targets, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])


def test_hard_negatives_follow_their_weights_and_stay_in_their_group():
    logits = jnp.zeros((6, 6)).at[0, 1].set(3.0).at[0, 5].set(50.0)
    same = jnp.eye(6, dtype=bool)
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn, possible = jax.vmap(lambda k: losses.hard_negatives(k, logits, same, 3))(keys)
    assert possible.all()
    groups = np.arange(6) // 3
    assert (groups[np.asarray(drawn)] == groups).all()
    assert (np.asarray(drawn) != np.arange(6)).all()
    weights = softmax(np.array([0.0, 3.0, 0.0])) + 1e-4
    expected = weights[1] / weights[1:].sum()
    assert abs(np.mean(drawn[:, 0] == 1) - expected) < 0.02


def test_hard_negatives_without_a_candidate_are_left_out_and_finite():
    same = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    extreme = jnp.full((3, 3), 1e6).at[0, 2].set(-1e6)
    index, possible = losses.hard_negatives(jax.random.key(0), extreme, same, 3)
    assert index.tolist()[:2] == [2, 2] and possible.all()
    index, possible = losses.hard_negatives(jax.random.key(0), extreme, jnp.ones((3, 3), bool), 3)
    assert not possible.any() and index.tolist() == [0, 1, 2]


def test_itm_leaves_out_rows_of_no_weight_and_knows_chance():
    logits, labels = jnp.array([[2.0, -1.0], [0.3, 0.1], [9.0, -9.0]]), jnp.array([0, 1, 1])
    loss = losses.itm(logits, labels, jnp.array([1.0, 1.0, 0.0]))
    probs = softmax(np.asarray(logits))
    np.testing.assert_allclose(loss, -np.log([probs[0, 0], probs[1, 1]]).mean(), rtol=1e-5)
    blind = jnp.broadcast_to(jnp.log(jnp.array([2 / 3, 1 / 3])), (3, 2))
    chance = losses.itm(blind, jnp.array([1, 0, 0]), jnp.ones(3))
    np.testing.assert_allclose(chance, losses.ITM_CHANCE, atol=1e-4)


def test_lm_is_torchs_smoothed_cross_entropy_without_padding_and_prompt():
    logits = jax.random.normal(jax.random.key(0), (2, 5, 7))
    ids = jnp.array([[1, 2, 3, 4, 5], [1, 6, 2, 0, 0]])
    mask = (ids > 0).astype(jnp.int32)
    log_probs = np.asarray(jax.nn.log_softmax(logits))

    def expected(first):
        terms = [
            -0.9 * log_probs[b, t, ids[b, t + 1]] - 0.1 * log_probs[b, t].mean()
            for b in range(2)
            for t in range(4)
            if mask[b, t + 1] and t + 1 >= first[b]
        ]
        return np.mean(terms)

    np.testing.assert_allclose(losses.lm(logits, ids, mask), expected([1, 1]), rtol=1e-5)
    prompted = losses.lm(logits, ids, mask, jnp.array([3, 2]))
    np.testing.assert_allclose(prompted, expected([3, 2]), rtol=1e-5)
