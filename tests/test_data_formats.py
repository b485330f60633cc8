"""Every format people hold image-text data in: records equal to the source, losses told."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from corpora import CAPTIONS, fields, jpeg, write_images, write_tar

from blip_jax.data import storage
from blip_jax.data.corpus import open_corpus
from blip_jax.data.formats import array_record, tar, webdataset
from blip_jax.data.images import ImageError, open_image
from blip_jax.data.record import Account, Record, Skip


def contents(place, **options) -> list[tuple[bytes, tuple[str, ...]]]:
    """Image bytes and captions of every record; a skip fails."""
    rows = list(open_corpus(str(place), **options).rows())
    assert all(isinstance(row, Record) for row in rows), rows
    assert len({row.uid for row in rows}) == len(rows)
    return [(row.image_bytes(), row.captions) for row in rows]


EXPECTED = [(jpeg(i), (CAPTIONS[i],)) for i in range(8)]


def reasons(place, **options) -> dict[str, int]:
    account = Account("test", max_lost=1.0)
    list(account.records(open_corpus(str(place), **options).rows()))
    return dict(account.skipped)


# What other tools write


def test_folder_of_images_with_texts_beside(tmp_path):
    write_images(tmp_path / "photos")
    for i, caption in enumerate(CAPTIONS):
        (tmp_path / f"photos/{i}.txt").write_text(caption + "\n")
    assert contents(tmp_path / "photos") == EXPECTED
    (tmp_path / "photos/3.txt").unlink()
    (tmp_path / "photos/4.txt").write_text(" . ")
    (tmp_path / "photos/5.txt").write_bytes(b"\xff\xfe\xff")
    lost = {"missing_caption": 1, "empty_caption": 1, "unreadable_text": 1}
    assert reasons(tmp_path / "photos") == lost


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv"])
def test_tables_of_paths(tmp_path, kind, packed):
    write_images(tmp_path / "images")
    rows = [{"image": f"images/{i}.jpg", "caption": CAPTIONS[i], "n": i} for i in range(8)]
    if kind == "json":
        text = json.dumps(rows)
    elif kind == "jsonl":
        text = "\n".join(map(json.dumps, rows)) + "\n"
    else:
        separator = "," if kind == "csv" else "\t"
        lines = [separator.join(map(str, row.values())) for row in rows]
        text = "\n".join([separator.join(["filepath", "TEXT", "n"]), *lines])
    path = tmp_path / f"t.{kind}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert contents(path) == EXPECTED
    assert next(open_corpus(str(path)).rows()).extra == {"n": 0 if "json" in kind else "0"}
    assert contents(path, image_root=str(tmp_path)) == EXPECTED


def test_pandas_parquet_with_bytes_and_with_structs(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = [{"jpg": jpeg(i), **fields(i)} for i in range(8)]
    pandas.DataFrame(rows).to_parquet(tmp_path / "bytes.parquet")
    assert contents(tmp_path / "bytes.parquet") == EXPECTED
    (tmp_path / "bytes_stats.json").write_text("{}")  # img2dataset's, beside
    assert contents(tmp_path) == EXPECTED
    rows = [{"image": {"bytes": jpeg(i), "path": None}, "text": CAPTIONS[i]} for i in range(8)]
    pandas.DataFrame(rows).to_parquet(tmp_path / "structs.parquet")
    assert contents(tmp_path / "structs.parquet") == EXPECTED
    whole = (tmp_path / "bytes.parquet").read_bytes()
    (tmp_path / "bytes.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated_file"):
        reasons(tmp_path / "bytes.parquet")


def test_urls_are_joined_to_what_img2dataset_downloaded(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pandas.DataFrame([fields(i) for i in range(8)])
    table.rename(columns={"caption": "TEXT", "url": "URL"})[["URL", "TEXT"]].to_parquet(
        tmp_path / "laion.parquet"
    )
    folder = tmp_path / "down/00000"
    folder.mkdir(parents=True)
    for i in range(8):
        (folder / f"{i:09d}.jpg").write_bytes(jpeg(i))
    table.to_parquet(tmp_path / "down/00000.parquet")
    assert contents(tmp_path / "laion.parquet", image_root=str(tmp_path / "down")) == EXPECTED
    (folder / "000000003.jpg").unlink()
    root = str((tmp_path / "down").rename(tmp_path / "less"))
    assert reasons(tmp_path / "laion.parquet", image_root=root) == {"not_downloaded": 1}
    with pytest.raises(ValueError, match="image_root"):
        contents(tmp_path / "laion.parquet")


def test_tars_by_the_webdataset_library(tmp_path):
    wds = pytest.importorskip("webdataset")
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"{shard:05d}.tar")) as sink:
            for i in range(4 * shard, 4 * shard + 4):
                sample = {"__key__": f"{i:09d}", "jpg": jpeg(i), "txt": CAPTIONS[i]}
                sink.write(sample | {"json": fields(i)})
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    assert contents(tmp_path) == EXPECTED
    assert contents(tmp_path / "*.tar") == EXPECTED
    assert contents(str(tmp_path / "{00000..00001}.tar")) == EXPECTED
    record = next(open_corpus(str(tmp_path)).rows())
    assert record.extra["url"] == "https://example.org/0.jpg"
    assert [s.name for s in open_corpus(str(tmp_path)).shards] == ["00000", "00001"]


def test_rows_that_were_not_downloaded_are_told(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write_tar(tmp_path / "00000.tar", range(1, 8))
    rows = [fields(i) for i in range(8)]
    rows[0] |= {"status": "failed_to_download", "error_message": "HTTP 404"}
    pandas.DataFrame(rows).to_parquet(tmp_path / "00000.parquet")
    lost = [row for row in open_corpus(str(tmp_path)).rows() if isinstance(row, Skip)]
    assert [(s.reason, s.extra["url"]) for s in lost] == [("not_downloaded", fields(0)["url"])]
    assert "404" in lost[0].detail


def test_our_tars_are_read_by_the_webdataset_library(tmp_path):
    wds = pytest.importorskip("webdataset")
    writer = webdataset.Writer(tmp_path / "0.tar")
    for i, row in enumerate(open_corpus(str(write_tar(tmp_path / "in.tar"))).rows()):
        synthetic = Record(row.uid, row.image, row.captions, row.image_id, row.extra, ("a dog",))
        writer.write(synthetic if i == 0 else row, row.image_bytes(), "jpg")
    writer.close()
    found = list(wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False, empty_check=False))
    assert [(s["jpg"], (s["txt"].decode(),)) for s in found] == EXPECTED
    assert [s["__key__"] for s in found] == [f"{i:09d}" for i in range(8)]
    assert json.loads(found[0]["syn.json"]) == {"syn_text": ["a dog"]}
    again = list(open_corpus(str(tmp_path / "0.tar")).rows())
    assert again[0].synthetic == ("a dog",) and not again[1].synthetic
    assert [r.uid for r in again] == [f"in/in/{i:09d}" for i in range(8)]


def test_tfds_through_data_source(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "captions": tfds.features.Sequence(
            tfds.features.Text())}
    )  # fmt: skip
    try:
        write_tfds(tfds, features, tmp_path)
    except ImportError as error:  # TFDS can write only where TensorFlow is
        pytest.skip(f"TFDS cannot write here: {error}")
    assert sorted(contents("tfds:pairs/train", image_root=str(tmp_path))) == sorted(EXPECTED)


def write_tfds(tfds, features, folder: Path) -> None:
    class Pairs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "pairs"

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(8):
                yield i, {"image": io.BytesIO(jpeg(i)), "captions": [CAPTIONS[i]]}

    Pairs(data_dir=str(folder), file_format="array_record").download_and_prepare()


# ArrayRecord


def test_array_record_gives_back_the_record(tmp_path):
    record = Record("a/é", jpeg(), ("one", "two"), "7", {"w": 1.5, "n": None}, ("three",), "web")
    writer = array_record.Writer(tmp_path / "x.array_record")
    for _ in range(3):
        writer.write(record, record.image, "jpg")
    writer.close()
    records = array_record.ArrayRecords([tmp_path / "x.array_record"])
    assert len(records) == 3 and records[1] == record == pickle.loads(pickle.dumps(records))[2]
    assert list(open_corpus(str(tmp_path / "x.array_record")).rows()) == [record] * 3


def test_array_record_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "x.array_record"
    writer = array_record.Writer(path)
    writer.write(Record("a", jpeg(), ("one",), "a"), jpeg(), "jpg")
    writer.close()
    path.write_bytes(path.read_bytes()[:-10])
    for use in (lambda: array_record.ArrayRecords([path]), lambda: contents(path)):
        with pytest.raises(ValueError, match="x.array_record is no whole ArrayRecord"):
            use()
    with pytest.raises(FileNotFoundError, match="gone"):
        array_record.ArrayRecords([tmp_path / "gone.array_record"])
    with pytest.raises(ValueError, match="mounted bucket"):
        array_record.ArrayRecords(["gs://bucket/x.array_record"])
    for content in (b"", b"\x05\0\0\0{}", b"\xff\xff\xff\xffabc", b"\2\0\0\0[]", b"\4\0\0\0null"):
        with pytest.raises(ValueError, match="not an image-text record"):
            array_record.decode(content)


# Buckets


def test_a_bucket_is_read_as_a_disk_is(tmp_path):
    system = fsspec.filesystem("memory")
    system.store.clear()
    write_images(tmp_path)
    write_tar(tmp_path / "t.tar")
    system.put(str(tmp_path), "/bucket", recursive=True)
    rows = [{"image": f"{i}.jpg", "caption": CAPTIONS[i]} for i in range(8)]
    system.pipe("/bucket/rows.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert contents("memory://bucket/rows.jsonl") == EXPECTED
    assert contents("memory://bucket/t.tar") == EXPECTED
    assert contents("memory://bucket/*.tar") == EXPECTED
    record = next(open_corpus("memory://bucket/rows.jsonl").rows())
    assert open_image(record.image).size == (40, 30)
    with pytest.raises(FileNotFoundError, match="gone"):
        open_corpus("memory://bucket/gone.tar")
    system.store.clear()


def test_the_web_is_never_asked():
    for use in (storage.open_binary, open_corpus):
        with pytest.raises(ValueError, match="not https://"):
            use("https://example.org/x.jpg")
    with pytest.raises(ImageError, match="not https://"):
        open_image("https://example.org/x.jpg")


# Damage


def test_a_truncated_tar_gives_what_is_whole(tmp_path):
    path = write_tar(tmp_path / "t.tar")
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmembers()[6].offset_data
    path.write_bytes(whole[: third + 100])
    rows = list(open_corpus(str(path)).rows())
    # The third image is cut; the damage is told where it is met.
    assert [r.captions for r in rows if isinstance(r, Record)] == [(c,) for c in CAPTIONS[:2]]
    assert [r.reason for r in rows if isinstance(r, Skip)] == ["tar_truncated"]


def test_a_broken_header_costs_one_file(tmp_path):
    path = write_tar(tmp_path / "t.tar")
    whole = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        start = archive.getmembers()[3].offset  # the second image
    whole[start : start + 20] = b"x" * 20
    path.write_bytes(whole)
    assert reasons(path) == {"tar_damaged": 1, "no_image": 1}
    assert len(list(open_corpus(str(path)).rows())) == 9


def test_long_names_links_and_large_members(tmp_path, monkeypatch):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "t.tar"
        with tarfile.open(path, "w", format=form) as archive:
            link = tarfile.TarInfo("evil.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            for name, size in (("é" * 200 + ".txt", 10), ("large.jpg", 2000), ("last.txt", 3)):
                member = tarfile.TarInfo(name)
                member.size = size
                archive.addfile(member, io.BytesIO(b"a" * size))
        monkeypatch.setattr(tar, "MAX_MEMBER", 1000)
        found = list(tar.members(io.BytesIO(path.read_bytes()), "t"))
        names = [m.name if isinstance(m, tar.Member) else m.reason for m in found]
        assert names == ["é" * 200 + ".txt", "large_member", "last.txt"]


def test_samples_that_are_no_pair_are_told(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (
            ("a.txt", b"no image"),
            ("b.jpg", jpeg()),
            ("c.jpg", jpeg()),
            ("c.json", b"{"),
            ("d.jpg", jpeg()),
            ("d.pkl", b"cos\nsystem\n(S'exit 1'\ntR."),
            ("d.txt", b"a dog"),
            ("e.jpg", jpeg()),
            ("e.txt", b"a bird"),
            ("d.jpg", jpeg()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    expected = {"no_image": 1, "empty_caption": 1, "bad_text": 1, "duplicate_key": 1}
    assert reasons(path) == expected


def test_broken_lines_cost_themselves(tmp_path):
    write_images(tmp_path)
    good = json.dumps({"image": "0.jpg", "caption": "a dog"})
    bad = ["{", "[]", '{"image": 3, "caption": "a"}', '{"image": "0.jpg", "caption": ["a", 1]}']
    (tmp_path / "t.jsonl").write_text("\n".join([*bad, "", good, '"é', good]))
    lost = {"bad_json": 2, "not_an_object": 1, "bad_field": 2}
    assert reasons(tmp_path / "t.jsonl") == lost
    (tmp_path / "t.csv").write_text('image,caption\n0.jpg,"a\ndog"\n0.jpg,a,b\n0.jpg\n1.jpg,b\n')
    assert reasons(tmp_path / "t.csv") == {"bad_row": 2}
    packed = gzip.compress("\n".join([good] * 5000).encode() + np.random.bytes(5000).hex().encode())
    (tmp_path / "t.jsonl.gz").write_bytes(packed[:-400])
    assert reasons(tmp_path / "t.jsonl.gz")["truncated_file"] == 1


def test_the_budget_stops_a_run_that_loses_too_much():
    lost = [Skip(str(i), "no_image", f"row {i}") for i in range(3000)]
    account = Account("web", max_lost=0.1)
    with pytest.raises(ValueError, match=r"web: 1000 of 1000 rows.*1000 no_image.*10%"):
        list(account.records(iter(lost)))
    kept = [Record("a", b"", ("a",), "a")] * 20
    account = Account("web", max_lost=0.1)
    assert len(list(account.records([*kept, *lost[:2]]))) == 20
    with pytest.raises(ValueError, match="3 of 23 rows"):
        list(Account("web").records([*kept, *lost[:3]]))


def test_what_is_there_is_found_or_named(tmp_path):
    with pytest.raises(ValueError, match="expected tars"):
        open_corpus(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="gone"):
        open_corpus(str(tmp_path / "gone.tar"))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no image column 'image' among a, b"):
        contents(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="no image column 'picture'"):
        contents(tmp_path / "t.csv", image="picture")
    for folder in ("a/b", "a-b"):
        write_tar(tmp_path / "w" / f"{folder}.tar", range(1))
    with pytest.raises(ValueError, match="name 'a-b'"):
        open_corpus(str(tmp_path / "w"))
