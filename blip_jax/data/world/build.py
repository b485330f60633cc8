"""The world on disk: pictures, BLIP's JSON lists, and the truth."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from blip_jax.data.world.language import describe, is_true
from blip_jax.data.world.noise import web_caption
from blip_jax.data.world.scene import Scene, draw, random_scene
from blip_jax.files import Progress, silent, write_json

CAPTIONS_PER_VAL = 5
CAPTIONS_PER_CLEAN = 5


def build(
    root: Path,
    *,
    num_web: int,
    num_clean: int,
    num_val: int,
    seed: int = 0,
    size: int = 32,
    progress: Progress = silent,
) -> None:
    """Draws a world into `root`, or finds it there; the seed decides every byte of it.

    Writes images/{web,clean,val}/NNNNN.png; web.json (one web text an image), clean.json (five
    rows an image) and val.json (five captions an image) in BLIP's layout; and truth.json,
    image_id -> {"scene", "kind", "true"}. No scene of val is in web or clean.

    Raises:
      ValueError: `root` holds a world with other settings, or something else.
    """
    sizes = {"web": num_web, "clean": num_clean, "val": num_val}
    settings = {**sizes, "seed": seed, "size": size}
    if root.exists() and any(root.iterdir()):
        if not (root / "world.json").exists():
            raise ValueError(f"{root} holds no world.json; expected a world, or an empty folder")
        found = json.loads((root / "world.json").read_text())
        if found != settings:
            raise ValueError(f"{root} holds a world with settings {found}, not {settings}")
        return
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    scenes = draw_scenes(sizes, seed)
    truth: dict[str, Any] = {}
    done, total = 0, sum(sizes.values())
    for stream, (split, members) in enumerate(scenes.items(), start=1):
        (partial / "images" / split).mkdir(parents=True)
        rows: list[dict[str, Any]] = []
        rng = np.random.default_rng((seed, stream))
        for i, scene in enumerate(members):
            where = {"image": f"images/{split}/{i:05d}.png", "image_id": f"{split}/{i:05d}"}
            draw(scene, size).save(partial / where["image"])
            texts, kind = write_texts(split, scene, members, rng)
            rows += [where | {"caption": text} for text in texts]
            true = is_true(texts[0], scene) is True if split == "web" else True
            truth[where["image_id"]] = {"scene": scene.to_dict(), "kind": kind, "true": true}
            done += 1
            progress(done, total)
        write_json(partial / f"{split}.json", rows)
    write_json(partial / "truth.json", truth)
    write_json(partial / "world.json", settings)
    partial.rename(root)


def draw_scenes(sizes: dict[str, int], seed: int) -> dict[str, list[Scene]]:
    """The scenes of each split; what val shows, the others never do."""
    rng = np.random.default_rng(seed)
    scenes = {"val": [random_scene(rng) for _ in range(sizes["val"])]}
    held_out = {scene.content() for scene in scenes["val"]}
    for split in ("web", "clean"):
        members: list[Scene] = []
        while len(members) < sizes[split]:
            scene = random_scene(rng)
            if scene.content() not in held_out:
                members.append(scene)
        scenes[split] = members
    return scenes


def write_texts(
    split: str, scene: Scene, members: list[Scene], rng: np.random.Generator
) -> tuple[list[Any], str]:
    """The captions of one picture, a list of lists for val, and the kind of the first."""
    if split == "web":
        text, kind = web_caption(scene, members, rng)
        return [text], kind
    if split == "clean":
        return distinct_captions(scene, CAPTIONS_PER_CLEAN, rng), "clean"
    return [distinct_captions(scene, CAPTIONS_PER_VAL, rng)], "clean"


def distinct_captions(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """True captions, no two the same."""
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions[describe(scene, rng)] = None
    return list(captions)
