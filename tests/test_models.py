"""The towers: shapes and sizes of every variant, and what each view may see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulled import kept, random

from blip_jax.config import BLIP_B16, BLIP_L16, TINY, VARIANTS, BlipConfig
from blip_jax.models import layers
from blip_jax.models.blip import Blip
from blip_jax.models.layers import Norm
from blip_jax.models.med import first_token
from blip_jax.models.views import decoder_view, encoder_view
from blip_jax.models.vit import VisionBlock, resize_positions
from blip_jax.train.flops import matmul_flops

IDS = jnp.array([[5, 6, 7, 8, 9, 0], [5, 9, 8, 7, 0, 0]])
MASK = (IDS > 0).astype(jnp.int32)


@pytest.fixture(scope="module")
def tiny():
    blip = Blip(TINY)
    params = jax.jit(blip.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    return blip, params, blip.image_tokens(params, images)


def count(config):
    shapes = jax.eval_shape(Blip(config).init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("sharing", "millions"), [("all", 224), ("all_but_self_attention", 252), ("none", 361)]
)
def test_parameter_counts_are_those_of_the_papers_table_3(sharing, millions):
    assert round(count(dataclasses.replace(BLIP_B16, sharing=sharing)) / 1e6) == millions


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_has_the_shapes_it_should_without_being_allocated(config):
    blip, text, vision = Blip(config), config.text, config.vision
    params = jax.eval_shape(blip.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, vision.image_size, vision.image_size, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((2, 7), jnp.int32)
    tokens = jax.eval_shape(blip.image_tokens, params, images)
    assert tokens.shape == (2, vision.tokens, vision.width)
    assert jax.eval_shape(blip.image_embeds, params, tokens).shape == (2, config.embed_dim)
    assert jax.eval_shape(blip.text_embeds, params, ids, ids).shape == (2, config.embed_dim)
    assert jax.eval_shape(blip.match_logits, params, tokens, ids, ids).shape == (2, 2)
    assert jax.eval_shape(blip.lm_logits, params, tokens, ids, ids).shape == (2, 7, text.vocab_size)


def test_large_differs_from_base_in_the_vision_tower_only():
    assert BLIP_L16.text == BLIP_B16.text
    assert BLIP_L16.vision.tokens == BLIP_B16.vision.tokens == 197


def test_views_share_all_but_self_attention(tiny):
    _, params, _ = tiny
    encoder, decoder = encoder_view(params), decoder_view(params)
    for name in ("cross_attention", "mlp"):
        assert encoder["blocks"][name] is decoder["blocks"][name]
    assert encoder["embeddings"] is decoder["embeddings"]
    own, other = (v["blocks"]["attention"]["query"]["kernel"] for v in (encoder, decoder))
    assert not np.array_equal(own, other)


def gradient_norms(loss, params):
    grads = jax.grad(loss)(params)
    blocks = grads["text"]["blocks"]
    return {
        k: float(sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(v))) for k, v in blocks.items()
    }


def test_each_use_moves_its_own_parameters_only(tiny):
    blip, params, tokens = tiny
    itc = gradient_norms(lambda p: blip.text_embeds(p, IDS, MASK)[:, :3].sum(), params)
    itm = gradient_norms(lambda p: blip.match_logits(p, tokens, IDS, MASK)[:, 0].sum(), params)
    lm = gradient_norms(lambda p: blip.lm_logits(p, tokens, IDS, MASK)[..., 3].sum(), params)
    assert itc["cross_attention"] == itc["decoder_attention"] == 0 < itc["encoder_attention"]
    assert itm["decoder_attention"] == 0 < min(itm["encoder_attention"], itm["cross_attention"])
    assert lm["encoder_attention"] == 0 < min(lm["decoder_attention"], lm["cross_attention"])


def test_decoder_is_causal_and_encoder_is_not(tiny):
    blip, params, tokens = tiny
    word = params["text"]["embeddings"]["word"]

    def through(logits_at_2):
        def f(delta):  # delta [T, W] moves what stands at each position
            ids = jnp.arange(6)[None] + 10
            moved = word.at[ids[0]].add(delta)
            embeddings = params["text"]["embeddings"] | {"word": moved}
            return logits_at_2(params | {"text": params["text"] | {"embeddings": embeddings}}, ids)

        grad = jax.grad(f)(jnp.zeros((6, word.shape[1])))
        return jnp.abs(grad).sum(-1) > 0

    def decoder(p, ids):
        hidden = blip._encode(
            decoder_view(p), ids, jnp.ones_like(ids), tokens[:1], None, causal=True
        )
        return hidden[0, 2, :5].sum()

    def encoder(p, ids):
        hidden = blip._encode(encoder_view(p), ids, jnp.ones_like(ids), tokens[:1], None)
        return hidden[0, 2, :5].sum()

    assert through(decoder).tolist() == [True] * 3 + [False] * 3
    assert through(encoder).tolist() == [True] * 6


def test_the_first_token_alone_is_that_of_the_whole_text(tiny):
    blip, params, tokens = tiny
    view = encoder_view(params)
    ids, mask = IDS.repeat(2, 0), MASK.repeat(2, 0)
    seen = jnp.arange(tokens.shape[1])[None].repeat(2, 0) < jnp.array([[3], [17]])
    for source, source_mask in ((None, None), (tokens, None), (tokens, seen.astype(jnp.int32))):
        args = (ids, mask, source)
        whole = blip._encode(view, *args, None, source_mask=source_mask)
        first = first_token(blip.config, view, *args, source_mask)
        np.testing.assert_allclose(first, whole[:, 0], atol=1e-6)


def test_padding_changes_nothing(tiny):
    blip, params, tokens = tiny
    wide = jnp.pad(IDS, ((0, 0), (0, 4)), constant_values=11)
    mask = jnp.pad(MASK, ((0, 0), (0, 4)))
    for short, long in (
        (blip.text_embeds(params, IDS, MASK), blip.text_embeds(params, wide, mask)),
        (
            blip.match_logits(params, tokens, IDS, MASK),
            blip.match_logits(params, tokens, wide, mask),
        ),
        (
            blip.lm_logits(params, tokens, IDS, MASK)[1, :4],
            blip.lm_logits(params, tokens, wide, mask)[1, :4],
        ),
    ):
        np.testing.assert_allclose(short, long, atol=1e-5)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_decoding_token_by_token_equals_the_whole_text(tiny, dtype, atol):
    _, params, tokens = tiny
    blip, tokens = Blip(dataclasses.replace(TINY, dtype=dtype)), tokens.astype(dtype)
    whole = blip.lm_logits(params, tokens, IDS, MASK)
    lengths = jnp.array([3, 2])
    decode, logits, cache = blip.prefill(params, tokens, IDS[:, :3], lengths, 2)
    np.testing.assert_allclose(logits, jnp.stack([whole[0, 2], whole[1, 1]]), atol=atol)
    for step in range(2):
        position = lengths + step
        fed = jnp.take_along_axis(IDS, position[:, None], 1)
        logits, cache = decode(fed, position, cache)
        expected = jnp.stack([whole[0, 3 + step], whole[1, 2 + step]])
        np.testing.assert_allclose(logits[:, 0], expected, atol=atol)


@pytest.mark.parametrize("sharing", ["all", "all_but_self_attention", "none"])
def test_working_parameters_give_the_same_numbers(sharing):
    blip = Blip(dataclasses.replace(TINY, sharing=sharing, dtype="bfloat16"))
    params = jax.jit(blip.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    @jax.jit
    def said(params):
        tokens = blip.image_tokens(params, images)
        decode, logits, cache = blip.prefill(params, tokens, IDS[:, :1], jnp.ones(2, int), 2)
        more, _ = decode(IDS[:, 1:2], jnp.ones(2, int), cache)
        match = blip.match_logits(params, tokens, IDS, MASK)
        return match, blip.text_embeds(params, IDS, MASK), logits, more

    working = blip.working(params)
    for one, other in zip(said(working), said(params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert working["vision"]["blocks"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    assert working["vision"]["blocks"]["mlp"]["norm"]["scale"].dtype == jnp.float32
    assert working["vision_proj"]["kernel"].dtype == jnp.float32
    assert working["text"]["embeddings"]["word"].dtype == jnp.float32


@pytest.mark.parametrize("task", ["retrieval", "vqa", "nlvr", "visdial", "classify", "caption"])
def test_models_of_all_tasks_have_working_parameters(task):
    blip = Blip(dataclasses.replace(TINY, task=task, classes=("a", "b"), dtype="bfloat16"))
    params = jax.eval_shape(blip.init, jax.random.key(0))
    working = jax.eval_shape(blip.working, params)
    assert ("writer" in working) == (task in ("vqa", "caption"))
    assert working["vision"]["patch"]["kernel"].dtype == jnp.bfloat16
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, working)]
    assert sizes[0] == sizes[1], "every parameter is there once"
    assert jax.eval_shape(blip.working, working) == working
    if "writer" in working:
        with pytest.raises(ValueError, match="these parameters are for inference"):
            decoder_view(working)


def test_parts_that_fit_a_processors_caches_change_no_number(tiny, monkeypatch):
    blip, params, _ = tiny
    images = jax.random.normal(jax.random.key(2), (6, 32, 32, 3))
    ids, mask = (jnp.repeat(x, 3, 0) for x in (IDS, MASK))  # three texts an image

    def run(params, images):  # dropout off, and on: then the tower is not cut into parts
        loss = 0.0
        for rng in (None, jax.random.key(1)):
            seen = blip.image_tokens(params, images, rng)
            logits = blip.match_logits(params, seen[:2], ids, mask)
            loss += jnp.square(logits).sum() + jnp.square(seen).mean()
        return loss

    found, choices = [], []
    for size in (2**23, 2**10):
        monkeypatch.setattr(layers, "CACHED", size)
        program = jax.value_and_grad(lambda *args: run(*args))  # traced anew
        choices.append(str(jax.make_jaxpr(program)(params, images)).count("platform_index"))
        found.append(jax.jit(program)(params, images))
    assert choices[0] < choices[1]  # what is cut is so for one platform alone
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_remat_of_all_but_products_computes_scores_alone_again(tiny):
    _, params, _ = tiny

    def work(remat):
        vision = dataclasses.replace(TINY.vision, remat=remat)
        blip = Blip(dataclasses.replace(TINY, vision=vision))
        images, rng = jnp.ones((2, 32, 32, 3)), jax.random.key(1)
        loss = jax.grad(lambda params: blip.image_tokens(params, images, rng).sum())
        return matmul_flops(jax.make_jaxpr(loss)(params).jaxpr, "tpu")

    c = TINY.vision
    scores = 2 * c.depth * (2 * c.tokens**2 * c.width)
    assert work("dots") - work("none") == scores
    assert work("full") > work("dots")


def test_a_gradient_keeps_no_norm_and_no_hidden_values_after_gelu():
    c = TINY.vision
    block, x = VisionBlock(c, "float32", deterministic=True), random(3, 5, c.width)
    params = block.init(jax.random.key(0), x, 0.0)
    shapes = kept(lambda params, x: block.apply(params, x, 0.0)[0], params, x)
    assert shapes.count(x.shape) == 3  # what comes in to two norms, and what attention gave
    assert shapes.count((3, 5, c.mlp_width)) == 1


@pytest.mark.parametrize(("remat", "unroll"), [("", 3), ("full", 1), ("dots", 1)])
def test_scan_unrolling_and_remat_change_no_number(tiny, remat, unroll):
    _, params, _ = tiny
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))

    def loss(config):
        blip = Blip(config)
        return jax.value_and_grad(
            lambda p: jnp.square(blip.lm_logits(p, blip.image_tokens(p, images), IDS, MASK)).mean()
        )(params)

    expected, grads = loss(TINY)
    vision, text = (dataclasses.replace(t, remat=remat or "none") for t in (TINY.vision, TINY.text))
    value, changed = loss(dataclasses.replace(TINY, vision=vision, text=text, unroll=unroll))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, changed)


def test_scan_equals_a_loop_over_layers(tiny):
    blip, params, _ = tiny
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    vision, c = params["vision"], TINY.vision
    kernel = vision["patch"]["kernel"].reshape(-1, c.width)
    patches = images.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, -1)
    x = patches @ kernel + vision["patch"]["bias"][None, None]
    x = jnp.concatenate([jnp.broadcast_to(vision["class_token"], (2, 1, c.width)), x], 1)
    x = x + vision["positions"]
    block = VisionBlock(c, "float32", True)
    for i in range(c.depth):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], vision["blocks"])
        x, _ = block.apply({"params": own}, x, jnp.float32(0))
    x = Norm(c.norm_eps, "float32").apply({"params": vision["norm"]}, x)
    np.testing.assert_allclose(x, blip.image_tokens(params, images), atol=1e-5)


def test_bfloat16_stays_near_float32_and_keeps_float32_heads(tiny):
    blip, params, tokens = tiny
    half = Blip(dataclasses.replace(TINY, dtype="bfloat16"))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    half_tokens = half.image_tokens(params, images)
    assert half_tokens.dtype == jnp.bfloat16
    embeds = half.image_embeds(params, half_tokens)
    assert embeds.dtype == jnp.float32
    assert float(jnp.abs(embeds - blip.image_embeds(params, tokens)).max()) < 0.02
    assert half.lm_logits(params, half_tokens, IDS, MASK).dtype == jnp.float32


def test_dropout_and_drop_path_act_only_with_a_key(tiny):
    _, params, _ = tiny
    vision = dataclasses.replace(TINY.vision, drop_path=0.5)
    blip = Blip(dataclasses.replace(TINY, vision=vision))
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    quiet = blip.image_tokens(params, images)
    np.testing.assert_allclose(quiet, Blip(TINY).image_tokens(params, images), atol=1e-6)
    assert float(jnp.abs(blip.image_tokens(params, images, jax.random.key(0)) - quiet).max()) > 0
    text = blip.text_embeds(params, IDS, MASK)
    assert float(jnp.abs(blip.text_embeds(params, IDS, MASK, jax.random.key(0)) - text).max()) > 0


def torch_bicubic(row, size):
    """F.interpolate(mode="bicubic", align_corners=False) along one axis, from its definition."""

    def weight(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    out = []
    for i in range(size):
        centre = (i + 0.5) * len(row) / size - 0.5
        base = int(np.floor(centre))
        taps = range(base - 1, base + 3)
        out.append(sum(weight(centre - t) * row[np.clip(t, 0, len(row) - 1)] for t in taps))
    return np.array(out)


@pytest.mark.parametrize("grid", [(6, 3), (2, 2), (7, 9)])
def test_positions_are_interpolated_as_torch_does(grid):
    positions = jax.random.normal(jax.random.key(0), (1, 17, 1))
    assert resize_positions(positions, (4, 4)) is positions
    resized = resize_positions(positions, grid)
    np.testing.assert_array_equal(resized[:, 0], positions[:, 0])
    square = np.asarray(positions[0, 1:, 0]).reshape(4, 4)
    columns = np.stack([torch_bicubic(row, grid[1]) for row in square])
    expected = np.stack([torch_bicubic(column, grid[0]) for column in columns.T], 1)
    np.testing.assert_allclose(resized[0, 1:, 0].reshape(grid), expected, atol=1e-5)


def test_config_round_trip_and_unknown_field(tmp_path):
    TINY.save(tmp_path / "config.json")
    assert BlipConfig.load(tmp_path / "config.json") == TINY
    with pytest.raises(ValueError, match=r"text\.widht"):
        BlipConfig.from_dict({"text": {"widht": 3}})
    with pytest.raises(ValueError, match="not a multiple of vision.patch_size"):
        BlipConfig.from_dict({"vision": {"image_size": 50}})


def test_text_longer_than_the_positions_is_refused(tiny):
    blip, params, _ = tiny
    ids = jnp.zeros((1, 65), jnp.int32)
    with pytest.raises(ValueError, match="max_positions 64"):
        blip.text_embeds(params, ids, ids)
