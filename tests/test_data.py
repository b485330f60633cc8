"""Reading, cleaning, augmenting and batching image-text data."""

import ast
import dataclasses
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip_jax
from blip_jax.data import augment, images, text
from blip_jax.data.examples import ImageText, ImageTextOptions, Skips
from blip_jax.data.pipeline import image_batches, train_dataset
from blip_jax.data.records import Records, read_all, read_json
from blip_jax.tokenizer import Tokenizer

WORDS = ["a small dog to the left of a tree", "a bird", "a picture of a red house", "right"]
PLAIN = ImageTextOptions(
    image_size=8, max_tokens=12, flip=False, randaugment=False, crop_scale=(1.0, 1.0)
)
AUGMENTED = dataclasses.replace(PLAIN, flip=True, randaugment=True, crop_scale=(0.2, 1.0))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(WORDS, vocab_size=100)


def make_rows(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Records:
    """`count` rows, each with an image of its own grey level."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.new("RGB", (16, 16), (i, i, i)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:40])
        rows.append({"image": path.name, "caption": ["a dog", "a bird"], "image_id": f"id{i}"})
    return read_json(write(folder / "rows.json", rows))


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def take(iterator, count: int) -> list[dict]:
    return [next(iterator) for _ in range(count)]


def assert_same(left: list[dict], right: list[dict]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def encoded(width: int = 32, height: int = 32, form: str = "JPEG") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, form)
    return file.getvalue()


# text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A dog.  Two (cats)!\n", "a dog two cats"),
        ('it\'s 5:30; #1 ~ "So" ***', "it's 5 30 1 so"),
        ("what? yes, no", "what? yes, no"),
        ("...", ""),
    ],
)
def test_pre_caption(raw, clean):
    assert text.pre_caption(raw) == clean


def test_word_caps_and_question():
    assert text.pre_caption("a " * 40, max_words=3) == "a a a"
    assert text.pre_caption("a " * 40) == " ".join("a" * 30)
    assert text.pre_question("What's the #1 (dog)? ") == "what's the 1 dog?"
    assert text.pre_question("a b c d", max_words=2) == "a b"


def test_swap_left_right_takes_whole_words():
    assert text.swap_left_right("left of the right one, Left") == "right of the left one, Right"
    assert text.swap_left_right("bright leftover") == "bright leftover"


# records


def test_reads_captions_ids_and_extras(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    rows = [
        {"image": "x.png", "caption": "A dog.", "url": "u"},
        {"image": "x.png", "caption": ["a cat", "!!"], "image_id": 7},
    ]
    first, second = read_json(write(tmp_path / "t.json", rows))
    assert first.captions == ("A dog.",) and first.extra == {"url": "u"}
    assert first.image == tmp_path / "x.png" and first.image_id == str(first.image)
    assert second.captions == ("a cat",) and second.image_id == "7"
    assert first.uid != second.uid
    elsewhere = write(tmp_path.parent / "other.json", rows)
    assert len(read_json(elsewhere, image_root=tmp_path)) == 2


def test_lost_rows_are_counted_and_bounded(tmp_path, caplog):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    good = [{"image": "x.png", "caption": "a dog"}] * 27
    bad = ["text", {"image": "x.png", "caption": " . "}, {"image": "no.png", "caption": "a"}]
    path = write(tmp_path / "t.json", good + bad)
    with caplog.at_level(logging.INFO):
        records = read_json(path)
    assert len(records) == 27
    assert records.skipped == {"not_an_object": 1, "empty_caption": 1, "missing_image": 1}
    assert len(records.examples) == 3 and "no.png" in records.examples[2]
    assert len(caplog.records) == 1 and "27 rows kept, 3 skipped" in caplog.text
    with pytest.raises(ValueError, match="3 of 30 rows"):
        read_json(path, max_lost=0.05)
    with pytest.raises(FileNotFoundError, match="row 29.*no.png"):
        read_json(path, missing="error")
    with pytest.raises(ValueError, match="2 of 2 rows"):
        read_json(write(tmp_path / "t.json", bad[1:]), max_lost=1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("{}", "must hold a JSON list"),
        ("[]", "the list is empty"),
        ('[{"caption": "a"}]', 'row 0: field "image" must be a string'),
        ('[{"image": "x.png"}]', 'row 0: field "caption" must be a string or a list'),
        ('[{"image": "x.png", "caption": 3}]', 'field "caption"'),
        ('[{"image": "x.png", "caption": ["a", 3]}]', 'field "caption"'),
    ],
)
def test_bad_annotations_are_named(tmp_path, content, message):
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.json"):
        read_json(tmp_path / "gone.json")


def test_read_all_joins_files_and_keeps_uids_apart(tmp_path):
    make_rows(tmp_path / "a", 3)
    make_rows(tmp_path / "b", 2)
    paths = [tmp_path / "a/rows.json", tmp_path / "b/rows.json"]
    both = read_all(paths)
    assert len(both) == 5 and len({r.uid for r in both}) == 5
    with pytest.raises(ValueError, match="2 annotation files.*1 roots"):
        read_all(paths, [tmp_path])
    with pytest.raises(ValueError, match="cannot be told apart"):
        read_all([paths[0], paths[0]])


# images


def test_open_image_accepts_every_source(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded())
    expected = np.asarray(Image.open(path).convert("RGB"))
    for source in (path, str(path), path.read_bytes(), Image.open(path), expected):
        np.testing.assert_array_equal(images.to_array(images.open_image(source)), expected)
    grey = images.to_array(images.open_image(expected[..., 0]))
    assert grey.shape == (32, 32, 3) and grey.dtype == np.uint8


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "x.png")
    assert (images.to_array(images.open_image(tmp_path / "x.png")) == 0x80).all()


@pytest.mark.parametrize("content", [b"", b"not an image", encoded()[:300], encoded(form="GIF")])
def test_unusable_files_are_named(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(images.ImageError, match="x.jpg"):
        images.open_image(path)


def test_missing_image_and_wrong_array_are_refused(tmp_path):
    with pytest.raises(images.ImageError, match="gone.png"):
        images.open_image(tmp_path / "gone.png")
    with pytest.raises(images.ImageError, match="float64"):
        images.open_image(np.zeros((4, 4, 3)))


def test_pixel_cap_comes_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "wide.jpg"
    path.write_bytes(encoded(64, 32)[:700])  # would fail as truncated if it were decoded
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(images.ImageError, match="wide.jpg has 64x32 pixels"):
        images.open_image(path)


def test_resize_square_is_pillow_bicubic():
    image = images.open_image(encoded(40, 20))
    expected = image.resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        images.to_array(images.resize_square(image, 16)), images.to_array(expected)
    )


# augmentation


def test_crop_boxes_keep_area_ratio_and_bounds():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        left, top, right, bottom = augment._crop_box((100, 80), rng, (0.2, 1), (3 / 4, 4 / 3))
        assert 0 <= left < right <= 100 and 0 <= top < bottom <= 80
        width, height = right - left, bottom - top
        assert 0.73 < width / height < 1.37
        shares.append(width * height / 8000)
    assert min(shares) > 0.19 and min(shares) < 0.25 and max(shares) > 0.8


def test_crop_of_a_sliver_falls_back_inside_the_ratios():
    rng = np.random.default_rng(0)
    box = augment._crop_box((1000, 10), rng, (0.9, 1), (3 / 4, 4 / 3))
    assert box == (493, 0, 506, 10)
    assert augment._crop_box((1, 500), rng, (0.9, 1), (3 / 4, 4 / 3))[2] == 1


def test_flip_tells_what_it_did():
    image = images.open_image(encoded())
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(200):
        out, flipped = augment.random_flip(image, rng)
        expected = images.to_array(image)[:, ::-1] if flipped else images.to_array(image)
        np.testing.assert_array_equal(images.to_array(out), expected)
        flips += flipped
    assert 70 < flips < 130


def test_strengths_at_magnitude_five():
    rng = np.random.default_rng(0)
    policy = augment.RandomAugment()
    expected = {"Rotate": 15, "ShearX": 0.15, "ShearY": 0.15, "TranslateX": 5, "TranslateY": 5}
    for name, value in expected.items():
        drawn = {augment.OPERATIONS[name][1](policy, rng) for _ in range(50)}
        assert sorted(drawn) == pytest.approx([-value, value])
    assert sorted({policy.factor(rng) for _ in range(50)}) == pytest.approx([0.55, 1.45])
    released = augment.RandomAugment(as_released=True)
    assert {released.factor(rng) for _ in range(50)} == {1.0}


def test_translation_moves_right_and_fills_grey():
    image = images.open_image(encoded())
    moved = images.to_array(augment.OPERATIONS["TranslateX"][0](image, -5))
    np.testing.assert_array_equal(moved[:, 5:], images.to_array(image)[:, :-5])
    assert (moved[:, :5] == 128).all()


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_each_operation_keeps_form_and_changes_the_image(name):
    image = images.resize_square(images.open_image(encoded(8, 8)), 32).point(lambda v: v // 2 + 40)
    apply, strength = augment.OPERATIONS[name]
    out = apply(image, strength(augment.RandomAugment(), np.random.default_rng(0)))
    assert out.size == image.size and out.mode == "RGB"
    changed = (images.to_array(out) != images.to_array(image)).any()
    assert changed == (name != "Identity")


def test_random_augment_leaves_a_quarter_and_more_untouched():
    image = images.resize_square(images.open_image(encoded(8, 8)), 32).point(lambda v: v // 2 + 40)
    rng = np.random.default_rng(0)
    same = sum(augment.RandomAugment()(image, rng) == image for _ in range(400))
    # Each of two draws leaves the image with probability 0.5 + 0.5 * 0.1 (Identity).
    assert same / 400 == pytest.approx(0.55**2, abs=0.08)


# training batches


def test_batch_has_the_promised_arrays(tmp_path, tokenizer):
    options = dataclasses.replace(PLAIN, prompt="a picture of ")
    batch = next(
        iter(
            train_dataset(
                make_rows(tmp_path, 6), ImageText(tokenizer, options), batch_size=4, seed=0
            )
        )
    )
    shapes = {name: (value.shape, str(value.dtype)) for name, value in batch.items()}
    assert shapes == {
        "image": ((4, 8, 8, 3), "uint8"),
        "input_ids": ((4, 12), "int32"),
        "attention_mask": ((4, 12), "int32"),
        "image_index": ((4,), "int32"),
        "uid_hash": ((4,), "uint32"),
        "prompt_length": ((4,), "int32"),
    }
    prompt, _ = tokenizer.encode(["a picture of"], max_length=4, eos=False)
    assert (batch["prompt_length"] == 4).all()
    np.testing.assert_array_equal(batch["input_ids"][:, :4], np.repeat(prompt, 4, 0))
    assert (batch["image_index"] >= 0).all() and len(set(batch["image_index"])) == 4


def test_epochs_are_whole_and_differ(tmp_path, tokenizer):
    records = make_rows(tmp_path, 12)
    stream = iter(train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=4, seed=1))
    epochs = [np.concatenate([b["image"][:, 0, 0, 0] for b in take(stream, 3)]) for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert (epochs[0] != epochs[1]).any()


def test_seed_decides_the_stream_whatever_the_threads(tmp_path, tokenizer):
    records = make_rows(tmp_path, 8)

    def stream(seed, threads):
        return take(
            iter(
                train_dataset(
                    records,
                    ImageText(tokenizer, AUGMENTED),
                    batch_size=4,
                    seed=seed,
                    threads=threads,
                )
            ),
            5,
        )

    assert_same(stream(3, 0), stream(3, 4))
    different = stream(4, 0)
    assert any(
        (a["image"] != b["image"]).any() for a, b in zip(stream(3, 0), different, strict=True)
    )


def test_captions_are_drawn_anew(tmp_path, tokenizer):
    records = make_rows(tmp_path, 4)
    stream = iter(train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=4, seed=0))
    texts = {t for batch in take(stream, 6) for t in tokenizer.decode(batch["input_ids"])}
    assert texts == {"a dog", "a bird"}


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_restored_state_continues_the_same_stream(tmp_path, tokenizer, stop):
    records = make_rows(tmp_path, 12, broken=(2, 9))

    def start():
        return iter(train_dataset(records, ImageText(tokenizer, AUGMENTED), batch_size=4, seed=5))

    stream = start()
    take(stream, stop)
    state = json.loads(json.dumps(stream.get_state()))
    expected = take(stream, 6)
    restored = start()
    restored.set_state(state)
    assert_same(take(restored, 6), expected)


def test_processes_split_each_global_batch(tmp_path, tokenizer):
    records = make_rows(tmp_path, 10)

    def hosts(count):
        streams = [
            iter(
                train_dataset(
                    records,
                    ImageText(tokenizer, AUGMENTED),
                    batch_size=4,
                    seed=2,
                    process_index=i,
                    process_count=count,
                )
            )
            for i in range(count)
        ]
        return [take(stream, 5) for stream in streams]

    whole = hosts(1)[0]
    first, second = hosts(2)
    for name in ("uid_hash", "image"):
        joined = [np.concatenate([a[name], b[name]]) for a, b in zip(first, second, strict=True)]
        np.testing.assert_array_equal(joined, [b[name] for b in whole])
    # 20 rows are two epochs, of which the processes share every batch.
    rows = np.concatenate([b["uid_hash"] for b in whole])
    assert len(set(rows[:10])) == len(set(rows[10:])) == 10


def test_broken_images_are_left_out_counted_and_logged_once(tmp_path, tokenizer, caplog):
    records = make_rows(tmp_path, 9, broken=(3,))
    skips = Skips()
    stream = iter(
        train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=4, seed=0, skips=skips)
    )
    with caplog.at_level(logging.WARNING):
        greys = {g for b in take(stream, 12) for g in b["image"][:, 0, 0, 0].tolist()}
    assert greys == set(range(9)) - {3}
    assert skips.counts == {"unreadable_image": 1}
    warnings = [r for r in caplog.records if r.name.startswith("blip_jax")]
    assert len(warnings) == 1 and "3.png" in warnings[0].getMessage()


def test_mostly_broken_images_stop_the_run(tmp_path, tokenizer):
    records = make_rows(tmp_path, 6, broken=(0, 1, 2, 3, 4, 5))
    stream = iter(train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=4, seed=0))
    with pytest.raises(ValueError, match="More than half of [0-9]+ images could"):
        next(stream)


def test_flip_exchanges_the_words_with_the_image(tmp_path, tokenizer):
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, :8] = 255
    Image.fromarray(half).save(tmp_path / "x.png")
    rows = [{"image": "x.png", "caption": "the tree to the left"}] * 4
    options = dataclasses.replace(AUGMENTED, randaugment=False, crop_scale=(1.0, 1.0))
    records = read_json(write(tmp_path / "t.json", rows))
    stream = iter(train_dataset(records, ImageText(tokenizer, options), batch_size=4, seed=0))
    seen = set()
    for batch in take(stream, 10):
        words = tokenizer.decode(batch["input_ids"])
        for image, caption in zip(batch["image"], words, strict=False):
            side = "left" if image[0, 0, 0] > image[0, -1, 0] else "right"
            assert caption.endswith(side)
            seen.add(side)
        assert len(set(batch["image_index"])) == 1
    assert seen == {"left", "right"}


def test_long_captions_are_cut_and_counted_once(tmp_path, tokenizer):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    captions = [" ".join(["dog"] * n) for n in (3, 10, 11, 20)]
    rows = [{"image": "x.png", "caption": caption} for caption in captions]
    skips = Skips()
    records = read_json(write(tmp_path / "t.json", rows))
    stream = iter(
        train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=4, seed=0, skips=skips)
    )
    batch = take(stream, 5)[-1]
    assert skips.counts == {"truncated_text": 2}
    lengths = batch["attention_mask"].sum(1)
    last = batch["input_ids"][np.arange(4), lengths - 1]
    assert sorted(lengths) == [5, 12, 12, 12] and (last == tokenizer.sep_id).all()


def test_impossible_batches_are_refused(tmp_path, tokenizer):
    records = make_rows(tmp_path, 3)
    with pytest.raises(ValueError, match="3 records.*batch of 4"):
        train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=4, seed=0)
    with pytest.raises(ValueError, match="batch_size 3 .* 2 processes"):
        train_dataset(records, ImageText(tokenizer, PLAIN), batch_size=3, seed=0, process_count=2)
    with pytest.raises(ValueError, match="process_index 2"):
        train_dataset(
            records,
            ImageText(tokenizer, PLAIN),
            batch_size=2,
            seed=0,
            process_index=2,
            process_count=2,
        )
    options = dataclasses.replace(PLAIN, prompt="a picture of ", max_tokens=4)
    with pytest.raises(ValueError, match="prompt takes 4 of max_tokens 4"):
        train_dataset(records, ImageText(tokenizer, options), batch_size=2, seed=0)


# evaluation batches


def test_evaluation_keeps_order_fills_the_last_batch_and_marks_broken(tmp_path):
    records = make_rows(tmp_path, 7, broken=(1,))
    batches = list(image_batches(records, 8, 3))
    readable = [[status == "ok" for status in found] for _, found, _ in batches]
    assert readable == [[True, False, True], [True, True, True], [True]]
    assert "1.png" in batches[0][1][1]
    greys = np.concatenate([pixels[:, 0, 0, 0] for pixels, _, _ in batches])
    assert greys.tolist() == [0, 0, 2, 3, 4, 5, 6, 6, 6]
    chosen = [record.uid for _, _, rows in batches for record in rows]
    assert chosen == [records[i].uid for i in (0, 1, 2, 3, 4, 5, 6, 6, 6)]


# rooms


def test_data_imports_neither_jax_nor_flax():
    package = Path(blip_jax.__path__[0])
    for path in [package / "tokenizer.py", *(package / "data").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in getattr(node, "names", [])]
            names.append(getattr(node, "module", None) or "")
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"jax", "flax"}, path
