"""Words of a caption, for metrics."""

import re

_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")


def tokenize(caption: str) -> list[str]:
    """Lower-case words without punctuation. Not the PTB tokenizer of the COCO tools."""
    return _WORD.findall(caption.lower())
