"""Retrieval at COCO's size: selection and ranking of 5,000 images x 25,000 texts, and ITM's pace.

    python benchmarks/retrieval.py scale
    python benchmarks/retrieval.py rerank

`scale` takes random unit vectors of the joint space (256 numbers) and random match logits through
everything but the towers: cosines, the top k of either side, the scores of the pairs, ranks and
their intervals. `rerank` ranks the 256 texts of each of a few images again with a model that has
the paper's 577 image tokens, in the package's batches and one image a forward pass as the
original does, in turns; the pace is the median of the rounds.
"""

import argparse
import dataclasses
import resource
import time

import jax
import numpy as np

from blip_jax.config import BLIP_B16
from blip_jax.inference.embed import encode_images
from blip_jax.inference.match import among_best, match_logits, pair_logits
from blip_jax.model import Model
from blip_jax.models.blip import Blip
from blip_jax.tasks.search import two_way
from blip_jax.tokenizer import Tokenizer


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random unit vectors along the last axis."""
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def scale(images: int, per_image: int, top_k: int) -> None:
    """Prints seconds a stage and the most memory the process had."""
    rng = np.random.default_rng(0)
    image = unit(rng, images, 256)
    text_image = np.repeat(np.arange(images), per_image)
    text = unit(rng, len(text_image), 256) + 0.25 * image[text_image]  # a clue, as models have
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    start = time.perf_counter()

    def told(stage: str) -> None:
        nonlocal start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{stage}: {time.perf_counter() - start:.1f} s, at most {peak:.2f} GiB so far")
        start = time.perf_counter()

    cosine = image @ text.T
    told(f"cosines of {images:,} images and {len(text):,} texts")
    chosen = among_best(cosine, top_k), among_best(cosine.T, top_k)
    wanted = chosen[0] | chosen[1].T
    told(f"top {top_k} of either side, {wanted.sum():,} pairs")
    logits = np.full((*wanted.shape, 2), np.nan, np.float32)
    logits[wanted] = rng.normal(size=(int(wanted.sum()), 2))
    told("their logits put in place (random, no model)")
    scores, _ = two_way(cosine, logits, chosen, text_image, ("tr", "ir"))
    told("ranks by three scores in both directions, with intervals")
    print({name: round(scores[name].value, 4) for name in ("itc_tr_r1", "itc_ir_r1", "tr_r1")})


def medium(vocabulary: int) -> Model:
    """ViT and text tower 256 wide and of 2 blocks, 577 image tokens; random weights."""
    sizes = {"width": 256, "depth": 2, "heads": 4, "mlp_width": 1024}
    vision = dataclasses.replace(BLIP_B16.vision, image_size=384, **sizes)
    words = [f"w{i}" for i in range(vocabulary)]
    tokenizer = Tokenizer.train([" ".join(words)], vocab_size=2 * vocabulary)
    names = ("vocab_size", "cls_id", "sep_id", "dec_id", "enc_id", "pad_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    text = dataclasses.replace(BLIP_B16.text, **sizes, **ids)
    config = dataclasses.replace(BLIP_B16, vision=vision, text=text, task="retrieval")
    params = jax.jit(Blip(config).init)(jax.random.key(0))
    return Model(params, config, tokenizer)


def rerank(images: int, top_k: int, rounds: int, batch_size: int) -> None:
    """Prints pairs a second of both ways, and how they compare."""
    rng = np.random.default_rng(0)
    model = medium(64)
    side = model.config.vision.image_size
    pixels = rng.integers(0, 256, (images, side, side, 3), np.uint8)
    # Lengths as of COCO's captions: 10.5 words and a little more in pieces, [CLS] and [SEP].
    lengths = np.clip(rng.normal(13.5, 2.7, images * top_k).round(), 8, 35).astype(int)
    mask = (np.arange(35)[None] < lengths[:, None]).astype(np.int32)
    ids = rng.integers(10, model.config.text.vocab_size, mask.shape).astype(np.int32) * mask
    pairs = np.stack([np.repeat(np.arange(images), top_k), np.arange(images * top_k)], 1)
    tokens, _ = encode_images(model.blip, model.on_device, pixels)
    forward = jax.jit(match_logits, static_argnums=0)

    def one_image_a_pass(longest: int) -> np.ndarray:
        """The tokens are at hand and repeated for each of the image's texts."""
        found = []
        for image in range(images):
            rows = slice(image * top_k, (image + 1) * top_k)
            repeated = np.broadcast_to(tokens[image], (top_k, *tokens.shape[1:]))
            batch = (repeated, ids[rows, None, :longest], mask[rows, None, :longest])
            found.append(np.asarray(forward(model.blip, model.on_device, *batch))[:, 0])
        return np.concatenate(found)

    ways = {
        "this package, its encoding of the images included": lambda: pair_logits(
            model, pixels, ids, mask, pairs, batch_size
        )[0],
        "one image a pass, texts padded to 35 as by the original": lambda: one_image_a_pass(35),
        "one image a pass, texts padded to the longest": lambda: one_image_a_pass(
            int(lengths.max())
        ),
    }
    logits = [way() for way in ways.values()]  # compiles them
    apart = max(np.abs(found - logits[0]).max() for found in logits)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    first = np.array(next(iter(seconds.values())))
    print(f"{images} images x {top_k} texts, logits at most {apart:.1e} apart")
    for name, found in seconds.items():
        pace = len(pairs) / np.median(found)
        ratio = np.median(np.array(found) / first)
        print(f"{name}: {pace:.0f} pairs a second, {ratio:.2f} times the time of the first")


def main() -> None:
    """Reads the flags and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("scale", "rerank"))
    parser.add_argument("--images", type=int, help="5000 for scale, 4 for rerank")
    parser.add_argument("--top_k", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32, help="images")
    flags = parser.parse_args()
    if flags.what == "scale":
        scale(flags.images or 5000, 5, flags.top_k)
    else:
        rerank(flags.images or 4, flags.top_k, flags.rounds, flags.batch_size)


if __name__ == "__main__":
    main()
