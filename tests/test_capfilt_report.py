"""The report of a run of CapFilt: its numbers, its pictures, and that it is one safe file."""

import dataclasses
import json
import shutil
import subprocess

import jax
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scored_runs import SCHEMA, draw_rows, write_run, write_settings, write_shard
from test_report import Links
from tiny import CONFIG

from blip_jax.capfilt import language, report
from blip_jax.capfilt.duplicates import near_duplicates
from blip_jax.capfilt.sample import read_sample
from blip_jax.capfilt.scored import open_run
from blip_jax.cli import main
from blip_jax.data.images import open_image
from blip_jax.model import Model, save
from blip_jax.models.blip import Blip
from blip_jax.tokenizer import Tokenizer

EVIL = "<script>alert('&')</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with a text that would be a script, and pictures."""
    root = write_run(tmp_path_factory.mktemp("run") / "run", captions=2)
    change(root, "00000", lambda row: row["texts"] and row["texts"][0].update(text=EVIL))
    return root


@pytest.fixture(scope="module")
def page(root):
    main(["capfilt", "report", str(root), "--price=3.6"])
    return (root / "report.html").read_text()


def change(root, name, edit):
    """Edits the rows of a shard's scores."""
    path = root / "scores" / f"{name}.parquet"
    rows = parquet.read_table(path).to_pylist()
    for row in rows:
        edit(row)
    parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def all_rows(root):
    files = sorted((root / "scores").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def test_the_numbers_are_those_of_the_rows(root, page):
    results = json.loads((root / "report.json").read_text())
    rows = all_rows(root)
    texts = [text for row in rows for text in row["texts"]]
    kept = [row for row in rows if any(t["itm"] >= 0.5 for t in row["texts"])]
    assert results["kept"]["any"] == len(kept) and results["kept"]["images"] == len(rows) == 120
    assert results["headline"].startswith(f"{len(kept) / 1.2:.1f}% of the images keep a text")
    synthetic = [t["itm"] for t in texts if t["origin"] == "synthetic"]
    assert results["noise"]["synthetic"] == pytest.approx(np.mean(np.array(synthetic) < 0.5))
    assert results["status"] == {"ok": 114, "damaged_image": 6}
    for name in ("cc", "laion"):
        mine = [row for row in kept if row["source"] == name]
        assert results["sources"][name]["any"] == len(mine)
    copies = 120 - len({row["image_sha256"] for row in rows})
    assert results["duplicates"]["copies"] == copies > 0
    assert results["texts"]["web"]["texts"] == 114
    # Two shards of 60 rows took ten seconds each.
    assert results["speed"]["images_per_second"] == 6
    assert results["speed"]["waiting"] == pytest.approx(0.15)
    assert results["speed"]["cost_per_million"] == pytest.approx(3.6 / 3600 / 6 * 1e6)
    assert any("1 of 3 shards are not finished" in alarm for alarm in results["alarms"])


def test_the_page_is_one_offline_file(root, page):
    found = Links(page)
    assert found.links and all(link.startswith(("data:", "#")) for link in found.links)
    assert "http://" not in page and "https://" not in page
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert EVIL not in page and "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") >= 20 and page.count("<svg") >= 5


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_a_browser_opens_it_without_an_error(root, page, tmp_path):
    """The page forbids the browser to fetch anything, which would tell of it on the console."""
    assert "default-src 'none'; img-src data:" in page
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path}", "--dump-dom", f"file://{root}/report.html"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "What the filter did" in done.stdout and "CONSOLE" not in done.stderr


def test_alarms_are_for_what_is_far_off(tmp_path):
    root = write_run(tmp_path / "run", shards=1)

    def worse(row):
        for text in row["texts"]:
            text["itm"] = 0.01

    change(root, "00000", worse)
    report.write_report(open_run(str(root)))
    results = json.loads((root / "report.json").read_text())
    told = [alarm for alarm in results["alarms"] if "the paper's dropped 25%" in alarm]
    assert len(told) == 1 and "100.0%" in told[0]
    assert "0.0% of the images keep a text" in (root / "report.html").read_text()


def test_a_run_that_kept_nothing_but_scores(tmp_path):
    """No data, no embeddings, no corpus, no seconds, no captions."""
    rows = draw_rows(np.random.default_rng(0), "a", 30, captions=0)
    write_settings(tmp_path, ["a"])
    write_shard(tmp_path, "a", pa.Table.from_pylist(rows, SCHEMA), np.random.default_rng(0))
    shutil.rmtree(tmp_path / "embeddings")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "scores/a_stats.json").write_text('{"rows": 30}')
    report.write_report(open_run(str(tmp_path)))
    page = (tmp_path / "report.html").read_text()
    assert "Some pictures cannot be shown" in page and "The run kept no embeddings" in page
    assert "Synthetic texts dropped" not in page and "Where the time went" not in page


def test_a_cut_file_of_embeddings_is_named(root, tmp_path, capsys):
    shutil.copytree(root, tmp_path / "run")
    path = tmp_path / "run/embeddings/00001.npy"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(SystemExit) as stop:
        main(["capfilt", "report", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "00001.npy is no whole .npy file" in capsys.readouterr().err


def test_near_duplicates_are_found_in_all_and_in_a_sample(root):
    run = open_run(str(root))
    vectors = np.concatenate([run.embeddings(name) for name in run.names]).astype(np.float32)
    cosine = vectors @ vectors.T - 2 * np.eye(len(vectors))
    near = near_duplicates(run)
    assert near.asked == near.total == 120
    assert near.share == pytest.approx((cosine.max(1) >= 0.97).mean()) and near.share > 0
    assert all(cosine[a, b] == pytest.approx(value, abs=2e-3) for a, b, value in near.pairs)
    some = near_duplicates(run, comparisons=120 * 40)
    assert some.asked == 40 and some.share == pytest.approx((cosine[::3].max(1) >= 0.97).mean())


def test_a_sample_is_even_and_bounded(root):
    run = open_run(str(root))
    sample = read_sample(run, size=30)
    assert sample.step == 4 and sum(sample.status.values()) == 120
    wanted = [row["uid"] for row in all_rows(root)[::4] if row["texts"]]
    assert [row.uid for row in sample.rows] == wanted


def test_wilson_intervals():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (k, n), wanted in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        assert language.wilson(k, n) == pytest.approx(wanted, abs=1e-4)
    assert language.wilson(0, 0) == (0.0, 1.0)


def test_diversity_and_repetition():
    found = language.describe_texts(["a dog", "A  dog", "a cat runs"])
    assert found["vocabulary"] == 4 and found["words"] == pytest.approx(7 / 3)
    assert found["distinct_1"] == 4 / 7 and found["distinct_2"] == 3 / 4
    assert found["repeated"] == pytest.approx(2 / 3)
    assert language.most_repeated(["a dog", "A  dog", "a cat"]) == [("a dog", 2)]
    assert language.describe_texts([])["distinct_3"] == 0


def test_names_and_numbers_that_captions_lose(tmp_path):
    def text(words, origin, itm):
        return {"text": words, "origin": origin, "method": "", "itm": itm}

    drawn = draw_rows(np.random.default_rng(0), "a", 2)
    drawn[0]["texts"] = [
        text("A boat near Oslo, 1999", "web", 0.1), text("a boat in oslo", "synthetic", 0.9)
    ]  # fmt: skip
    drawn[1]["texts"] = [text("Dog of Anna", "web", 0.9), text("a dog", "synthetic", 0.9)]
    write_settings(tmp_path, ["a"])
    write_shard(tmp_path, "a", pa.Table.from_pylist(drawn, SCHEMA), np.random.default_rng(0))
    found = language.names_and_numbers(read_sample(open_run(str(tmp_path))).rows)
    assert found["names"]["web_share"] == 1 and found["numbers"]["web_share"] == 0.5
    # The second image keeps its web text, so nothing of it is lost.
    assert found["names"]["found"] == 1 and found["names"]["lost"] == 0
    assert found["numbers"]["lost"] == 1 and found["numbers"]["examples"] == [("1999", 1)]


def test_persons_are_counted_once_a_text():
    from blip_jax.capfilt.sample import Text

    texts = [Text("a man and men", False, "", 0.9, True), Text("two women", False, "", 0.1, False)]
    found = {row["kind"]: row for row in language.persons(texts)}
    assert found["man"]["texts"] == 1 and found["man"]["rate"] == 1
    assert found["woman"]["rate"] == 0 and set(found) == {"man", "woman"}


def test_borderline_texts_are_explained_by_a_filter(root, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "EXPLAINED", 2)
    words = [text["text"] for row in all_rows(root) for text in row["texts"]]
    tokenizer = Tokenizer.train(words, vocab_size=64)
    text = dataclasses.replace(
        CONFIG.text,
        vocab_size=tokenizer.vocab_size,
        **{name: getattr(tokenizer, name) for name in ("cls_id", "sep_id", "dec_id", "enc_id")},
    )
    config = dataclasses.replace(CONFIG, text=text)
    model = Model(jax.device_get(Blip(config).init(jax.random.key(0))), config, tokenizer)
    save(model, tmp_path / "filter")
    shutil.copytree(root, tmp_path / "run")
    main(["capfilt", "report", str(tmp_path / "run"), f"--filter={tmp_path / 'filter'}"])
    page = (tmp_path / "run/report.html").read_text()
    assert "Why borderline texts matched" in page
    assert page.count("<figure>") >= report.EXPLAINED
    maps = []

    def explain(image, text, word):
        maps.append((text, word))
        return open_image(image)

    report.write_report(open_run(str(tmp_path / "run")), explain=explain)
    assert sum(word is None for _, word in maps) == report.EXPLAINED
    assert all(word is None or word in text.lower() for text, word in maps)
