"""Tokens are those of the COCO tools' Java tokenizer."""

import json
import time
from pathlib import Path

from blip_jax.metrics.tokenize import tokenize, words

RECORDED = Path(__file__).parent / "recorded/captions.json"


def test_strings_of_every_kind_fall_into_the_recorded_tokens():
    rows = json.loads(RECORDED.read_text())["tokens"]
    assert len(rows) > 200
    wrong = [(text, tokens, tokenize(text)) for text, tokens in rows if tokenize(text) != tokens]
    assert not wrong


def test_captions_fall_into_the_recorded_tokens(shared):
    folder = shared / "metrics/flickr8k_test_human"
    texts = json.loads((folder / "inputs.json").read_text())
    tokens = json.loads((folder / "ptb_tokenized_first400.json").read_text())
    count = 0
    for image, recorded in tokens["res"].items():
        assert tokenize(texts["res"][image]) == recorded[0].split(" ")
        for text, expected in zip(texts["gts"][image], tokens["gts"][image], strict=True):
            assert tokenize(text) == expected.split(" ")
            count += 1
    assert count > 1500


def test_line_breaks_end_words_and_not_captions():
    assert tokenize("a dog\r\nruns\u2028fast\x0cnow") == ["a", "dog", "runs", "fast", "now"]


def test_a_fraction_is_one_token_and_two_words():
    assert tokenize("1 1/2 cups") == ["1\xa01/2", "cups"]
    assert words(tokenize("1 1/2 cups")) == ["1", "1/2", "cups"]


def test_no_text_takes_time_that_grows_with_its_square():
    for piece in ("a", "a.", "1-", "'", "a-", "<a ", "x@", "(1", "a/", "http://", ". "):
        start = time.process_time()
        tokenize(piece * 2000)
        assert time.process_time() - start < 5, piece
