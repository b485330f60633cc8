"""data convert: any corpus to shards, whole or not at all; data check: what is wrong with it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from corpora import CAPTIONS, jpeg, write_images, write_tar
from PIL import Image

from blip_jax.cli import main
from blip_jax.data.convert import convert, convert_shard
from blip_jax.data.corpus import open_corpus
from blip_jax.data.formats.array_record import ArrayRecords


def tars(folder: Path, count: int = 4) -> str:
    for i in range(count):
        write_tar(folder / f"{i:05d}.tar", range(2 * i, 2 * i + 2))
    return str(folder)


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["data", *map(str, argv)])
        sys.exit(0)
    return stopped.value.code


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("to", ["array_record", "webdataset"])
def test_records_survive_the_conversion(tmp_path, to):
    place = tars(tmp_path / "in")
    manifest = convert(open_corpus(place), str(tmp_path / "out"), to)
    assert manifest["records"] == 8 and manifest["lost"] == {}
    for shard in manifest["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        assert len(content) == shard["bytes"] and shard["count"] == 2
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest
    before = list(open_corpus(place).rows())
    after = list(open_corpus(str(tmp_path / "out")).rows())
    assert after == before


def test_processes_change_nothing_and_done_shards_stay(tmp_path):
    place = tars(tmp_path / "in")
    convert(open_corpus(place), str(tmp_path / "one"), "array_record")
    convert(open_corpus(place), str(tmp_path / "two"), "array_record", processes=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    kept = tmp_path / "one/00001.array_record"
    (tmp_path / "one/00002_stats.json").unlink()
    (tmp_path / "one/00003.array_record").write_bytes(b"half")
    stamp = kept.stat().st_mtime_ns
    convert(open_corpus(place), str(tmp_path / "one"), "array_record")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert kept.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"another conversion \(to\)"):
        convert(open_corpus(place), str(tmp_path / "one"), "webdataset")


def test_a_killed_conversion_leaves_no_half_shard(tmp_path):
    place = tars(tmp_path / "in")
    convert(open_corpus(place), str(tmp_path / "whole"), "array_record")
    whole = files(tmp_path / "whole")
    out = tmp_path / "out"
    code = (
        "import sys, time; from blip_jax.data import convert as c; w = c._write\n"
        "def slow(*a):\n    time.sleep(0.05)\n    return w(*a)\n"
        "c._write = slow; from blip_jax.data.corpus import open_corpus\n"
        "c.convert(open_corpus(sys.argv[1]), sys.argv[2], 'array_record')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, place, str(out)])
    deadline = time.time() + 60
    while not (out / "00000_stats.json").exists():
        assert time.time() < deadline
        time.sleep(0.01)
    time.sleep(0.06)  # in the middle of the next shard
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = {name: whole[name] for name in whole if (out / name).exists()}
    assert {n: c for n, c in files_only(out).items() if n in whole} == left
    assert 0 < len(left) < len(whole)
    convert(open_corpus(place), str(out), "array_record")
    assert {n: c for n, c in files_only(out).items() if n in whole} == whole


def files_only(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_lost_rows_are_counted_and_bounded(tmp_path):
    write_images(tmp_path)
    (tmp_path / "3.jpg").write_bytes(jpeg(3)[:300])
    rows = [{"image": f"{i}.jpg", "caption": CAPTIONS[i]} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{")
    corpus = open_corpus(str(tmp_path / "t.jsonl"))
    with pytest.raises(ValueError, match="2 of 9 rows"):
        convert(corpus, str(tmp_path / "a"), "array_record")
    assert not (tmp_path / "a/manifest.json").exists()
    manifest = convert(corpus, str(tmp_path / "a"), "array_record", max_lost=0.5)
    assert manifest["lost"] == {"unreadable_image": 1, "bad_json": 1}
    assert manifest["shards"][0]["status_dict"]["success"] == manifest["records"] == 7
    assert len(ArrayRecords([tmp_path / "a/t.array_record"])) == 7


def test_into_a_bucket(tmp_path):
    fsspec.filesystem("memory").store.clear()
    place = tars(tmp_path / "in", 2)
    (shard, _) = open_corpus(place).shards
    done = convert_shard(shard, "memory://converted/out", "array_record")
    assert convert_shard(shard, "memory://converted/out", "array_record") == done
    assert len(list(open_corpus("memory://converted/out/00000.array_record").rows())) == 2
    convert(open_corpus(place), "memory://converted/out", "array_record")
    assert list(open_corpus("memory://converted/out").rows()) == list(open_corpus(place).rows())
    fsspec.filesystem("memory").store.clear()


def test_the_command_converts(tmp_path, capsys):
    place = tars(tmp_path / "in", 2)
    assert run("convert", place, tmp_path / "out", "--to", "webdataset", "--processes=1") == 0
    assert "4 records, 0 rows lost" in capsys.readouterr().out
    assert run("convert", place) == 2
    assert "PLACE and TARGET" in capsys.readouterr().err
    assert run("convert", tmp_path / "gone.tar", tmp_path / "x") == 2
    assert run("sort") == 2
    assert "expected one of check, convert, annotations, split, bench" in capsys.readouterr().err


# check


def photo(seed: int, size: tuple[int, int]) -> bytes:
    return jpeg(seed, *size)


def test_check_tells_what_is_wrong(tmp_path, capsys):
    sizes = {2: (10, 80), 3: (900, 80)}
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(photo(i, sizes.get(i, (100, 80))))
    (tmp_path / "5.jpg").write_bytes((tmp_path / "6.jpg").read_bytes())
    captions = {0: "https://x.org/a.jpg", 1: "dog " * 31, 4: "12 / 34", 7: "A picture of thing 6."}
    rows = [
        {"image": f"{i}.jpg", "caption": captions.get(i, CAPTIONS[i]), "uid": str(i)}
        for i in range(8)
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(rows))
    assert run("check", path, "--out", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = {kind: entry["count"] for kind, entry in report["findings"].items()}
    assert found == {
        "non_text": 2,
        "long_caption": 1,
        "tiny_image": 1,
        "extreme_image": 2,
        "duplicate_image": 1,
        "duplicate_caption": 1,
    }
    assert report["records"] == report["rows"] == 8
    assert report["words_per_caption"]["max"] == 31 and report["width"]["max"] == 900
    assert Image.open(tmp_path / "out/samples.png").size == (5 * 240, 300)
    assert "warning: 2 non_text" in capsys.readouterr().out


def test_check_fails_on_what_spoils_a_run(tmp_path, capsys):
    write_images(tmp_path)
    rows = [{"image": f"{i}.jpg", "caption": CAPTIONS[i], "uid": "same"} for i in range(2)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("check", tmp_path / "t.jsonl") == 1
    assert "error: 1 duplicate_uid" in capsys.readouterr().out
    rows = [{"image": f"{i}.jpg", "caption": CAPTIONS[i]} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "4.jpg").write_bytes(b"")
    assert run("check", tmp_path / "t.jsonl") == 1
    told = capsys.readouterr().out
    assert "error: 1 missing_image" in told and "error: 1 unreadable_image" in told
    assert run("check", tmp_path / "t.jsonl", "--max_lost=0.3") == 0


def test_check_counts_tokens_and_sees_unbalanced_shards(tmp_path):
    from blip_jax.data.check import check
    from blip_jax.tokenizer import Tokenizer

    for i, count in enumerate((2, 2, 7)):
        write_tar(tmp_path / f"{i}.tar", range(count))
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=100)
    findings = check(open_corpus(str(tmp_path)), tokenizer=tokenizer)
    assert findings.kinds["unbalanced_shard"] == 1 and findings.unit == "tokens"
    assert findings.tokens == tokenizer.count([CAPTIONS[i] for i in (0, 1, 0, 1, *range(7))])
    assert np.array(findings.sides).tolist() == [[40, 30]] * 11
    assert check(open_corpus(str(tmp_path)), limit=1).rows == 3
