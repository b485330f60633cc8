"""Decoding against plain-Python loops, over a toy model whose logits depend on all it was fed."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.generation import beam, greedy, nucleus
from blip_jax.generation.logits import keep_top_k, keep_top_p, penalize

EOS = 2
PAD = 0
STATES = 1009


class ToyModel:
    """Logits are a table's row at a hash of (token, position) over the whole history.

    A wrong position, a wrong token or a cache of the wrong beam changes the hash, hence the text.
    """

    def __init__(self, vocabulary: int, seed: int, eos_bonus: float = 0.0, scale: float = 1.5):
        table = scale * np.random.default_rng(seed).standard_normal((STATES, vocabulary))
        table[:, EOS] += eos_bonus
        self.table = table.astype(np.float32)
        self.calls = 0

    def state(self, tokens) -> int:
        state = 1
        for position, token in enumerate(tokens):
            state = (state * 131 + int(token) * 17 + position * 7) % STATES
        return state

    def logits(self, tokens) -> np.ndarray:
        return self.table[self.state(tokens)]

    def log_probs(self, tokens) -> np.ndarray:
        logits = self.logits(tokens)
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum(dtype=np.float32))

    def decode(self, tokens, position, cache):
        state = cache["state"][:, :, 0]
        state = (state * 131 + tokens * 17 + position[:, None] * 7) % STATES
        jax.debug.callback(self._count)
        return jnp.asarray(self.table)[state], {"state": state[:, :, None]}

    def _count(self):
        self.calls += 1

    def start(self, prompts):
        """What a caller hands over after prefilling ragged prompts."""
        lengths = np.array([len(p) for p in prompts], np.int32)
        padded = np.full((len(prompts), lengths.max()), PAD, np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        states = np.array([self.state(p) for p in prompts], np.int32)
        cache = {"state": jnp.asarray(states)[:, None, None]}
        logits = np.stack([self.logits(p) for p in prompts])
        return jnp.asarray(logits), cache, jnp.asarray(padded), jnp.asarray(lengths)


def run(method, model, prompts, **options):
    """Runs under jit, with implicit rank promotion forbidden; numpy results."""
    arrays = {name: options.pop(name) for name in ("keys",) if name in options}
    program = functools.partial(method, model.decode, eos_id=EOS, pad_id=PAD, **options)
    model.calls = 0
    with jax.numpy_rank_promotion("raise"):
        generated = jax.jit(program)(*model.start(prompts), **arrays)
    jax.effects_barrier()
    return jax.tree.map(np.asarray, generated)


def constrain(scores, history, step, min_new_tokens, repetition_penalty):
    scores = scores.copy()
    for token in set(history):
        factor = np.float32(repetition_penalty)
        scores[token] = scores[token] * factor if scores[token] < 0 else scores[token] / factor
    if step < min_new_tokens:
        scores[EOS] = -np.inf
    return scores


def reference_greedy(model, prompt, *, max_new_tokens, min_new_tokens=0, repetition_penalty=1.0):
    history = list(prompt)
    for step in range(max_new_tokens):
        logits = model.logits(history)
        scores = constrain(logits, history, step, min_new_tokens, repetition_penalty)
        history.append(int(scores.argmax()))
        if history[-1] == EOS:
            break
    return history[len(prompt) :]


class ReferenceHypotheses:
    """transformers 4.15 `BeamHypotheses`, early_stopping False."""

    def __init__(self, num_beams, length_penalty):
        self.num_beams, self.length_penalty = num_beams, length_penalty
        self.beams, self.worst_score = [], 1e9

    def add(self, history, sum_logprobs, text):
        score = sum_logprobs / len(history) ** self.length_penalty
        if len(self.beams) < self.num_beams or score > self.worst_score:
            self.beams.append((score, text))
            if len(self.beams) > self.num_beams:
                ranked = sorted((s, i) for i, (s, _) in enumerate(self.beams))
                del self.beams[ranked[0][1]]
                self.worst_score = ranked[1][0]
            else:
                self.worst_score = min(score, self.worst_score)

    def is_done(self, best_sum_logprobs, cur_len):
        if len(self.beams) < self.num_beams:
            return False
        return self.worst_score >= best_sum_logprobs / cur_len**self.length_penalty


def reference_beam(
    model,
    prompt,
    *,
    num_beams,
    max_new_tokens,
    min_new_tokens=0,
    repetition_penalty=1.0,
    length_penalty=1.0,
):
    """transformers 4.15 `beam_search` and `BeamSearchScorer` for one row, best text first."""
    hypotheses = ReferenceHypotheses(num_beams, length_penalty)
    beams = [list(prompt)] * num_beams
    sums = np.array([0.0] + [-1e9] * (num_beams - 1), np.float32)
    done = False
    for step in range(max_new_tokens):
        scores = np.stack(
            [
                constrain(model.log_probs(b), b, step, min_new_tokens, repetition_penalty)
                for b in beams
            ]
        )
        flat = (scores + sums[:, None]).ravel()
        ranked = np.argsort(-flat, kind="stable")[: 2 * num_beams]
        going = []
        for rank, index in enumerate(ranked):
            parent, token = divmod(int(index), scores.shape[1])
            if token == EOS:
                if rank >= num_beams:
                    continue
                text = [*beams[parent][len(prompt) :], EOS]
                hypotheses.add(beams[parent], float(flat[index]), text)
            else:
                going.append(([*beams[parent], token], flat[index]))
            if len(going) == num_beams:
                break
        done = hypotheses.is_done(float(flat[ranked[0]]), len(beams[0]))
        if done:
            break
        beams = [history for history, _ in going]
        sums = np.array([total for _, total in going], np.float32)
    if not done:
        for history, total in zip(beams, sums, strict=True):
            hypotheses.add(history, float(total), history[len(prompt) :])
    return sorted(hypotheses.beams, key=lambda pair: pair[0])[::-1]


def text_of(generated, row, column=0):
    return generated.tokens[row, column, : generated.lengths[row, column]].tolist()


def check_layout(generated, model, prompts):
    """End tokens close texts, padding follows, and log_probs are the model's own."""
    for row, column in np.ndindex(generated.lengths.shape):
        text = text_of(generated, row, column)
        slots = generated.tokens.shape[2]
        assert len(text) == slots or text[-1] == EOS
        assert EOS not in text[:-1]
        assert (generated.tokens[row, column, len(text) :] == PAD).all()
        history, expected = list(prompts[row]), []
        for token in text:
            expected.append(model.log_probs(history)[token])
            history.append(token)
        expected += [0.0] * (slots - len(text))
        np.testing.assert_allclose(generated.log_probs[row, column], expected, atol=2e-5)


PROMPTS = [[10, 3, 4, 5], [10], [10, 7], [10, 6, 6, 9, 1, 8]]
CONSTRAINTS = [
    {},
    {"repetition_penalty": 1.8},
    {"min_new_tokens": 4},
    {"min_new_tokens": 3, "repetition_penalty": 0.7},
]


@pytest.mark.parametrize("constraints", CONSTRAINTS)
def test_greedy_is_the_python_loop(constraints):
    model = ToyModel(11, seed=1, eos_bonus=1.0)
    generated = run(greedy, model, PROMPTS, max_new_tokens=9, **constraints)
    for row, prompt in enumerate(PROMPTS):
        expected = reference_greedy(model, prompt, max_new_tokens=9, **constraints)
        assert text_of(generated, row) == expected
    check_layout(generated, model, PROMPTS)
    np.testing.assert_allclose(generated.scores, generated.log_probs.sum(-1), rtol=1e-6)


def test_constraints_change_the_texts():
    """Else the cases above would show nothing."""
    model = ToyModel(11, seed=1, eos_bonus=1.0)
    texts = [
        [reference_greedy(model, prompt, max_new_tokens=9, **c) for prompt in PROMPTS]
        for c in CONSTRAINTS
    ]
    for one, other in itertools.combinations(texts, 2):
        assert one != other


def test_repetition_penalty_ignores_prompt_padding():
    model = ToyModel(11, seed=3)
    model.table[:, PAD] += 20.0  # the padding id would win unless it were penalized
    prompts = [[10], [10, 7, 3]]
    generated = run(greedy, model, prompts, max_new_tokens=1, repetition_penalty=50.0)
    for row, prompt in enumerate(prompts):
        expected = reference_greedy(model, prompt, max_new_tokens=1, repetition_penalty=50.0)
        assert text_of(generated, row) == expected == [PAD]


def test_greedy_stops_when_all_rows_have_ended():
    model = ToyModel(11, seed=1, eos_bonus=20.0)
    run(greedy, model, PROMPTS, max_new_tokens=50)
    assert model.calls == 0
    generated = run(greedy, model, PROMPTS, max_new_tokens=50, min_new_tokens=3)
    assert (generated.lengths == 4).all()
    assert model.calls == 3
    model = ToyModel(11, seed=1, eos_bonus=-50.0)
    run(greedy, model, PROMPTS, max_new_tokens=6)
    assert model.calls == 5


@pytest.mark.parametrize(
    "num_beams, length_penalty, constraints",
    [
        (1, 1.0, CONSTRAINTS[0]),
        (2, 2.0, CONSTRAINTS[0]),
        (3, 1.0, CONSTRAINTS[0]),
        (3, 1.0, CONSTRAINTS[1]),
        (3, 1.0, CONSTRAINTS[2]),
        (2, 0.5, CONSTRAINTS[3]),
        (4, -0.5, CONSTRAINTS[3]),
    ],
)
def test_beam_is_the_4_15_scorer(num_beams, length_penalty, constraints):
    options = {
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "max_new_tokens": 7,
        **constraints,
    }
    model = ToyModel(11, seed=10 + num_beams, eos_bonus=1.2)
    prompts = [*PROMPTS, *([10, a] for a in range(3, 9))]
    generated = run(beam, model, prompts, num_return=num_beams, **options)
    for row, prompt in enumerate(prompts):
        expected = reference_beam(model, prompt, **options)
        assert [text_of(generated, row, k) for k in range(num_beams)] == [t for _, t in expected]
        np.testing.assert_allclose(
            generated.scores[row], [score for score, _ in expected], rtol=1e-5, atol=1e-5
        )
    check_layout(generated, model, prompts)


def test_beam_with_a_vocabulary_smaller_than_its_candidates():
    """The unused beams of the first step are ranked, as they are in the original."""
    model = ToyModel(5, seed=21)
    prompts = [[4], [4, 1], [4, 3, 1], [4, 1, 1]]
    generated = run(beam, model, prompts, num_beams=4, max_new_tokens=6)
    for row, prompt in enumerate(prompts):
        score, text = reference_beam(model, prompt, num_beams=4, max_new_tokens=6)[0]
        assert text_of(generated, row) == text
        assert generated.scores[row, 0] == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_wide_beam_finds_the_best_of_all_texts(length_penalty):
    model = ToyModel(4, seed=31)
    prompts = [[1], [1, 3], [1, 3, 3]]
    slots = 4

    def score(prompt, text):
        history, total = list(prompt), 0.0
        for token in text:
            total += model.log_probs(history)[token]
            history.append(token)
        counted = len(history) - (text[-1] == EOS)
        return total / counted**length_penalty

    others = [t for t in range(4) if t != EOS]
    texts = [[*body, EOS] for n in range(slots) for body in itertools.product(others, repeat=n)]
    texts += [list(body) for body in itertools.product(others, repeat=slots)]
    generated = run(
        beam,
        model,
        prompts,
        num_beams=4**slots,
        num_return=2,
        max_new_tokens=slots,
        length_penalty=length_penalty,
    )
    for row, prompt in enumerate(prompts):
        ranked = sorted(texts, key=lambda text: -score(prompt, text))
        assert [text_of(generated, row, k) for k in range(2)] == ranked[:2]
        assert generated.scores[row, 0] == pytest.approx(score(prompt, ranked[0]), rel=1e-4)


def test_beam_row_does_not_depend_on_its_neighbours():
    model = ToyModel(11, seed=41, eos_bonus=1.5)
    options = {"num_beams": 3, "max_new_tokens": 12}
    together = run(beam, model, PROMPTS, **options)
    for row in (1, 3):
        alone = run(beam, model, [PROMPTS[row]], **options)
        assert text_of(alone, 0) == text_of(together, row)


def test_beam_stops_when_all_rows_are_done():
    model = ToyModel(11, seed=1, eos_bonus=20.0)
    generated = run(beam, model, PROMPTS, num_beams=3, max_new_tokens=50)
    assert (generated.lengths[:, 0] == 1).all()
    assert 0 < model.calls < 10


def test_keep_top_p_keeps_the_token_that_crosses():
    scores = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
    for top_p, kept in [(0.4, [1]), (0.6, [1, 3]), (0.85, [1, 2, 3]), (0.97, [0, 1, 2, 3])]:
        finite = np.isfinite(np.asarray(keep_top_p(scores, top_p)))[0]
        assert np.flatnonzero(finite).tolist() == kept


def test_keep_top_p_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(100):
        size, spread = int(rng.choice([2, 37, 400])), rng.choice([0.1, 1.0, 5.0, 30.0])
        scores, top_p = rng.normal(size=size) * spread, float(rng.uniform(0.01, 0.999))
        order = np.argsort(-scores)
        share = np.exp(scores - scores.max())
        sums = np.cumsum((share / share.sum())[order])
        kept = order[: np.argmax(sums > top_p) + 1]
        found = np.asarray(keep_top_p(jnp.asarray(scores, jnp.float32), top_p))
        assert np.flatnonzero(np.isfinite(found)).tolist() == sorted(kept)


def test_keep_top_k_keeps_k_and_survives_a_small_vocabulary():
    scores = jnp.array([[0.1, 3.0, -2.0, 1.0]])
    assert np.flatnonzero(np.isfinite(keep_top_k(scores, 2))).tolist() == [1, 3]
    np.testing.assert_array_equal(keep_top_k(scores, 9), scores)


def test_penalize_divides_positive_and_multiplies_negative_scores():
    scores = jnp.array([4.0, -4.0, 4.0])
    seen = jnp.array([True, True, False])
    np.testing.assert_array_equal(penalize(scores, seen, 2.0), [2.0, -8.0, 4.0])


def test_nucleus_frequencies_are_the_renormalized_model():
    model = ToyModel(8, seed=51)
    samples = 6000
    generated = run(
        nucleus,
        model,
        [[7]],
        keys=jax.random.split(jax.random.key(0), 1),
        max_new_tokens=1,
        top_p=0.8,
        num_samples=samples,
    )
    probabilities = np.exp(model.log_probs([7]).astype(np.float64))
    order = np.argsort(-probabilities)
    size = int(np.searchsorted(np.cumsum(probabilities[order]), 0.8, side="right")) + 1
    kept = order[:size]
    assert 1 < size < 8
    counts = np.bincount(generated.tokens[0, :, 0], minlength=8)
    assert counts[kept].sum() == samples
    expected = samples * probabilities[kept] / probabilities[kept].sum()
    chi_square = ((counts[kept] - expected) ** 2 / expected).sum()
    assert chi_square < 4 * size + 10


def test_nucleus_samples_depend_on_their_key_alone():
    model = ToyModel(11, seed=61, eos_bonus=0.5)
    keys = jax.random.split(jax.random.key(5), len(PROMPTS))
    options = {"max_new_tokens": 8, "top_p": 0.95, "repetition_penalty": 1.1}
    together = run(nucleus, model, PROMPTS, keys=keys, num_samples=3, **options)
    check_layout(together, model, PROMPTS)
    alone = run(nucleus, model, PROMPTS[1:2], keys=keys[1:2], **options)
    assert text_of(alone, 0) == text_of(together, 1)
    order = np.array([2, 0, 3, 1])
    shuffled = run(
        nucleus, model, [PROMPTS[i] for i in order], keys=keys[order], num_samples=2, **options
    )
    np.testing.assert_array_equal(shuffled.tokens, together.tokens[order][:, :2])
    assert len({tuple(text_of(together, 0, k)) for k in range(3)}) > 1


def test_nucleus_draws_anew_at_every_step_and_sample():
    model = ToyModel(11, seed=0, eos_bonus=-1000.0, scale=0.0)  # uniform: only the draw decides
    keys = jax.random.split(jax.random.key(5), 1)
    generated = run(nucleus, model, [[10]], keys=keys, max_new_tokens=12, num_samples=4)
    tokens = generated.tokens[0]
    assert all(len(set(text)) > 3 for text in tokens.tolist())
    assert len({tuple(text) for text in tokens.tolist()}) == 4


def test_nucleus_of_one_token_is_greedy():
    model = ToyModel(11, seed=71, eos_bonus=0.5)
    keys = jax.random.split(jax.random.key(5), len(PROMPTS))
    options = {"max_new_tokens": 8, "min_new_tokens": 2, "repetition_penalty": 1.3}
    for filters in ({"top_k": 1}, {"top_p": 1e-6}):
        sampled = run(nucleus, model, PROMPTS, keys=keys, **filters, **options)
        for row, prompt in enumerate(PROMPTS):
            assert text_of(sampled, row) == reference_greedy(model, prompt, **options)


@pytest.mark.parametrize(
    "method, options, word",
    [
        (greedy, {"max_new_tokens": 0}, "max_new_tokens"),
        (greedy, {"max_new_tokens": 2, "repetition_penalty": 0.0}, "repetition_penalty"),
        (beam, {"max_new_tokens": 2, "num_beams": 2, "num_return": 3}, "num_return"),
        (nucleus, {"max_new_tokens": 2, "keys": jax.random.split(jax.random.key(0), 4),
                   "top_p": 0.0}, "top_p"),
        (nucleus, {"max_new_tokens": 2, "keys": jnp.zeros((4, 2), jnp.uint32)}, "keys"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(method, options, word):
    with pytest.raises((ValueError, TypeError), match=word):
        run(method, ToyModel(11, seed=1), PROMPTS, **options)
