"""capfilt run: rows out for rows in, whole or not at all, the same bytes however it was run."""

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from corpora import CAPTIONS, jpeg, write_images, write_tar
from PIL import Image

import blip_jax
from blip_jax.capfilt.read import Batch, End, Reader
from blip_jax.capfilt.run import Run, Settings
from blip_jax.capfilt.score import CapFiltOptions, Scorer
from blip_jax.capfilt.share import Leases, share
from blip_jax.cli import main
from blip_jax.data import storage
from blip_jax.data.corpus import open_corpus
from blip_jax.data.formats.array_record import ArrayRecords
from blip_jax.data.record import Record
from blip_jax.errors import Stopped
from blip_jax.inference.caption import CaptionOptions
from blip_jax.model import save

pq = pytest.importorskip("pyarrow.parquet")

CAPTION = CaptionOptions(method="nucleus", num_captions=2, max_new_tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A model folder."""
    path = tmp_path_factory.mktemp("model") / "model"
    save(tiny.model(), path)
    return str(path)


def tars(folder: Path, count: int = 6, rows: int = 8) -> str:
    for i in range(count):
        write_tar(folder / f"{i:05d}.tar", range(rows))
    return str(folder)


def settings(model: str, to: str | None = None, threshold: float = 0.5, **options) -> Settings:
    chosen = {"caption": CAPTION, "batch_size": 4, "max_tokens": 24} | options
    return Settings(model, model, CapFiltOptions(**chosen), threshold, to)


def do(place: str, out: Path, chosen: Settings) -> tuple[Run, list[dict]]:
    run = Run(open_corpus(place), str(out), chosen)
    markers = list(run.work(run.corpus.shards))
    assert run.finish()
    return run, markers


def scores(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / f"scores/{name}.parquet").to_pylist()


def contents(out: Path | str) -> dict[str, bytes]:
    """Every file that is not hidden; of the markers all but where the time went."""
    found = {}
    for place in storage.list_files(out):
        name = place.removeprefix(f"{out}/")
        with storage.open_binary(place) as file:
            found[name] = file.read()
        if name.endswith("_stats.json"):
            marker = json.loads(found[name])
            del marker["seconds"]
            found[name] = json.dumps(marker).encode()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model) -> tuple[str, Path, list[dict]]:
    """A corpus of six tars, and what one process made of it."""
    root = tmp_path_factory.mktemp("whole")
    place = tars(root / "in")
    _, markers = do(place, root / "out", settings(model))
    return place, root / "out", markers


def files_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_rows_and_markers_tell_what_became_of_every_row(whole):
    place, out, markers = whole
    assert [m["name"] for m in markers] == [f"{i:05d}" for i in range(6)]
    for marker in markers:
        assert marker["rows"] == 8 and marker["status"] == {"ok": 8} and marker["samples"] == 8
        assert marker["texts"] == {"synthetic": 16, "web": 8}
        seconds = dict(marker["seconds"])
        assert set(seconds) == {"decode", "caption", "score", "write", "other", "whole"}
        assert seconds.pop("whole") == pytest.approx(sum(seconds.values()), abs=1e-3)
        for name, file in marker["files"].items():
            assert (out / name).stat().st_size == file["bytes"]
    rows = scores(out, "00003")
    records = list(open_corpus(place).shards[3].rows())
    assert [row["uid"] for row in rows] == [record.uid for record in records]
    assert [row["row"] for row in rows] == list(range(8))
    vectors = np.load(out / "embeddings/00003.npy")
    assert vectors.dtype == np.float16 and vectors.shape == (8, tiny.CONFIG.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=2e-3)
    for row, record in zip(rows, records, strict=True):
        web, *written = row["texts"]
        assert web["text"] == record.captions[0] and web["origin"] == "web"
        assert web["log_prob"] is None and web["method"] == ""
        assert [text["method"] for text in written] == ["nucleus"] * 2
        assert all(text["log_prob"] < 0 for text in written)
        for text in row["texts"]:
            assert 0 <= text["itm"] <= 1 and abs(text["itc"]) <= 1.001
            assert text["keep"] == (text["itm"] >= 0.5 and text["text"] != "")
        assert (row["width"], row["height"]) == (40, 30) and len(row["image_sha256"]) == 64


def test_scores_are_those_of_the_model_alone(whole, model):
    place, out, _ = whole
    opened = blip_jax.load(model)
    for row, record in zip(scores(out, "00000"), open_corpus(place).shards[0].rows(), strict=True):
        image = np.asarray(Image.open(io.BytesIO(record.image)))
        texts = [text["text"] for text in row["texts"]]
        for text, found in zip(row["texts"], opened.match([image] * 3, texts), strict=True):
            assert text["itm"] == pytest.approx(found.itm, abs=1e-4)
            assert text["itc"] == pytest.approx(found.itc, abs=1e-4)


def test_a_tar_keeps_its_files_and_gains_the_texts(whole):
    place, out, _ = whole
    before, after = files_of(Path(place) / "00001.tar"), files_of(out / "data/00001.tar")
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {f"{i:09d}.syn.json" for i in range(8)}
    for row in scores(out, "00001"):
        told = json.loads(after[f"{row['key']}.syn.json"])
        assert [text["text"] for text in told["capfilt"]] == [t["text"] for t in row["texts"]]
        kept = [t["text"] for t in row["texts"] if t["keep"] and t["origin"] == "synthetic"]
        assert told["syn_text"] == kept
    webdataset = pytest.importorskip("webdataset")
    read = webdataset.WebDataset(str(out / "data/00001.tar"), shardshuffle=False)
    assert [s["__key__"] for s in read] == [f"{i:09d}" for i in range(8)]


def test_what_a_run_says_of_itself(whole):
    _, out, markers = whole
    assert json.loads((out / "data/sizes.json").read_text()) == {
        f"{i:05d}.tar": 8 for i in range(6)
    }
    assert not (out / "uids.npy").exists()  # no DataComp uids
    found = json.loads((out / "croissant.json").read_text())
    sums = {f["@id"]: f["sha256"] for f in found["distribution"] if "sha256" in f}
    assert sums["data/00004.tar"] == markers[4]["files"]["data/00004.tar"]["sha256"]
    card = (out / "README.md").read_text()
    kept = sum(m["kept"]["web"] for m in markers)
    assert "machine-generated" in card and f"| web texts | 48, {kept} kept |" in card
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(out / "croissant.json")
    assert next(iter(dataset.records("rows")))["rows/uid"] == b"in/00000/000000000"


def test_uids_as_datacomp_takes_them(tmp_path, model):
    write_images(tmp_path)
    uids = [f"{i * 7919 % 8:032x}" for i in range(8)]
    rows = [{"image": f"{i}.jpg", "caption": CAPTIONS[i], "uid": uid} for i, uid in enumerate(uids)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    do(str(tmp_path / "t.jsonl"), tmp_path / "out", settings(model, threshold=0.0))
    found = np.load(tmp_path / "out/uids.npy")
    assert found.dtype == np.dtype("u8,u8")
    assert [f"{a:016x}{b:016x}" for a, b in found.tolist()] == sorted(uids)


def damaged(folder: Path) -> str:
    """A tar with everything that is wrong in webs."""
    bomb = io.BytesIO()
    Image.new("1", (8000, 8000)).save(bomb, "PNG")
    samples = [
        ("a", {"jpg": jpeg(0), "txt": b"a good one"}),
        ("b", {"jpg": jpeg(1)[:200], "txt": b"a broken one"}),
        ("c", {"png": bomb.getvalue(), "txt": b"a huge one"}),
        ("d", {"jpg": jpeg(2), "txt": b" ... "}),
        ("e", {"jpg": jpeg(3), "txt": b"word " * 10_000}),
        ("a", {"jpg": jpeg(4), "txt": b"the same key"}),
        ("f", {"jpg": jpeg(5), "txt": b"half a \xff"}),
        ("g", {"txt": b"no image"}),
        ("h", {"jpg": jpeg(6), "txt": b"one uid", "json": b'{"uid": "same"}'}),
        ("i", {"jpg": jpeg(7), "txt": b"one uid", "json": b'{"uid": "same"}'}),
        ("j", {"jpg": jpeg(8), "json": b'{"caption": "half a \\ud800 pair"}'}),
        ("k", {"jpg": jpeg(9), "txt": b"cut off in the middle"}),
    ]
    folder.mkdir(parents=True)
    path = folder / "00000.tar"
    with tarfile.open(path, "w") as archive:
        for key, parts in samples:
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        end = archive.offset
    path.write_bytes(path.read_bytes()[: end - 1400])
    return str(folder)


def test_damaged_input_is_counted_and_nothing_is_lost(tmp_path, model):
    _, (marker,) = do(damaged(tmp_path / "in"), tmp_path / "out", settings(model))
    assert marker["status"] == {
        "bad_text": 1, "duplicate_key": 1, "duplicate_uid": 1, "empty_caption": 1, "no_image": 1,
        "ok": 4, "tar_truncated": 1, "unreadable_image": 2,
    }  # fmt: skip
    rows = scores(tmp_path / "out", "00000")
    assert len(rows) == marker["rows"] == 12
    by_key = {row["key"]: row for row in rows if row["status"] == "ok"}
    assert list(by_key) == ["a", "e", "h", "j"]
    assert by_key["e"]["texts"][0]["text"] == "word " * 10_000  # untouched
    assert by_key["j"]["texts"][0]["text"] == "half a ? pair"
    broken = rows[1]
    assert broken["texts"][0]["text"] == "a broken one" and broken["texts"][0]["itm"] is None
    assert not broken["texts"][0]["keep"] and "not a readable JPEG" in broken["detail"]
    assert "40000000" in rows[2]["detail"]
    assert not np.load(tmp_path / "out/embeddings/00000.npy")[1].any()
    names = files_of(tmp_path / "out/data/00000.tar")
    assert sorted({name.split(".")[0] for name in names}) == ["a", "e", "h", "j"]
    assert json.loads((tmp_path / "out/data/sizes.json").read_text()) == {"00000.tar": 4}


def parquet(path: Path) -> str:
    import pyarrow as pa

    path.parent.mkdir(parents=True)
    table = pa.table({
        "jpg": [jpeg(i) if i != 2 else b"none" for i in range(4)],
        "caption": CAPTIONS[:4],
        "similarity": pa.array([0.1 * i for i in range(4)], pa.float32()),
    })  # fmt: skip
    pq.write_table(table, path)
    return str(path)


def test_parquet_keeps_its_columns(tmp_path, model):
    place = parquet(tmp_path / "in/p.parquet")
    do(place, tmp_path / "out", settings(model))
    before = pq.read_table(place).filter([True, True, False, True])
    after = pq.read_table(tmp_path / "out/data/p.parquet")
    assert after.select(before.column_names).equals(before)
    assert after.column_names == [*before.column_names, "syn_text", "capfilt"]
    rows = [row for row in scores(tmp_path / "out", "p") if row["status"] == "ok"]
    assert after["capfilt"].to_pylist() == [row["texts"] for row in rows]


def test_json_lists_and_array_record_hold_what_was_kept(tmp_path, model):
    write_images(tmp_path / "in")
    for i in range(8):
        (tmp_path / f"in/{i}.txt").write_text(CAPTIONS[i] + "\nanother one")
    place = str(tmp_path / "in")
    do(place, tmp_path / "list", settings(model))
    rows = scores(tmp_path / "list", "00000")
    kept = [t["text"] for row in rows for t in row["texts"] if t["keep"]]
    assert 0 < len(kept) < sum(len(row["texts"]) for row in rows)
    listed = json.loads((tmp_path / "list/data/00000.json").read_text())
    assert [row["caption"] for row in listed] == kept
    again = list(open_corpus(str(tmp_path / "list/data/00000.json")).rows())
    assert all(isinstance(r, Record) and Path(r.image).resolve().is_file() for r in again)

    do(place, tmp_path / "records", settings(model, "array_record"))
    records = ArrayRecords([tmp_path / "records/data/00000.array_record"])
    assert [t for r in records[:] for t in (*r.captions, *r.synthetic)] == kept
    do(place, tmp_path / "tars", settings(model, "webdataset"))
    do(place, tmp_path / "tables", settings(model, "parquet"))
    for name in ("tars", "tables"):
        found = list(open_corpus(str(tmp_path / name / "data")).rows())
        assert [r.captions for r in found] == [(text, "another one") for text in CAPTIONS]
        images = [(tmp_path / f"in/{i}.jpg").read_bytes() for i in range(8)]
        assert [r.image for r in found] == images


def test_other_settings_are_refused_by_name(whole, model):
    place, out, _ = whole
    before = contents(out)
    with pytest.raises(ValueError, match=r"other settings \(seed, threshold\)"):
        Run(open_corpus(place), str(out), settings(model, threshold=0.4, seed=3))
    with pytest.raises(ValueError, match=r"\(corpus, shards\)"):
        Run(open_corpus(f"{place}/00000.tar"), str(out), settings(model))
    assert contents(out) == before
    with pytest.raises(ValueError, match="JSON list names images"):
        Run(open_corpus(place), f"{out}-other", settings(model, "json"))


def test_done_shards_are_not_done_again_and_damaged_ones_are(whole, model, tmp_path):
    place, out, _ = whole
    target = tmp_path / "out"
    run = Run(open_corpus(place), str(target), settings(model))
    list(run.work(run.corpus.shards[:3]))
    assert not run.finish()
    (target / "data/00001.tar").write_bytes(b"half")
    (target / "scores/00002_stats.json").write_text("{")
    assert [m["name"] for m in run.work(run.corpus.shards)] == [
        "00001", "00002", "00003", "00004", "00005"
    ]  # fmt: skip
    assert run.finish() and list(run.work(run.corpus.shards)) == []
    assert contents(target) == contents(out)


def test_a_full_disk_leaves_nothing_half_written(whole, model, tmp_path, monkeypatch):
    place, out, _ = whole
    target = tmp_path / "out"
    puts = []

    def full(path, where):
        puts.append(where)
        if len(puts) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.replace(path, where)

    run = Run(open_corpus(place), str(target), settings(model))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", full)
        with pytest.raises(OSError, match="shard 00001 is not written: .*No space left"):
            list(run.work(run.corpus.shards))
    whole_bytes, found = contents(out), contents(target)
    assert "scores/00000_stats.json" in found and "scores/00001_stats.json" not in found
    assert all(found[name] == whole_bytes[name] for name in found)
    assert not list(target.glob(".partial*"))
    list(run.work(run.corpus.shards))
    assert run.finish() and contents(target) == whole_bytes


def test_a_run_that_is_stopped_keeps_whole_shards(whole, model, tmp_path):
    place, out, _ = whole
    run = Run(open_corpus(place), str(tmp_path / "out"), settings(model))
    asked = []

    def stop() -> None:
        asked.append(None)
        if len(asked) > 20:  # rows of the third shard
            raise Stopped("enough")

    with pytest.raises(Stopped):
        list(run.work(run.corpus.shards, stop))
    found, whole_bytes = contents(tmp_path / "out"), contents(out)
    assert "scores/00001_stats.json" in found and "scores/00002_stats.json" not in found
    assert all(found[name] == whole_bytes[name] for name in found)


def test_one_tower_for_both_when_asked(whole, model, tmp_path):
    place, out, _ = whole
    run = Run(open_corpus(place), str(tmp_path / "out"), settings(model, shared_tower=True))
    run.do(run.corpus.shards[0])
    # Captioner and filter are the same model here, so the tower is the same.
    for one, two in zip(scores(tmp_path / "out", "00000"), scores(out, "00000"), strict=True):
        for text, other in zip(one["texts"], two["texts"], strict=True):
            assert text["text"] == other["text"]
            assert text["itm"] == pytest.approx(other["itm"], abs=1e-4)


def test_models_that_do_not_fit_are_refused(model):
    opened = blip_jax.load(model)
    options = CapFiltOptions(CAPTION)

    def other(**changes):
        return dataclasses.replace(opened, config=dataclasses.replace(opened.config, **changes))

    with pytest.raises(ValueError, match="filter is a caption model: it cannot match"):
        Scorer(opened, other(task="caption"), options)
    vision = dataclasses.replace(opened.config.vision, image_size=32)
    with pytest.raises(ValueError, match="sees 16 pixels and the filter 32"):
        Scorer(opened, other(vision=vision), options)
    vision = dataclasses.replace(opened.config.vision, depth=1)
    shared = dataclasses.replace(options, shared_tower=True)
    with pytest.raises(ValueError, match="shared_tower needs"):
        Scorer(opened, other(vision=vision), shared)


def test_images_share_batches_with_texts_of_their_length(model):
    tokenizer = blip_jax.load(model).tokenizer
    captions = ["a star", "a red star and a blue ring " * 9, "two dogs", "a cat " * 40, "a ring"]
    rows = [Record(str(i), jpeg(i), (c,), str(i)) for i, c in enumerate(captions)]
    events = list(Reader(tokenizer, 8, 2, 64).read([("u", rows)]))
    batches = [[row.uid for row in event.rows] for event in events if isinstance(event, Batch)]
    assert batches[0] == ["0", "2"]
    assert sorted(uid for batch in batches for uid in batch) == list("01234")
    assert all(e.pixels.shape == (2, 8, 8, 3) for e in events if isinstance(e, Batch))
    (end,) = [event for event in events if isinstance(event, End)]
    assert [row.uid for row in end.rows] == list("01234")


def test_shares_of_a_corpus():
    assert share("1/4") == (1, 4)
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert share("auto", slurm) == (2, 4)
    assert share("auto/8", {"JOB_COMPLETION_INDEX": "3"}) == (3, 8)
    assert share("auto", {"SKYPILOT_JOB_RANK": "0", "SKYPILOT_NUM_JOBS": "2"}) == (0, 2)
    for asked, environ, why in (
        ("4/4", {}, "4 is not below 4"),
        ("half", {}, "expected i/N"),
        ("auto", {}, "none of SLURM_ARRAY_TASK_ID"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "give auto/N"),
    ):
        with pytest.raises(ValueError, match=why):
            share(asked, environ)


def test_leases_are_kept_given_back_and_expire(tmp_path):
    shards = open_corpus(tars(tmp_path / "in", 3, 1)).shards
    with Leases(tmp_path / "l", 60) as mine, Leases(tmp_path / "l", 60) as other:
        done: set[str] = set()
        claimed = mine.claim(shards, lambda s: s.name in done, lambda: None)
        assert next(claimed).name == "00000"
        assert not other.take(shards[0]) and other.take(shards[1])
        assert next(claimed).name == "00002"
        done |= {"00000", "00002"}
        stale = time.time() - 61
        os.utime(tmp_path / "l/00001.json", (stale, stale))
        assert next(claimed).name == "00001"
        done.add("00001")
        assert next(claimed, None) is None
        for shard in shards:
            mine.give(shard)
        assert not list((tmp_path / "l").iterdir())


def test_eight_devices_share_what_one_does(whole, model, tmp_path, monkeypatch):
    place, out, _ = whole
    assert jax.local_device_count() == 8
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    do(place, tmp_path / "out", settings(model, batch_size=3))  # eight rows in three batches
    for shard in ("00000", "00005"):
        for ours, theirs in zip(scores(tmp_path / "out", shard), scores(out, shard), strict=True):
            pairs = list(zip(ours.pop("texts"), theirs.pop("texts"), strict=True))
            assert ours == theirs and len(pairs) == 3
            for mine, other in pairs:
                for name in ("itm", "itc", "log_prob"):
                    assert mine.pop(name) == pytest.approx(other.pop(name), abs=1e-4)
                assert mine == other


def test_into_a_bucket(whole, model, capsys):
    place, out, markers = whole
    bucket = "memory:///capfilt/out"
    half = Run(open_corpus(place), bucket, settings(model))
    list(half.work(half.corpus.shards[::2]))
    assert not half.finish()
    _, made = do(place, bucket, settings(model))
    assert [m["name"] for m in made] == [m["name"] for m in markers[1::2]]
    assert contents(bucket) == contents(out)
    for asked in (("filter", "--threshold=0.4,0.6"), ("report",)):
        main(["capfilt", asked[0], bucket, *asked[1:]])
    assert f"{bucket}/report.html" in capsys.readouterr().out
    assert storage.size(f"{bucket}/report.html") > 10_000


def command(place: str, out: Path, model: str, *more: str) -> list[str]:
    return ["capfilt", "run", place, str(out), f"--captioner={model}", f"--filter={model}", *more]


def test_killed_processes_change_nothing(tmp_path, model):
    place = tars(tmp_path / "in")
    small = ("--batch_size=2", "--max_new_tokens=6", "--max_tokens=24")
    environ = os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_NUM_CPU_DEVICES": "1",
    }

    def start(name: str, *more: str) -> subprocess.Popen:
        line = command(place, tmp_path / name, model, *small, *more)
        return subprocess.Popen([sys.executable, "-m", "blip_jax", *line], env=environ)

    assert start("whole").wait(300) == 0
    out = tmp_path / "out"
    for count, processes in ((1, 1), (3, 2)):
        running = [start("out", "--lease=3") for _ in range(processes)]
        deadline = time.time() + 200
        while len(list((out / "scores").glob("*_stats.json"))) < count:
            assert time.time() < deadline and any(p.poll() is None for p in running)
            time.sleep(0.002)
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait()
        left = len(list((out / "scores").glob("*_stats.json")))
        assert count <= left
    running = [start("out", "--lease=3") for _ in range(2)]
    assert [process.wait(300) for process in running] == [0, 0]
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".partial*"))


def test_the_command_and_its_mistakes(whole, model, tmp_path, capsys):
    place, out, _ = whole

    def fails(*argv: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(argv))
        return stopped.value.code, capsys.readouterr().err.strip()

    same = ("--batch_size=4", "--num_captions=2", "--max_new_tokens=6", "--max_tokens=24")
    main(command(place, out, model, *same))
    assert "all 6 shards are done (48 ok): " in capsys.readouterr().out
    (tmp_path / "lost.json").write_text(json.dumps([{"image": "gone.jpg", "caption": "a dog"}]))
    code, error = fails(*command(str(tmp_path / "lost.json"), tmp_path / "out", model, *same))
    assert code == 1 and "no row could be used (1 " in error and "--image_root" in error
    code, error = fails(*command(place, out, model, *same, "--as_released"))
    assert code == 2 and "(caption.repetition_penalty, caption.top_k)" in error
    told = "blip-jax: capfilt: expected one of run, filter, report; not 'runn'"
    assert fails("capfilt", "runn") == (2, told)
    code, error = fails("capfilt", "run", place, f"--captioner={model}", f"--filter={model}")
    assert code == 2 and "takes CORPUS and OUT" in error
    code, error = fails(*command(place, out, "nowhere"))
    assert code == 2 and "nowhere is no file" in error and "\n" not in error
