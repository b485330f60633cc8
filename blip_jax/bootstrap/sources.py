"""What the loop learns from: the embedded world, or a user's own files."""

import dataclasses
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from blip_jax.data import world
from blip_jax.data.records import Records, read_json
from blip_jax.data.text import pre_caption
from blip_jax.files import Progress, write_json
from blip_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Sources:
    """The three sets, and what is known of the truth."""

    web: Records  # noisy pairs, one text an image
    clean: Records  # human pairs, for fine-tuning
    val: Records  # held out, several texts an image
    truth: dict[str, Any] | None  # image_id -> {"scene", "kind", "true"}; None for real photos

    def is_true(self, image_id: str, text: str) -> bool | None:
        """Whether a text is right about an image; None where nobody knows."""
        known = (self.truth or {}).get(image_id, {})
        if "scene" not in known:
            return None
        scene = world.Scene.from_dict(known["scene"])
        return world.is_true(text, scene) is True


def open_sources(config: ConfigDict, workdir: Path, progress: Progress) -> Sources:
    """Draws the world, or reads the user's lists, and mixes noise into them where asked."""
    if config.get("world"):
        root = workdir / "world"
        world.build(root, **config.world.to_dict(), progress=progress)
        truth = json.loads((root / "truth.json").read_text())
        web, clean, val = (read_json(root / f"{name}.json") for name in ("web", "clean", "val"))
        return Sources(web, clean, val, truth)
    return open_photos(config.photos, workdir)


def open_photos(config: ConfigDict, workdir: Path) -> Sources:
    """Real photos: a share of the training images is clean, the others' texts get noise.

    `config.noise` of the noisy images carry another image's caption. `config.extra` names a list
    of real web pairs, taken as it is. Which texts are noise is kept as the truth of those images.
    """
    train = read_json(Path(config.train), Path(config.image_root))
    rng = np.random.default_rng(config.seed)
    by_image: dict[str, list[Any]] = {}
    for record in train:
        by_image.setdefault(record.image_id, []).append(record)
    ids = list(by_image)
    rng.shuffle(ids)
    clean_ids = set(ids[: round(len(ids) * config.clean)])
    noisy = [by_image[i] for i in ids if i not in clean_ids]
    swap = rng.permutation(len(noisy))[: round(len(noisy) * config.noise)]
    wrong = dict(zip(swap, np.roll(swap, 1), strict=True))
    rows, truth = [], {}
    for i, group in enumerate(noisy):
        texts = noisy[wrong[i]] if i in wrong else group
        text = texts[rng.integers(len(texts))].captions[0]
        where = {"image": str(group[0].image), "image_id": group[0].image_id}
        rows.append(where | {"caption": text})
        kind = "swapped" if i in wrong else "clean"
        truth[group[0].image_id] = {"kind": kind, "true": kind == "clean"}
    if config.extra:
        root = Path(config.extra_root)
        for record in read_json(Path(config.extra), root):
            where = {"image": str(record.image), "image_id": f"web/{record.image_id}"}
            rows.append(where | {"caption": record.captions[0]})
    path = workdir / "web.json"
    write_json(path, rows)
    clean = Records([r for r in train if r.image_id in clean_ids], train.skipped, train.examples)
    val = read_json(Path(config.val), Path(config.image_root))
    return Sources(read_json(path), clean, val, truth)


def open_tokenizer(config: ConfigDict, sources: Sources, workdir: Path) -> Tokenizer:
    """The vocabulary that `config.tokenizer` names, or one trained on the training texts."""
    if config.tokenizer != "train":
        return Tokenizer.from_source(config.tokenizer)
    folder = workdir / "tokenizer"
    if not (folder / "tokenizer.json").exists():  # the last file that save writes
        texts: Iterable[str] = itertools.chain.from_iterable(
            (pre_caption(c) for c in record.captions)
            for record in itertools.chain(sources.web, sources.clean)
        )
        Tokenizer.train(texts, vocab_size=config.vocab_size, min_frequency=2).save(folder)
    return Tokenizer.from_source(folder)
