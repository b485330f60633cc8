"""Annotations of videos: with captions (MSRVTT's 1k-A), with a question (MSRVTT-QA, MSVD-QA)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_jax.data.records import load_list
from blip_jax.data.text import pre_caption

Place = Path | tuple[Path, ...]  # a file, a folder of frames, or its frames


@dataclass(frozen=True)
class Video:
    """A video and the texts that describe it."""

    name: str
    place: Place
    captions: tuple[str, ...]


@dataclass(frozen=True)
class VideoQuestion:
    """A question about a video; `answer` is "" where it is not published."""

    question_id: int | str
    name: str
    place: Place
    question: str
    answer: str


def read_videos(path: str | Path, video_root: str | Path | None = None) -> list[Video]:
    """Reads `[{"video" or "clip_name", "caption": text or texts, "frames"?: images}, ...]`.

    Args:
      path: the annotation file. "video" is a file or a folder of frames; "clip_name" is as
        MSRVTT lists it, without its ".mp4"; "frames" are the images to sample from, in order.
      video_root: what these are relative to; the annotation file's own folder if None.

    Returns:
      One a video, in order; rows of the same video are put together.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a list; the row and field are named.
    """
    found: dict[str, Video] = {}
    for number, row in enumerate(load_list(path)):
        name, place = _video(path, number, row, video_root)
        value = row.get("caption")
        captions = [value] if isinstance(value, str) else value
        if not isinstance(captions, list) or not all(
            isinstance(text, str) and pre_caption(text) for text in captions
        ):
            raise _error(path, number, "caption", "a text or a list of texts, none of them empty")
        before = found[name].captions if name in found else ()
        found[name] = Video(name, place, (*before, *captions))
    return _some(path, list(found.values()))


def read_video_questions(
    path: str | Path, video_root: str | Path | None = None
) -> list[VideoQuestion]:
    """Reads `[{"video" or "video_id", "question", "answer"?, "question_id" or "id"?}, ...]`.

    "video" and "frames" are as in `read_videos`; a number "video_id" of 7010 is MSRVTT's
    video7010.mp4. Rows without an id are numbered.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a list; the row and field are named.
    """
    found = []
    for number, row in enumerate(load_list(path)):
        name, place = _video(path, number, row, video_root)
        question, answer = row.get("question"), row.get("answer", "")
        if not isinstance(question, str):
            raise _error(path, number, "question", "a text")
        if not isinstance(answer, str):
            raise _error(path, number, "answer", "a text")
        uid = row.get("question_id", row.get("id", number))
        found.append(VideoQuestion(uid, name, place, question, answer))
    return _some(path, found)


def _video(
    path: str | Path, number: int, row: Any, video_root: str | Path | None
) -> tuple[str, Place]:
    """A row's name of its video, and where that is."""
    if not isinstance(row, dict):
        raise ValueError(f"{path}, row {number}: expected an object.")
    root = Path(path).parent if video_root is None else Path(video_root)
    name = row.get("video", row.get("clip_name", row.get("video_id")))
    if not isinstance(name, str | int):
        raise _error(path, number, "video", "the name of a file or of a folder of frames")
    if "frames" in row:
        frames = row["frames"]
        if not isinstance(frames, list) or not all(isinstance(f, str) for f in frames):
            raise _error(path, number, "frames", "a list of images")
        return str(name), tuple(root / frame for frame in frames)
    file = f"video{name}.mp4" if isinstance(name, int) else name
    return str(name), root / (file if "video" in row or file.endswith(".mp4") else f"{file}.mp4")


def _some(path: str | Path, rows: list[Any]) -> list[Any]:
    if not rows:
        raise ValueError(f"{path} holds no rows.")
    return rows


def _error(path: str | Path, number: int, name: str, wanted: str) -> ValueError:
    return ValueError(f'{path}, row {number}: field "{name}" must be {wanted}.')
