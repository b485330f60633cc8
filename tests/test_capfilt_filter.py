"""Choosing texts from a run's scores: the rule against a plain statement of it, and the files."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scored_runs import SCHEMA, draw_rows, write_run, write_settings, write_shard
from test_import import imported_by

from blip_jax.capfilt import nouns
from blip_jax.capfilt.filter import compare, write_choice
from blip_jax.capfilt.read import Row, Text
from blip_jax.capfilt.rule import Rule, choose, counts
from blip_jax.capfilt.scored import open_run
from blip_jax.capfilt.table import schema, write_scores
from blip_jax.capfilt.texts import read_texts
from blip_jax.cli import main
from blip_jax.data.corpus import open_corpus
from blip_jax.data.records import read_json


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run", captions=3)


def all_rows(root):
    """The rows of the finished shards, as plain values."""
    run = open_run(str(root))
    names = (root / "scores" / f"{name}.parquet" for name in run.names)
    return [row for path in names for row in parquet.read_table(path).to_pylist()]


def heads(text):
    return {nouns.singular(phrase.split()[-1]) for phrase in nouns.noun_phrases(text)}


def named(text):
    phrases = nouns.noun_phrases(text)
    return {nouns.singular(word) for phrase in phrases for word in phrase.split()}


def plain_support(texts, number):
    """The share of a text's nouns that another text names."""
    mine = heads(texts[number]["text"])
    others = [named(text["text"]) for i, text in enumerate(texts) if i != number]
    agreed = [noun for noun in mine if any(noun in other for other in others)]
    return len(agreed) / len(mine) if mine else 1.0


def plain_choice(rows, rule):
    """(uid, text) of what a rule without shares keeps, said row by row."""
    kept, seen = [], set()
    for row in rows:
        copy = row["image_sha256"] in seen
        seen.add(row["image_sha256"])
        if (rule.drop_duplicates and copy) or (rule.sources and row["source"] not in rule.sources):
            continue
        may = []
        for number, text in enumerate(row["texts"]):
            length = len(text["text"].split())
            if rule.texts in ("web", "synthetic") and text["origin"] != rule.texts:
                continue
            if length < rule.min_words or (rule.max_words and length > rule.max_words):
                continue
            synthetic = text["origin"] == "synthetic"
            if synthetic and plain_support(row["texts"], number) < rule.noun_support - 1e-6:
                continue
            may.append(text)
        if rule.best_of_n:
            captions = [text for text in may if text["origin"] == "synthetic"]
            may = [t for t in may if t["origin"] == "web"]
            may += [max(captions, key=lambda t: t[rule.by])] if captions else []
        if rule.texts == "best" and may:
            may = [max(may, key=lambda t: t[rule.by])]
        kept += [(row["uid"], t["text"]) for t in may if t[rule.by] >= rule.threshold]
    return sorted(kept)


RULES = [
    Rule(), Rule(0.0), Rule(1.1), Rule(0.3, by="itc"), Rule(texts="web"), Rule(texts="synthetic"),
    Rule(texts="best"), Rule(0.2, best_of_n=True), Rule(best_of_n=True, texts="synthetic"),
    Rule(min_words=5), Rule(0.1, max_words=4), Rule(min_words=4, max_words=6, texts="best"),
    Rule(sources=("cc",)), Rule(drop_duplicates=True), Rule(0.1, noun_support=0.5),
    Rule(0.6, None, "itm", "both", True, 3, 9, ("laion", "cc"), True, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{RULES.index(rule)}")
def test_the_rule_is_the_plain_statement_of_it(root, rule):
    texts, _ = read_texts([open_run(str(root))], with_nouns=True)
    kept = choose(texts, rule)
    rows = all_rows(root)
    flat = [(row["uid"], text["text"]) for row in rows for text in row["texts"]]
    found = sorted(text for text, keep in zip(flat, kept, strict=True) if keep)
    assert found == plain_choice(rows, rule)


def test_the_pass_and_the_filter_keep_the_same(tmp_path):
    """What `capfilt run` writes and marks as kept is what the rule keeps at its threshold."""
    assert schema() == SCHEMA
    rng = np.random.default_rng(0)
    scores = [None, *map(float, np.float32([0.7, 0.69999, 0.70001, *rng.random(20)]))]
    rows = [Row("u", "k", "s", texts=[Text(t, "web", itm=x) for x in scores]) for t in ("a b", "")]
    write_settings(tmp_path, ["a"])
    write_shard(tmp_path, "a", pa.Table.from_pylist([], SCHEMA), rng)
    write_scores(tmp_path / "scores/a.parquet", rows, 0.7)
    (tmp_path / "scores/a_stats.json").write_text('{"rows": 2}')
    texts, _ = read_texts([open_run(str(tmp_path))])
    marked = [text["keep"] for row in all_rows(tmp_path) for text in row["texts"]]
    assert choose(texts, Rule(0.7)).tolist() == marked and any(marked)


@pytest.mark.parametrize("seed", range(4))
def test_support_is_the_plain_count(seed):
    rng = np.random.default_rng(seed)
    rows = draw_rows(rng, "a", 30, captions=int(rng.integers(0, 5)))
    texts = [text["text"] for row in rows for text in row["texts"]] + ["", "of the", "Dogs, cats!"]
    owner = [i for i, row in enumerate(rows) for _ in row["texts"]] + [30, 30, 30]
    found = nouns.support(pa.array(texts), np.array(owner))
    groups = [[{"text": t} for t, o in zip(texts, owner, strict=True) if o == i] for i in range(31)]
    plain = [plain_support(group, n) for group in groups for n in range(len(group))]
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_noun_phrases():
    assert nouns.noun_phrases("A man riding a red bike on the beach.") == [
        "man",
        "red bike",
        "beach",
    ]
    assert nouns.noun_phrases("two dogs, 3 cats") == ["dogs", "cats"]
    assert nouns.noun_phrases("") == [] and nouns.singular("dogs") == "dog"
    assert nouns.singular("glass") == "glass" and nouns.singular("bus") == "bus"


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.33, 1.0])
def test_a_fraction_is_the_best_texts(root, fraction):
    texts, _ = read_texts([open_run(str(root))])
    kept = choose(texts, Rule(top_fraction=fraction, texts="web"))
    web = texts.itm[~texts.synthetic]
    assert kept.sum() == round(fraction * len(web)) and not (kept & texts.synthetic).any()
    if 0 < fraction < 1:
        assert texts.itm[kept].min() > np.sort(web)[: -kept.sum()].max()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_mixture_has_its_share_and_drops_no_more_than_it_must(root, share):
    texts, _ = read_texts([open_run(str(root))])
    all_kept, kept = choose(texts, Rule()), choose(texts, Rule(synthetic_share=share))
    assert not (kept & ~all_kept).any()
    found = counts(texts, kept)
    assert found["synthetic"] == pytest.approx(share * found["texts"], abs=1)
    whole = counts(texts, all_kept)
    assert found["web"] == whole["web"] or found["synthetic"] == whole["synthetic"]


def test_texts_without_scores_and_rows_without_texts_are_never_kept(tmp_path):
    rows = draw_rows(np.random.default_rng(0), "a", 20)
    rows[1]["texts"][0]["itm"] = None
    rows[2]["texts"] = None
    write_settings(tmp_path, ["a"])
    write_shard(tmp_path, "a", pa.Table.from_pylist(rows, SCHEMA), np.random.default_rng(0))
    texts, _ = read_texts([open_run(str(tmp_path))])
    kept = choose(texts, Rule(0.0))
    assert np.isnan(texts.itm).sum() == 1 and not kept[np.isnan(texts.itm)].any()
    assert kept.sum() == len(kept) - 1 and not (texts.image == 2).any()


def test_several_filters_are_combined(root, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(root, other)
    for path in (other / "scores").glob("*.parquet"):
        rows = parquet.read_table(path).to_pylist()
        for row in rows:
            for text in row["texts"]:
                text["itm"] /= 2
        parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    runs = [open_run(str(place)) for place in (root, other)]
    alone = read_texts(runs[:1])[0].itm
    np.testing.assert_allclose(read_texts(runs)[0].itm, 0.75 * alone, atol=1e-6)
    np.testing.assert_allclose(read_texts(runs, combine="min")[0].itm, alone / 2, atol=1e-6)
    third = open_run(str(write_run(tmp_path / "third", captions=3, seed=1)))
    with pytest.raises(ValueError, match="00000: the runs hold other texts"):
        read_texts([runs[0], third])


def test_the_table_has_a_line_a_rule(root):
    texts, _ = read_texts([open_run(str(root))])
    rules = [Rule(t / 10) for t in range(10)]
    _, *lines = compare(texts, rules).splitlines()
    found = [int(line.split()[3]) for line in lines]
    assert found == [int((texts.itm >= t / 10).sum()) for t in range(10)]


def write(root, out, rule=None):
    runs = [open_run(str(root))]
    texts, sizes = read_texts(runs)
    return write_choice(runs, texts, sizes, rule or Rule(), out)


def test_the_files_of_a_choice(root, tmp_path):
    facts = write(root, tmp_path / "out", Rule(0.7))
    wanted = plain_choice(all_rows(root), Rule(0.7))
    annotations = json.loads((tmp_path / "out/annotations.json").read_text())
    assert sorted((row["uid"], row["caption"]) for row in annotations) == wanted
    files = sorted((tmp_path / "out/texts").glob("*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    assert sorted((row["uid"], row["text"]) for row in rows) == wanted
    assert min(row["itm"] for row in rows) >= 0.7
    uids = np.load(tmp_path / "out/uids.npy")
    assert uids.dtype == np.dtype("u8,u8") and (np.sort(uids) == uids).all()
    assert {f"{a:016x}{b:016x}" for a, b in uids.tolist()} == {uid for uid, _ in wanted}
    sizes = json.loads((tmp_path / "out/sizes.json").read_text())
    assert sum(sizes.values()) == len({uid for uid, _ in wanted}) == facts["kept"]["images"]


def test_a_choice_is_whole_or_absent_and_never_mixed(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("blip_jax.capfilt.filter.uid_list", lambda words: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(root, out)
    assert not out.exists()
    first = write(root, out)
    before = (out / "annotations.json").stat().st_mtime_ns
    assert write(root, out) == first and (out / "annotations.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"another choice \(rule\)"):
        write(root, out, Rule(0.6))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="holds no choice"):
        write(root, tmp_path / "mine")
    with pytest.raises(ValueError, match="keeps none of"):
        write(root, tmp_path / "none", Rule(1.1))


@pytest.mark.parametrize("to", ["array_record", "webdataset"])
def test_the_chosen_data_can_be_trained_on(root, tmp_path, to, capsys):
    out = tmp_path / "out"
    command = ["capfilt", "filter", str(root), "--out", str(out), "--threshold=0.6"]
    main([*command, "--best_of_n", "--to", to])
    main([*command, "--best_of_n", "--to", to])  # carries on where all is done
    wanted = plain_choice(all_rows(root), Rule(0.6, best_of_n=True))
    records = list(open_corpus(str(out / "data")).rows())
    found = [(r.uid, text) for r in records for text in (*r.captions, *r.synthetic)]
    assert sorted(found) == wanted
    originals = {r.uid: r.image for r in open_corpus(str(root / "data")).rows()}
    assert all(record.image_bytes() == originals[record.uid] for record in records)
    assert capsys.readouterr().err.count("1 of 3 shards are not finished") == 2


def test_a_list_of_images_that_are_files(root, tmp_path, capsys):
    """The same run, had it been made from a JSON list of files."""
    run = tmp_path / "run"
    shutil.copytree(root, run)
    settings = json.loads((run / "run.json").read_text()) | {"corpus": str(tmp_path / "in")}
    (run / "run.json").write_text(json.dumps(settings))
    command = ["capfilt", "filter", str(run), "--to=json", "--out", str(tmp_path / "out")]
    for name in ("00000", "00001"):
        rows = []
        for record in open_corpus(str(root / "data" / f"{name}.tar")).rows():
            path = tmp_path / "images" / f"{record.uid}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(record.image)
            rows.append({"image": f"../images/{path.name}", "caption": "x", "uid": record.uid})
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(command)
    records = read_json(tmp_path / "out/data/annotations.json")
    assert sorted((r.image.stem, r.captions[0]) for r in records) == plain_choice(
        all_rows(root), Rule()
    )
    with pytest.raises(SystemExit):
        main(["capfilt", "filter", str(root), "--to=json", "--out", str(tmp_path / "other")])
    assert "--to=json: images are not files" in capsys.readouterr().err


def test_scores_are_read_without_a_model():
    modules = "blip_jax.capfilt.filter, blip_jax.capfilt.texts, blip_jax.capfilt.report"
    assert not imported_by(f"import {modules}, blip_jax.cli_capfilt_filter") & {"jax", "flax"}


def spoil(root, what):
    scores = root / "scores"
    parquet_file, marker = scores / "00001.parquet", scores / "00001_stats.json"
    if what == "cut parquet":
        parquet_file.write_bytes(parquet_file.read_bytes()[:-100])
    elif what == "no parquet":
        parquet_file.unlink()
    elif what == "column":
        parquet.write_table(parquet.read_table(parquet_file).drop_columns("texts"), parquet_file)
    elif what == "rows":
        parquet.write_table(parquet.read_table(parquet_file).slice(1), parquet_file)
    elif what == "marker":
        marker.write_text('{"rows":')
    elif what == "marker field":
        marker.write_text("[]")
    elif what == "run.json":
        (root / "run.json").write_text("{}")
    elif what == "no run":
        shutil.rmtree(root)
    elif what == "no marker":
        for path in scores.glob("*_stats.json"):
            path.unlink()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("cut parquet", r"00001\.parquet is no whole parquet file"),
        ("no parquet", r"00001\.parquet is not there, but its marker is"),
        ("column", r"00001\.parquet has no column 'texts'"),
        ("rows", r"00001\.parquet has 59 rows; its marker tells 60"),
        ("marker", r"00001_stats\.json is no JSON"),
        ("marker field", r"00001_stats\.json: expected the field 'rows'"),
        ("run.json", r"run\.json: expected the field 'shards'"),
        ("no run", r"expected the folder of a `blip-jax capfilt run`"),
        ("no marker", r"none of its 3 shards is finished"),
    ],
)
@pytest.mark.parametrize("command", ["filter", "report"])
def test_damage_is_told_in_one_sentence(root, tmp_path, capsys, what, told, command):
    shutil.copytree(root, tmp_path / "run")
    spoil(tmp_path / "run", what)
    with pytest.raises(SystemExit) as stop:
        main(["capfilt", command, str(tmp_path / "run")])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and said.startswith("blip-jax: ") and re.search(told, said)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "takes one or more RUNs"),
        (["RUN", "--threshold=a"], "expected numbers set apart by commas"),
        (["RUN", "--threshold=0.5", "--top_fraction=0.3"], "exclude each other"),
        (["RUN", "--top_fraction=3"], "top_fraction must lie between 0 and 1"),
        (["RUN", "--threshold=0.1,0.2", "--out=x"], "--out takes one choice"),
        (["RUN", "--min_words=5", "--max_words=4"], "max_words 4 is under min_words 5"),
        (["RUN", "--sources=flickr"], "there is no source 'flickr'; there are"),
        (["RUN", "--to=webdataset"], "--out, which is not given"),
    ],
)
def test_mistakes_are_told_in_one_sentence(root, capsys, flags, told):
    with pytest.raises(SystemExit) as stop:
        main(["capfilt", "filter", *(str(root) if flag == "RUN" else flag for flag in flags)])
    assert stop.value.code == 2 and told in capsys.readouterr().err
