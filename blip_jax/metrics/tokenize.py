"""Words of a caption, token for token as the COCO tools see them.

The behaviour is that of `java edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase` of
CoreNLP 3.4.1, as pycocoevalcap 1.2 runs it, less the punctuation which that leaves out.
"""

import re

from blip_jax.metrics.ptb import rules

# The tool also names -LRB- and its like, but its tokens are lower case by then: brackets stay.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# Words that no other rule can take more of, as a space follows.
PLAIN = re.compile(r"((?!(?i:cannot|gonna|gotta|gimme|lemme|wanna) )[A-Za-z]+) ")
LINE_BREAKS = re.compile("[\r\n\x0b\x0c\x85\u2028\u2029]")


def tokenize(caption: str) -> list[str]:
    """Caption -> tokens.

    Line breaks count as spaces; the tool takes all but "\\n" for the end of a caption, after which
    its captions and images no longer agree.
    """
    text = LINE_BREAKS.sub(" ", caption) + "  "  # some rules look two signs ahead
    tokens: list[str] = []
    place = 0
    while place < len(text):
        token, place = next_token(text, place)
        if token:
            tokens.append(token.lower())
    return [token for token in tokens if token not in PUNCTUATION]


def words(tokens: list[str]) -> list[str]:
    """Tokens as BLEU and CIDEr split them: "1 1/2" and telephone numbers, which hold no-break
    spaces, are one token, but several words."""
    return " ".join(tokens).split()


def next_token(text: str, place: int) -> tuple[str, int]:
    """The token at a place, "" for none, and where to go on.

    The longest match is taken, context included; of equally long ones the first rule's.
    """
    if plain := PLAIN.match(text, place):
        return plain[1], plain.end()
    longest, token, end = place, "", place + 1
    for pattern, write in rules():
        found = pattern.match(text, place)
        if found and found.end() > longest:
            longest, token, end = found.end(), write(found[1]), found.end(1)
    return token, end
