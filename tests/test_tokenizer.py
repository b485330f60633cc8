"""The tokenizer keeps BERT's ids, its own promises about shape, and its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from blip_jax.tokenizer import BERT_SPECIALS, Tokenizer

VOCAB = Path(__file__).resolve().parents[1] / "../shared/data/bert-base-uncased/vocab.txt"
TEXTS = ["a red circle on sand", "two blue stars, it's dark", "a ring to the left of a star"]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=120)


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    if not VOCAB.is_file():
        pytest.skip("the bert-base-uncased vocabulary is not here")
    return Tokenizer.from_source(VOCAB)


def test_bert_ids_of_known_text(bert):
    ids, mask = bert.encode(["a picture of "], max_length=7)
    assert ids.tolist() == [[101, 1037, 3861, 1997, 102, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 0, 0]]
    assert (bert.dec_id, bert.enc_id, bert.vocab_size) == (30522, 30523, 30524)
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id) == (0, 100, 101, 102)
    assert ids.dtype == mask.dtype == np.int32


def test_bert_decode_joins_pieces_and_punctuation(bert):
    text = "It's an unaffable dog, isn't it? They've said: yes."
    ids, _ = bert.encode([text], max_length=40, first="[DEC]")
    assert bert.decode(ids) == ["it's an unaffable dog, isn't it? they've said : yes."]


def test_task_tokens_are_the_last_two_ids(small):
    assert (small.dec_id, small.enc_id) == (small.vocab_size - 2, small.vocab_size - 1)
    assert small.vocab_size <= 120


@pytest.mark.parametrize("first", ["[CLS]", "[ENC]", "[DEC]"])
def test_first_token_replaces_position_zero_only(small, first):
    ids, _ = small.encode(TEXTS, max_length=16, first=first)
    plain, _ = small.encode(TEXTS, max_length=16)
    expected = {"[CLS]": small.cls_id, "[ENC]": small.enc_id, "[DEC]": small.dec_id}[first]
    assert (ids[:, 0] == expected).all()
    np.testing.assert_array_equal(ids[:, 1:], plain[:, 1:])


def test_cut_text_ends_in_separator_and_count_does_not_cut(small):
    long = " ".join(["star"] * 50)
    ids, mask = small.encode([long, "star"], max_length=6)
    assert ids[0, -1] == small.sep_id and mask[0].all()
    assert ids[1].tolist()[2:] == [small.sep_id] + [small.pad_id] * 3
    assert small.count([long, "star"]) == [52, 3]


def test_prompt_has_no_separator(small):
    ids, mask = small.encode(["a red"], max_length=5, first="[DEC]", eos=False)
    assert small.sep_id not in ids
    assert mask.tolist() == [[1, 1, 1, 0, 0]]


def test_decode_skips_every_special_token_and_keeps_rows(small):
    ids, _ = small.encode(TEXTS[:2], max_length=24, first="[ENC]")
    assert small.decode(ids) == ["a red circle on sand", "two blue stars, it's dark"]
    assert small.decode(ids[None, :1]) == ["a red circle on sand"]


def test_training_is_deterministic():
    texts = [f"word{i} {chr(97 + i % 26)}{chr(97 + i % 7)}z" for i in range(300)]
    ids = [Tokenizer.train(texts, 150).encode(texts, max_length=12)[0] for _ in range(3)]
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[0], ids[2])


def test_saved_folder_reads_back_alike_from_either_file(small, tmp_path):
    small.save(tmp_path / "both")
    (tmp_path / "vocab").mkdir()
    vocab = tmp_path / "both" / "vocab.txt"
    (tmp_path / "vocab" / "vocab.txt").write_text(vocab.read_text())
    expected, _ = small.encode(TEXTS, max_length=16, first="[ENC]")
    for source in (tmp_path / "both", tmp_path / "vocab", vocab):
        again = Tokenizer.from_source(source)
        assert again.vocab_size == small.vocab_size
        assert (again.dec_id, again.enc_id) == (small.dec_id, small.enc_id)
        np.testing.assert_array_equal(
            again.encode(TEXTS, max_length=16, first="[ENC]")[0], expected
        )
    assert sorted(f.name for f in (tmp_path / "both").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    config = json.loads((tmp_path / "both" / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["additional_special_tokens"]) == ("[DEC]", ["[ENC]"])


def test_bad_sources_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor vocab.txt"):
        Tokenizer.from_source(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(BERT_SPECIALS[:3]))
    with pytest.raises(ValueError, match=r"vocab.txt .*\[SEP\], \[MASK\]"):
        Tokenizer.from_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no/such"):
        Tokenizer.from_source("no/such/tokenizer/anywhere")


def test_misuse_is_refused(small):
    with pytest.raises(TypeError, match="list of texts"):
        small.encode("a star", max_length=8)
    with pytest.raises(ValueError, match="first must be"):
        small.encode(["a star"], max_length=8, first="[SEP]")
    with pytest.raises(ValueError, match="max_length 1"):
        small.encode(["a star"], max_length=1)
