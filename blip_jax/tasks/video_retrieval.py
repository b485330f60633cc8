"""Zero-shot video-text retrieval (paper section 5.6, the original's `eval_retrieval_video.py`).

A retrieval model sees uniformly sampled frames: ITC compares a text with the mean of the frames,
ITM attends to the tokens of all of them in a row, and nothing says which came first.
"""

from ml_collections import ConfigDict

from blip_jax.data.videos import Place, read_videos
from blip_jax.files import Progress, silent
from blip_jax.inference.pixels import Clips
from blip_jax.model import Model
from blip_jax.tasks.evaluation import Evaluation
from blip_jax.tasks.search import Searched, evaluate_search


def evaluate(model: Model, config: ConfigDict, progress: Progress = silent) -> Evaluation:
    """Searches videos by texts and texts by videos.

    Args:
      config: annotations and video_root, as `read_videos` takes them; num_frames; and what
        `evaluate_search` takes.

    Returns:
      t2v_*, text to video, which the paper reports, and v2t_*, as `evaluate_search` names them.

    Raises:
      ValueError: no list of videos with captions, none of which can be opened, or a setting that
        means nothing.
    """
    videos = read_videos(config.annotations, config.video_root or None)
    size = model.config.vision.image_size
    clips = Clips([video.place for video in videos], size, config.num_frames)
    rows = [Searched(video.captions, picture(video.place)) for video in videos]
    return evaluate_search(model, clips, rows, ("v2t", "t2v"), config, progress)


def picture(place: Place) -> tuple:
    """What a page shows of a video: the frame in the middle, where frames are images."""
    return (place[len(place) // 2],) if isinstance(place, tuple) and place else ()
