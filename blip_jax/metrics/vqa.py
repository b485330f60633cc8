"""VQA accuracy as the official evaluation computes it (GT-Vision-Lab/VQA, `vqaEval.py`)."""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
FULL_STOP = re.compile(r"\.(?!\d)")
FULL_STOPS = 32  # at most so many are dropped: the original gives a flag where the count belongs
THOUSANDS = re.compile(r"\d,\d")
ARTICLES = ("a", "an", "the")
COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(i) for i, word in enumerate(COUNTED.split())}
# Whatever lacks one apostrophe of these gets it; the list is the original's.
APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    word[:i] + word[i + 1 :]: word
    for word in APOSTROPHES.split()
    for i, sign in enumerate(word)
    if sign == "'"
}


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """How far people agree with an answer, 0 to 1.

    The mean over the people, usually 10, of min(1, others who gave the answer / 3). Only where
    they are not of one mind are the answers cleaned, theirs and the one that is judged.

    Raises:
      ValueError: nobody answered.
    """
    if not people:
        raise ValueError("VQA accuracy needs at least one person's answer")
    answer, *people = (bare(text) for text in (answer, *people))
    if len(set(people)) > 1:
        answer, *people = (clean(text) for text in (answer, *people))
    same = [text == answer for text in people]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def bare(answer: str) -> str:
    """On one line, without blanks about it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def clean(answer: str) -> str:
    """Without punctuation and articles, numbers as digits, contractions with their apostrophe."""
    text = answer
    for sign in PUNCTUATION:
        beside = f"{sign} " in answer or f" {sign}" in answer or THOUSANDS.search(answer)
        text = text.replace(sign, "" if beside else " ")
    text = FULL_STOP.sub("", text, count=FULL_STOPS)
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
