"""BERT WordPiece tokenizer with BLIP's two task tokens, [DEC] and [ENC]."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TASK_TOKENS = ("[DEC]", "[ENC]")

# transformers' clean_up_tokenization, in its order.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Tokenizer:
    """Lower-case WordPiece; `[DEC]` opens decoder text, `[ENC]` multimodal text, `[SEP]` ends it.

    With the bert-base-uncased vocabulary [DEC] is 30522 and [ENC] 30523 (BLIP models/blip.py,
    init_tokenizer). Ids: pad_id, unk_id, cls_id, sep_id, mask_id, dec_id, enc_id; `vocab_size`
    counts both task tokens.
    """

    def __init__(self, backend: Backend):
        """Adds the task tokens where absent; ValueError where a BERT special token is absent."""
        missing = [t for t in BERT_SPECIALS if backend.token_to_id(t) is None]
        if missing:
            raise ValueError(f"The vocabulary lacks {', '.join(missing)}, which BERT text needs.")
        backend.no_truncation()
        backend.no_padding()
        backend.add_special_tokens(
            [AddedToken(t, special=True, normalized=False) for t in BERT_SPECIALS + TASK_TOKENS]
        )
        self._backend = backend
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(
            backend.get_vocab().__getitem__, BERT_SPECIALS
        )
        self.dec_id, self.enc_id = map(backend.get_vocab().__getitem__, TASK_TOKENS)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_source(cls, source: str | Path) -> Tokenizer:
        """Loads a vocab.txt, a folder with tokenizer.json or vocab.txt, or a hub name.

        Raises:
          FileNotFoundError: nothing of that name is on disk or can be had from the hub.
          ValueError: the file is not a WordPiece vocabulary with BERT's special tokens.
        """
        path = Path(source)
        if path.is_dir():
            files = [path / name for name in ("tokenizer.json", "vocab.txt")]
            found = [f for f in files if f.is_file()]
            if not found:
                raise FileNotFoundError(
                    f"The folder {source} holds neither tokenizer.json nor vocab.txt."
                )
            path = found[0]
        if not path.is_file():
            return cls(_from_hub(str(source)))
        try:
            return cls(_from_file(path))
        except Exception as error:  # the library raises bare Exception for a bad file
            raise ValueError(f"{path} is not a BERT WordPiece tokenizer: {error}") from error

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 30522, min_frequency: int = 1
    ) -> Tokenizer:
        """Learns a vocabulary of at most `vocab_size` tokens, both task tokens included.

        The same texts give the same ids. The characters of the texts are always kept, even
        where they alone exceed `vocab_size`.
        """
        texts = list(texts)
        trainee = _bert_backend({t: i for i, t in enumerate(BERT_SPECIALS)})
        # The trainer numbers "##c" pieces in hash-map order, so they are given to it, sorted.
        pieces = sorted({f"##{c}" for word in _words(trainee, texts) for c in word[1:]})
        trainee.train_from_iterator(
            texts,
            trainers.WordPieceTrainer(
                vocab_size=vocab_size - len(TASK_TOKENS),
                min_frequency=min_frequency,
                special_tokens=[*BERT_SPECIALS, *pieces],
                show_progress=False,
            ),
        )
        return cls(_bert_backend(trainee.get_vocab()))

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, vocab.txt and tokenizer_config.json, each by rename.

        transformers' BertTokenizerFast.from_pretrained reads the folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocab = self._backend.get_vocab(with_added_tokens=True)
        config = {
            "tokenizer_class": "BertTokenizerFast",
            "do_lower_case": True,
            "clean_up_tokenization_spaces": True,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
            "bos_token": "[DEC]",
            "additional_special_tokens": ["[ENC]"],
        }
        lines = "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__))
        _write(folder / "vocab.txt", lines)
        _write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        _write(folder / "tokenizer.json", self._backend.to_str(pretty=True))

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_length: int,
        first: str = "[CLS]",
        eos: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask, both int32 [B, max_length], padded on the right.

        `first` ([CLS], [ENC] or [DEC]) stands at position 0. A text too long is cut so that
        [SEP] stays last; `eos=False` leaves [SEP] out, for prompts.
        """
        if first not in ("[CLS]", *TASK_TOKENS):
            raise ValueError(f"first must be [CLS], [ENC] or [DEC], not {first!r}.")
        room = max_length - 1 - eos
        if room < 0:
            raise ValueError(f"max_length {max_length} leaves no room for the special tokens.")
        ids = np.full((len(texts), max_length), self.pad_id, np.int32)
        mask = np.zeros((len(texts), max_length), np.int32)
        tail = [self.sep_id] * eos
        head = {"[CLS]": self.cls_id, "[DEC]": self.dec_id, "[ENC]": self.enc_id}[first]
        for row, pieces in enumerate(self._pieces(texts)):
            line = [head, *pieces[:room], *tail]
            ids[row, : len(line)] = line
            mask[row, : len(line)] = 1
        return ids, mask

    def count(self, texts: Sequence[str]) -> list[int]:
        """Token count of each text before any cut, the first token and [SEP] included."""
        return [len(pieces) + 2 for pieces in self._pieces(texts)]

    def decode(self, ids: np.ndarray | Sequence) -> list[str]:
        """Texts of ids [..., T], row by row, without special tokens.

        As transformers' batch_decode(skip_special_tokens=True,
        clean_up_tokenization_spaces=True).
        """
        ids = np.asarray(ids)
        rows = ids.reshape(-1, ids.shape[-1]).tolist()
        return [_clean_up(t) for t in self._backend.decode_batch(rows, skip_special_tokens=True)]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise TypeError("Tokenizer takes a list of texts, not one string.")
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [e.ids for e in encoded]


def _from_hub(name: str) -> Backend:
    try:
        return Backend.from_pretrained(name)
    except Exception as error:  # the library raises bare Exception for every hub failure
        raise FileNotFoundError(
            f"No tokenizer at {name!r}: it is neither a file nor a folder here, "
            f"and the hub gave none ({error})."
        ) from error


def _from_file(path: Path) -> Backend:
    if path.suffix == ".json":
        return Backend.from_file(str(path))
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    return _bert_backend({token.rstrip("\r"): i for i, token in enumerate(lines)})


def _bert_backend(vocab: dict[str, int]) -> Backend:
    """The pipeline of bert-base-uncased over `vocab`."""
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    if "[CLS]" in vocab and "[SEP]" in vocab:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
        )
    return backend


def _words(backend: Backend, texts: Iterable[str]) -> set[str]:
    words: set[str] = set()
    for text in texts:
        normal = backend.normalizer.normalize_str(text)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    return words


def _clean_up(text: str) -> str:
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
