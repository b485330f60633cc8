"""The drawn world: its pictures, what is said of them, and that the truth about it is the truth."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from blip_jax.data.world import (
    NOISE,
    Group,
    Scene,
    build,
    describe,
    draw,
    is_true,
    random_scene,
    web_caption,
)
from blip_jax.data.world.language import parse
from blip_jax.data.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES

SIZE = {"num_web": 60, "num_clean": 20, "num_val": 12}
RED_RING = Group("ring", "red", "large", "striped")
BLUE_STAR = Group("star", "blue", "small", "plain")
ALONE = Scene("white", (RED_RING,), "row", 0)
PAIR = Scene("grey", (RED_RING, BLUE_STAR), "row", 0)


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "world"
    build(root, **SIZE)
    return root


# Scenes


def test_scene_survives_json() -> None:
    for scene in scenes(50):
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_a_scene_has_one_group_of_up_to_three_or_two_of_one() -> None:
    for scene in scenes(500):
        counts = [group.count for group in scene.groups]
        assert counts in ([1], [2], [3], [1, 1])


@pytest.mark.parametrize("size", [32, 48])
def test_picture_has_the_size_asked_for_and_is_drawn_the_same_again(size: int) -> None:
    first, again = draw(PAIR, size), draw(PAIR, size)
    assert first.size == (size, size) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("layout", ["row", "column"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_objects_are_apart_and_inside(shape: str, count: int, layout: str) -> None:
    group = Group(shape, "red", "large", "plain", count)
    for jitter in range(20):
        seen = seen_objects(draw(Scene("white", (group,), layout, jitter), 128))
        filled = (seen.any(0) if layout == "row" else seen.any(1)).astype(int)
        assert not (seen[0].any() or seen[-1].any() or seen[:, 0].any() or seen[:, -1].any())
        assert (np.diff(filled) == 1).sum() == count


def seen_objects(picture: object) -> np.ndarray:
    """Which pixels are not quite white."""
    return np.asarray(picture).min(-1) < 250


def test_places_are_where_the_picture_has_them() -> None:
    for layout, scene_axis in (("row", 1), ("column", 0)):
        scene = Scene(
            "white", (Group("square", "red", "large", "plain"), BLUE_STAR), layout, jitter=3
        )
        pixels = np.asarray(draw(scene)).astype(int)
        red = np.argwhere(pixels[..., 0] > pixels[..., 2] + 60)[:, scene_axis].mean()
        blue = np.argwhere(pixels[..., 2] > pixels[..., 0] + 60)[:, scene_axis].mean()
        assert red < blue
        assert scene.places == (("left", "right") if layout == "row" else ("top", "bottom"))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_attribute_shows(background: str) -> None:
    """No two kinds of object make the same picture, however small they are drawn."""
    for count in (1, 2, 3):
        pictures = {
            (shape, colour, size, texture): np.asarray(
                draw(Scene(background, (Group(shape, colour, size, texture, count),), "row", 0))
            ).astype(float)
            for shape in SHAPES
            for colour in COLOURS
            for size in SIZES
            for texture in TEXTURES
        }
        stack = np.stack(list(pictures.values())).reshape(len(pictures), -1)
        squares = (stack**2).sum(1)
        distances = squares[:, None] + squares[None] - 2 * stack @ stack.T
        np.fill_diagonal(distances, np.inf)
        # The nearest, three small dotted ones, differ by 0.18 of a pixel from white to black.
        assert distances.min() > 0.15 * 3 * 255**2


# Captions and their truth


def test_every_description_is_true_of_its_scene() -> None:
    rng = np.random.default_rng(1)
    for scene in scenes(2000):
        caption = describe(scene, rng)
        assert is_true(caption, scene) is True, caption
        assert is_true(caption.upper(), scene) is True


def test_descriptions_are_plain_short_and_various() -> None:
    rng = np.random.default_rng(2)
    captions = [describe(scene, rng) for scene in scenes(2000)]
    lengths = [len(caption.split()) for caption in captions]
    words = {word for caption in captions for word in caption.replace(",", "").split()}
    assert len(set(captions)) >= 0.9 * len(captions)
    assert max(lengths) <= 20 and 6 <= np.mean(lengths) <= 14
    assert all(word.isalpha() and word.islower() for word in words)
    assert len(words) < 250


def test_one_scene_is_described_in_many_ways() -> None:
    rng = np.random.default_rng(3)
    assert len({describe(PAIR, rng) for _ in range(200)}) > 180


def test_a_wrong_attribute_is_false_where_it_is_mentioned_and_not_elsewhere() -> None:
    """Scenes of one group: the words of a caption say which attributes it mentions."""
    rng = np.random.default_rng(4)
    options = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    judged: Counter[tuple[str, bool]] = Counter()
    for scene in (s for s in scenes(2000) if len(s.groups) == 1):
        caption = describe(scene, rng)
        parsed = parse(caption)
        assert parsed is not None
        background, [claims] = parsed
        for slot, values in options.items():
            for value in values:
                if value != getattr(scene.groups[0], slot):
                    wrong = dataclasses.replace(scene.groups[0], **{slot: value})
                    altered = dataclasses.replace(scene, groups=(wrong,))
                    assert is_true(caption, altered) is (slot not in claims)
                    judged[slot, slot in claims] += 1
        counted = dataclasses.replace(scene.groups[0], count=scene.groups[0].count % 3 + 1)
        assert is_true(caption, dataclasses.replace(scene, groups=(counted,))) is False
        for other in set(BACKGROUNDS) - {scene.background}:
            altered = dataclasses.replace(scene, background=other)
            assert is_true(caption, altered) is (background is None)
    for slot in ("colour", "size", "texture"):
        assert min(judged[slot, True], judged[slot, False]) > 20
    assert judged["shape", True] > 20


@pytest.mark.parametrize(
    "caption",
    [
        "a ring",
        "red ring",
        "a red ring on white",
        "on a white background, a picture of one big stripy red hoop",
        "a red striped ring",
        "there is a red ring with stripes against white",
    ],
)
def test_true_of_one_ring(caption: str) -> None:
    assert is_true(caption, ALONE) is True


@pytest.mark.parametrize(
    "caption",
    [
        "a blue ring",
        "two red rings",
        "a red rings",
        "a plain red ring",
        "a red ring on grey",
        "a red ring on the left",
        "a red ring and a red ring",
        "a red ring above a blue star",
    ],
)
def test_false_of_one_ring(caption: str) -> None:
    assert is_true(caption, ALONE) is False


@pytest.mark.parametrize(
    ("caption", "truth"),
    [
        ("a blue star", True),
        ("a red ring to the left of a blue star", True),
        ("a blue star to the right of a red ring", True),
        ("a blue star with a ring on its left", True),
        ("a star at right and a ring at left", True),
        ("a star and a ring on grey", True),
        ("a red ring to the right of a blue star", False),
        ("a red ring above a blue star", False),
        ("a blue star with a ring on its right", False),
        ("a blue ring to the left of a red star", False),  # colours bound to the wrong nouns
        ("a red star", False),
    ],
)
def test_relations_of_two_objects(caption: str, truth: bool) -> None:
    assert is_true(caption, PAIR) is truth


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a",
        "red",
        "a picture of",
        "on a white background",
        "img 0382 jpg",
        "buy now free shipping on all orders",
        "a dog",
        "a red ring to the left of",
        "a red ring to the left of a",
        "a red ring with",
        "a red ring on a",
        "a a red ring",
        "a red red ring",
        "a ring ring",
        "a ring red",
        "ring red a",
        "a red ring a red ring",
        "a picture of a picture of a red ring",
        "a red ring on white on white",
        "a red ring on its left",
        "a red blue ring",
        "a red ring on the left on the right",
        "a red ring and a red ring and a red ring",
        "a redring",
    ],
)
def test_what_is_no_description_is_none(caption: str) -> None:
    assert is_true(caption, ALONE) is None


def test_shuffled_descriptions_break_without_an_error() -> None:
    rng = np.random.default_rng(5)
    verdicts: Counter[bool | None] = Counter()
    for scene in scenes(500):
        words = describe(scene, rng).split()
        rng.shuffle(words)
        verdicts[is_true(" ".join(words), scene)] += 1
    assert verdicts[True] < 0.2 * 500  # a short one may come out in a good order


# Noise


def test_noise_has_its_rates_and_its_truth() -> None:
    assert sum(NOISE.values()) == pytest.approx(1)
    rng = np.random.default_rng(6)
    members = scenes(4000)
    verdicts: dict[str, set[bool | None]] = {kind: set() for kind in NOISE}
    kinds: Counter[str] = Counter()
    for scene in members:
        text, kind = web_caption(scene, members, rng)
        kinds[kind] += 1
        verdicts[kind].add(is_true(text, scene))
    for kind, rate in NOISE.items():
        assert kinds[kind] / 4000 == pytest.approx(rate, abs=0.03)
    assert verdicts["clean"] == {True}
    assert verdicts["swapped"] == verdicts["attribute"] == {False}
    assert verdicts["filename"] == verdicts["advert"] == {None}
    assert True not in verdicts["truncated"]


def test_a_web_of_which_all_is_true_is_an_error_not_a_hang() -> None:
    [scene] = scenes(1)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="too few others"):
        for _ in range(100):
            web_caption(scene, [scene], rng)


# On disk


def test_same_seed_same_bytes_and_another_seed_others(world: Path, tmp_path: Path) -> None:
    build(tmp_path / "same", **SIZE)
    build(tmp_path / "other", **SIZE, seed=1)
    assert files(tmp_path / "same") == files(world)
    assert files(tmp_path / "other")["web.json"] != files(world)["web.json"]


@pytest.mark.parametrize(("split", "rows"), [("web", 60), ("clean", 100), ("val", 12)])
def test_rows_are_blip_json_with_pictures(world: Path, split: str, rows: int) -> None:
    found = json.loads((world / f"{split}.json").read_text())
    assert len(found) == rows
    for row in found:
        assert set(row) == {"image", "caption", "image_id"}
        assert (world / row["image"]).is_file()
        assert isinstance(row["caption"], list if split == "val" else str)


def test_texts_agree_with_the_truth(world: Path) -> None:
    truth = json.loads((world / "truth.json").read_text())
    assert len(truth) == sum(SIZE.values())
    texts: dict[str, list[str]] = {}
    for split in ("web", "clean", "val"):
        for row in json.loads((world / f"{split}.json").read_text()):
            caption = row["caption"]
            texts.setdefault(row["image_id"], []).extend(
                caption if isinstance(caption, list) else [caption]
            )
    assert set(texts) == set(truth)
    for image_id, captions in texts.items():
        scene = Scene.from_dict(truth[image_id]["scene"])
        assert {is_true(c, scene) is True for c in captions} == {truth[image_id]["true"]}
        assert len(set(captions)) == {"web": 1, "clean": 5, "val": 5}[image_id.split("/")[0]]
        assert truth[image_id]["kind"] in NOISE


def test_held_out_scenes_are_seen_nowhere_else(tmp_path: Path) -> None:
    build(tmp_path / "world", num_web=600, num_clean=100, num_val=300)
    truth = json.loads((tmp_path / "world/truth.json").read_text())
    contents: dict[str, set] = {"web": set(), "clean": set(), "val": set()}
    for image_id, facts in truth.items():
        contents[image_id.split("/")[0]].add(Scene.from_dict(facts["scene"]).content())
    assert not contents["val"] & (contents["web"] | contents["clean"])


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    build(tmp_path / "world", **SIZE, progress=lambda done, total: calls.append((done, total)))
    total = sum(SIZE.values())
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_a_finished_world_is_left_alone(world: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*")}
    build(world, **SIZE, progress=lambda done, total: pytest.fail("drew again"))
    assert {p: p.stat().st_mtime_ns for p in world.rglob("*")} == before


def test_other_settings_are_refused(world: Path) -> None:
    with pytest.raises(ValueError, match="with settings"):
        build(world, **SIZE, seed=7)


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no world\.json"):
        build(tmp_path, **SIZE)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_a_killed_build_starts_over(world: Path, tmp_path: Path) -> None:
    def die(done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    root = tmp_path / "world"
    with pytest.raises(KeyboardInterrupt):
        build(root, **SIZE, progress=die)
    assert not root.exists()
    build(root, **SIZE)
    assert files(root) == files(world)
