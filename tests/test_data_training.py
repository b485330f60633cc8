"""Training input: every record once an epoch, in one stream, whatever reads it."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from corpora import jpeg

from blip_jax.data.augment import TextNoise
from blip_jax.data.examples import ImageText, ImageTextOptions, Skips, draw_text
from blip_jax.data.formats.array_record import ArrayRecords, Writer
from blip_jax.data.mixture import Source, mixture
from blip_jax.data.pipeline import move_state, train_dataset
from blip_jax.data.record import Record
from blip_jax.tokenizer import Tokenizer

OPTIONS = ImageTextOptions(image_size=8, max_tokens=8, flip=True, randaugment=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a dog", "a bird", "a red house", "left right"], vocab_size=100)


def record(uid: object, image: bytes = b"") -> Record:
    return Record(str(uid), image, ("a dog",), str(uid), synthetic=("a bird",))


def write(path, count: int, image: bytes = b"") -> str:
    writer = Writer(path)
    for i in range(count):
        writer.write(record(i), image, "jpg")
    writer.close()
    return str(path)


def uids(dataset, start: int, stop: int) -> list[int]:
    return [int(dataset[i].uid) for i in range(start, stop)]


def test_epochs_of_array_record_lose_and_repeat_nothing(tmp_path):
    count = 4000  # in three files
    files, start = [], 0
    for size in (1, 1999, 2000):
        writer = Writer(tmp_path / f"{start}.array_record")
        for i in range(start, start + size):
            writer.write(record(i), b"", "jpg")
        writer.close()
        files.append(str(tmp_path / f"{start}.array_record"))
        start += size
    stream = mixture([Source(ArrayRecords(files))], seed=3)
    epochs = [uids(stream, e * count, (e + 1) * count) for e in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(count))] * 2
    assert epochs[0] != epochs[1]
    # A global shuffle: neighbours come from all over, not from a window.
    gaps = np.abs(np.diff(epochs[0]))
    assert gaps.mean() == pytest.approx(count / 3, rel=0.1)


def test_parts_rotate(tmp_path):
    records = [record(i) for i in range(10)]
    stream = mixture([Source(records, parts=5)], seed=0)
    rounds = [uids(stream, i, i + 10) for i in (0, 10)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(10))
    parts = [[set(r[i : i + 2]) for i in range(0, 10, 2)] for r in rounds]
    assert parts[0] == parts[1] == [{p, p + 5} for p in range(5)]


def test_sources_keep_their_shares():
    web, human = [record(i) for i in range(90)], [record(100 + i) for i in range(10)]
    weighed = uids(mixture([Source(web, 0.3), Source(human, 0.7)], seed=1), 0, 1000)
    assert sum(u < 100 for u in weighed) == pytest.approx(300, abs=3)
    # By default the records of one epoch come up equally often.
    counts = Counter(uids(mixture([Source(web), Source(human)], seed=1), 0, 200))
    assert set(counts.values()) == {2} and len(counts) == 100
    fifth = uids(mixture([Source(web, parts=5), Source(human)], seed=1), 0, 280)
    assert sum(u < 100 for u in fifth) == 180
    for bad in (Source(web, weight=0), Source([]), Source(web, parts=91), Source(web, parts=0)):
        with pytest.raises(ValueError, match=r"above 0|cannot make"):
            mixture([bad], seed=0)


def test_web_and_synthetic_texts_at_a_ratio():
    rng = np.random.default_rng(0)
    both = Record("a", b"", ("w1", "w2", "w3"), "a", synthetic=("s",))
    draws = Counter(draw_text(both, 0.75, rng)[0] for _ in range(2000))
    assert draws["s"] / 2000 == pytest.approx(0.75, abs=0.03)
    draws = Counter(draw_text(both, None, rng) for _ in range(2000))
    assert all(n / 2000 == pytest.approx(0.25, abs=0.03) for n in draws.values())
    only = dataclasses.replace(both, synthetic=())
    assert {draw_text(only, 1.0, rng) for _ in range(50)} == {"w1", "w2", "w3"}


def stream_of(files, tokenizer, **options):
    options = {"batch_size": 8, "seed": 5, "threads": 2} | options
    return iter(
        train_dataset([Source(ArrayRecords(files))], ImageText(tokenizer, OPTIONS), **options)
    )


def take(stream, count: int) -> list[dict]:
    return [next(stream) for _ in range(count)]


def assert_same(left: list[dict], right: list[dict]) -> None:
    for a, b in zip(left, right, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_hosts_share_and_resume_on_another_number(tmp_path, tokenizer):
    files = [write(tmp_path / "x.array_record", 20, jpeg())]
    whole = take(stream_of(files, tokenizer), 8)
    plain = train_dataset(ArrayRecords(files), ImageText(tokenizer, OPTIONS), batch_size=8, seed=5)
    assert_same(take(iter(plain), 2), whole[:2])
    for count in (2, 4):
        hosts = [
            take(stream_of(files, tokenizer, process_index=i, process_count=count), 8)
            for i in range(count)
        ]
        for name in ("uid_hash", "image"):
            batches = zip(*hosts, strict=True)
            joined = [np.concatenate([part[name] for part in parts]) for parts in batches]
            np.testing.assert_array_equal(joined, [b[name] for b in whole])
        rows = np.concatenate([b["uid_hash"] for b in whole])
        assert len(set(rows[:20])) == 20  # one epoch, and nothing twice
    two = stream_of(files, tokenizer, process_count=2)
    take(two, 3)
    state = json.loads(json.dumps(two.get_state()))
    one = stream_of(files, tokenizer)
    one.set_state(move_state(state, 2, 1))
    assert_same(take(one, 5), whole[3:])
    with pytest.raises(ValueError, match="24 rows cannot be shared equally by 5"):
        move_state(state, 2, 5)


class Probe(Sequence):
    """Records that tell how jax is in the process that reads them."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index):
        bridge = sys.modules.get("jax._src.xla_bridge")
        jax = sys.modules.get("jax")
        backends = bool(bridge and bridge._backends)
        platforms = jax.config.jax_platforms if jax else "cpu"
        if backends or platforms != "cpu" or "flax" in sys.modules:
            raise RuntimeError(f"a worker woke jax: {backends=} {platforms=}")
        return record(index, b"broken" if index == 3 else jpeg(index))


def test_workers_load_resume_count_and_leave_jax_alone(tokenizer):
    def start(skips=None):
        data = [Source(Probe())]
        return iter(
            train_dataset(
                data, ImageText(tokenizer, OPTIONS), batch_size=4, seed=1, workers=2, skips=skips
            )
        )

    skips = Skips()
    stream = start(skips)
    first = take(stream, 3)
    state = stream.get_state()
    rest = take(stream, 6)
    stream.close()
    assert skips.counts == {"unreadable_image": 1}
    seen = np.concatenate([b["uid_hash"] for b in first + rest])
    assert len(set(seen)) == 15
    again = start()
    again.set_state(state)
    assert_same(take(again, 6), rest)
    again.close()


# text noise


def test_text_noise_changes_the_share_it_is_asked_for():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(1000)]
    text = " ".join(words)
    assert TextNoise()(text, rng) == text
    dropped = TextNoise(drop=0.2)(text, rng).split()
    assert len(dropped) == pytest.approx(800, abs=40) and set(dropped) < set(words)
    assert dropped == sorted(dropped, key=words.index)
    masked = TextNoise(mask=0.3)(text, rng).split()
    assert masked.count("[MASK]") == pytest.approx(300, abs=45)
    assert all(m in (w, "[MASK]") for m, w in zip(masked, words, strict=True))
    swapped = TextNoise(swap=0.2)(text, rng).split()
    assert sorted(swapped) == sorted(words) and swapped != words
    moved = sum(a != b for a, b in zip(swapped, words, strict=True))
    assert 250 < moved < 450
    assert {TextNoise(drop=1.0)("a dog", rng) for _ in range(20)} == {"a", "dog"}
    with pytest.raises(ValueError, match="shares"):
        TextNoise(drop=0.6, mask=0.6)


def test_text_noise_reaches_the_batch_as_mask_tokens(tmp_path, tokenizer):
    options = dataclasses.replace(OPTIONS, text_noise=TextNoise(mask=1.0), prompt="a ")
    records = [record(i, jpeg(i)) for i in range(4)]
    batch = next(
        iter(train_dataset([Source(records)], ImageText(tokenizer, options), batch_size=4, seed=0))
    )
    assert (batch["input_ids"] == tokenizer.mask_id).sum(1).tolist() == [2] * 4
