"""CapFilt: what is scored, what is kept, and that a killed pass loses nothing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import CONFIG, init_params

from blip_jax.capfilt.chunks import score_records
from blip_jax.capfilt.score import CapFiltOptions
from blip_jax.capfilt.select import select, summary
from blip_jax.data.records import read_json
from blip_jax.model import CaptionOptions, Model, load, save
from blip_jax.models.blip import Blip
from blip_jax.tasks import caption
from blip_jax.tokenizer import Tokenizer

OPTIONS = CapFiltOptions(
    CaptionOptions(method="nucleus", num_captions=2, max_new_tokens=5),
    max_tokens=8,
    batch_size=4,
)


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.train(["a red star and a blue ring", "two dogs"], vocab_size=64)
    text = dataclasses.replace(
        CONFIG.text,
        vocab_size=tokenizer.vocab_size,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        dec_id=tokenizer.dec_id,
        enc_id=tokenizer.enc_id,
    )
    config = dataclasses.replace(CONFIG, text=text, init_std=0.3)
    return Model(jax.device_get(Blip(config).init(jax.random.key(0))), config, tokenizer)


@pytest.fixture
def records(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "caption": f"a red star {i}", "image_id": str(i)})
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    (tmp_path / "web.json").write_text(json.dumps(rows))
    return read_json(tmp_path / "web.json")


def test_every_row_comes_out_with_its_scores_or_its_reason(model, records, tmp_path):
    rows = score_records(records, model, model, tmp_path / "out", OPTIONS)
    assert [row["uid"] for row in rows] == [record.uid for record in records]
    assert [i for i, row in enumerate(rows) if row["status"] != "ok"] == [3]
    assert "3.png" in rows[3]["status"]
    for row in rows[:3] + rows[4:]:
        assert len(row["syn_text"]) == len(row["syn_itm"]) == len(row["syn_itc"]) == 2
        assert 0 <= row["web_itm"] <= 1 and -1.001 <= row["web_itc"] <= 1.001
        assert row["syn_text"] and max(row["syn_log_prob"]) < 0


def test_scores_depend_on_the_record_and_not_on_its_batch(model, records, tmp_path):
    rows = score_records(records, model, model, tmp_path / "a", OPTIONS, chunk=4)
    other = dataclasses.replace(OPTIONS, batch_size=3)
    for one, two in zip(
        rows, score_records(records, model, model, tmp_path / "b", other), strict=True
    ):
        assert one.get("syn_text") == two.get("syn_text")
        np.testing.assert_allclose(one.get("syn_itm", 0), two.get("syn_itm", 0), atol=1e-5)


def test_a_killed_pass_ends_with_the_bytes_of_one_that_was_not(model, records, tmp_path):
    score_records(records, model, model, tmp_path / "a", OPTIONS, chunk=4)

    def die(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_records(records, model, model, tmp_path / "b", OPTIONS, die, chunk=4)
    (tmp_path / "b/00001.jsonl").unlink()
    (tmp_path / "b/00001.jsonl.partial").write_text('{"half a')
    score_records(records, model, model, tmp_path / "b", OPTIONS, chunk=4)
    for path in (tmp_path / "a").glob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_filter_that_diverged_is_an_error_and_writes_no_scores(model, records, tmp_path):
    broken = dataclasses.replace(model, params=jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(RuntimeError, match="diverged"):
        score_records(records, model, broken, tmp_path, OPTIONS)
    assert not list(tmp_path.glob("*.jsonl"))


def test_an_empty_caption_counts_and_a_broken_image_does_not(model, records, monkeypatch):
    monkeypatch.setattr(
        Model, "texts", lambda self, ids: [["a red star 0"]] + [[""]] * (len(ids) - 1)
    )
    options = CaptionOptions(method="greedy", max_new_tokens=3)
    written = caption.describe(model, records, options, batch_size=10)
    assert written == ["a red star 0", "", "", None, *[""] * 6]
    texts = [text for text in written if text is not None]
    references = [r.captions for r, text in zip(records, written, strict=True) if text is not None]
    found, alone = caption.compare(texts, references), caption.compare(texts[:1], references[:1])
    assert 0 < found["bleu4"].value < alone["bleu4"].value


def test_scores_of_other_settings_are_not_mixed(model, records, tmp_path):
    score_records(records, model, model, tmp_path, OPTIONS)
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        score_records(records, model, model, tmp_path, dataclasses.replace(OPTIONS, seed=1))


ROWS = [
    {
        "image": "a", "image_id": "a", "status": "ok", "web_text": "w", "web_itm": 0.5,
        "syn_text": ["s", ""], "syn_itm": [0.49, 0.9],
    },
    {"image": "b", "image_id": "b", "status": "cut short", "web_text": "x"},
    {
        "image": "c", "image_id": "c", "status": "ok", "web_text": "y", "web_itm": 0.2,
        "syn_text": ["z"], "syn_itm": [0.8],
    },
]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({}, ["w", "z"]),
        ({"captions": False}, ["w"]),
        ({"filtering": False}, ["w", "s", "y", "z"]),
        ({"threshold": 0.1}, ["w", "s", "y", "z"]),
    ],
)
def test_web_and_synthetic_texts_are_judged_apart(choice, kept):
    assert [row["caption"] for row in select(ROWS, **choice)] == kept


def test_summary_counts_what_was_lost():
    facts = summary(ROWS)
    assert facts["images"] == 3 and facts["unreadable"] == 1
    assert facts["web_kept"] == 1 and facts["web_noise"] == 0.5
    assert facts["synthetic_noise"] == pytest.approx(1 / 3)


def test_a_model_folder_gives_back_the_model(model, records, tmp_path):
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config == model.config
    image = records[0].image
    first, second = (m.caption([image], max_new_tokens=6)[0][0] for m in (model, again))
    assert first == second and isinstance(str(first), str)
    ready = again.for_inference()
    assert ready.caption([image], max_new_tokens=6)[0][0] == first
    with pytest.raises(ValueError, match="save the model that it was made of"):
        save(ready, tmp_path / "model")
    pair = ready.match([image], ["a red star"])[0]
    cosine = again.embed_images([image]) @ again.embed_texts(["a red star"]).T
    assert pair.itc == pytest.approx(float(cosine[0, 0]), abs=1e-5) and 0 < pair.itm < 1
    (tmp_path / "model/config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load(tmp_path / "model")


def test_captions_that_cannot_be_had_are_refused(model):
    with pytest.raises(ValueError, match="expected greedy, nucleus or beam"):
        CaptionOptions(method="top")
    with pytest.raises(ValueError, match="between 1 and 3"):
        CaptionOptions(method="beam", num_captions=4)
    with pytest.raises(ValueError, match="no images"):
        model.caption([])
    with pytest.raises(ValueError, match="1 images, 2 texts"):
        model.match([np.zeros((8, 8, 3), np.uint8)], ["a", "b"])


def test_tiny_params_are_those_of_the_config():
    assert init_params()["text"]["embeddings"]["word"].shape == (64, 32)
