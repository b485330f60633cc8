"""Videos as uniformly sampled frames: files through PyAV, folders or lists of frame images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.data.images import MAX_PIXELS, ImageError, open_image, resize_square, to_array

VideoLike = str | Path | Sequence[str | Path | bytes | Image.Image | np.ndarray]

MAX_FRAMES = 200_000  # of a file, all of which are decoded up to the last that is wanted
# A playlist would have its reader open what it names.
READER = {
    "format_whitelist": "asf,avi,flv,matroska,webm,mov,mp4,mpeg,mpegts,mpegvideo,ogg",
    "protocol_whitelist": "none",
}
FRAME_NAMES = (".jpg", ".jpeg", ".png", ".webp")


class VideoError(ImageError):
    """A video that cannot be used; the message names it and says why."""


def sample(total: int, count: int) -> list[int]:
    """Numbers of `count` frames out of `total`: the first of each of `count` equal parts.

    The original's sampling (`data/video_dataset.py`) without its whole-number step, which never
    saw the end. A frame is repeated only where there are fewer than `count`.
    """
    return [i * total // count for i in range(count)]


def read_frames(video: VideoLike, count: int, size: int) -> np.ndarray:
    """`count` frames, uniformly sampled and squashed to uint8 [count, size, size, 3].

    Args:
      video: a file on disk; a folder whose JPEG, PNG and WebP images, in the order of their
        names, are the frames; or a list of the frames.
      count: frames wanted.
      size: pixels.

    Raises:
      VideoError: missing, without frames, damaged, of a format that is not read, too large.
      ImageError: so is one of its frame images.
      ValueError: a file, but PyAV is not installed.
    """
    if isinstance(video, str | Path) and not Path(video).is_dir():
        return _decode(Path(video), count, size)
    frames = _frame_images(Path(video)) if isinstance(video, str | Path) else list(video)
    if not frames:
        raise VideoError(f"{video or 'The given video'} has no frames.")
    numbers = sample(len(frames), count)
    opened = {i: to_array(resize_square(open_image(frames[i]), size)) for i in set(numbers)}
    return np.stack([opened[i] for i in numbers])


def _frame_images(folder: Path) -> list[Any]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in FRAME_NAMES)


def _decode(path: Path, count: int, size: int) -> np.ndarray:
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"{path}: video files need PyAV (pip install 'blip-jax[video]'); "
            "folders and lists of frames do not"
        ) from error
    try:
        with open(path, "rb") as file, av.open(file, container_options=READER) as container:
            return _pick(path, container, count, size)
    except VideoError:
        raise
    except OSError as error:  # those of FFmpeg among them
        raise VideoError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} is no readable video ({reason}).") from error


def _pick(path: Path, container: Any, count: int, size: int) -> np.ndarray:
    if not container.streams.video:
        raise VideoError(f"{path} has no pictures.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(f"{path} has frames of {width}x{height} pixels, more than {MAX_PIXELS}.")
    total = _count_packets(container, stream)
    if total > MAX_FRAMES:
        raise VideoError(f"{path} has {total} frames, more than {MAX_FRAMES}.")
    found, seen = _take(container, stream, sample(total, count), size)
    if seen <= sample(total, count)[-1]:  # some packets held no frame
        if not seen:
            raise VideoError(f"{path} has no frames.")
        total = seen
        found, _ = _take(container, stream, sample(total, count), size)
    return np.stack([found[i] for i in sample(total, count)])


def _count_packets(container: Any, stream: Any) -> int:
    """Packets with content: as many as frames, in nearly every file; what files say is less so."""
    total = 0
    for packet in container.demux(stream):
        total += packet.size > 0
        if total > MAX_FRAMES:
            break
    return total


def _take(
    container: Any, stream: Any, numbers: Iterable[int], size: int
) -> tuple[dict[int, np.ndarray], int]:
    """Frames by number, and how many were decoded on the way to the last of them."""
    wanted, found, seen = set(numbers), {}, 0
    container.seek(0)
    for frame in container.decode(stream):
        if seen in wanted:
            found[seen] = to_array(resize_square(frame.to_image(), size))
        seen += 1
        if len(found) == len(wanted):
            break
    return found, seen
