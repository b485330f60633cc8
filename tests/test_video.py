"""Videos: sampling, decoding, what is refused, and the tasks that look at them."""

import importlib.util
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from corpora import write_images
from ml_collections import ConfigDict
from PIL import Image

from blip_jax.data import video
from blip_jax.data.images import ImageError
from blip_jax.data.video import VideoError, read_frames, sample
from blip_jax.data.videos import read_video_questions, read_videos
from blip_jax.inference.embed import embed_images
from blip_jax.inference.pixels import Clips
from blip_jax.tasks import video_qa, video_retrieval
from blip_jax.tasks.evaluation import Evaluation

av_is_here = importlib.util.find_spec("av") is not None
needs_av = pytest.mark.skipif(not av_is_here, reason="PyAV is not installed")


def write_video(path, count, rate=10, codec="mpeg4"):
    """`count` grey frames, number i of brightness 10 i; every one decodes to within 4."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for i in range(count):
            picture = np.full((24, 32, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(frames):
    """Which frames of `write_video` these are."""
    return np.rint(frames.mean((1, 2, 3)) / 10).astype(int).tolist()


@pytest.mark.parametrize("total", [1, 3, 7, 8, 9, 100, 1001])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_frames_are_taken_evenly_and_repeated_only_where_there_are_too_few(total, count):
    found = sample(total, count)
    assert len(found) == count and found[0] == 0 and found == sorted(found)
    assert max(found) < total
    times = np.bincount(found, minlength=total)
    assert times.max() == -(-count // min(count, total))
    if total < count:
        assert times.min() >= count // total
    else:  # the original's, without its whole-number step
        assert found == np.arange(0, total, total / count).astype(int).tolist()[:count]
        assert np.diff([*found, total]).max() - np.diff([*found, total]).min() <= 1


@needs_av
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_a_file_gives_the_frames_that_are_asked_for(tmp_path, suffix):
    path = write_video(tmp_path / f"a.{suffix}", 20)
    frames = read_frames(path, 5, 16)
    assert frames.shape == (5, 16, 16, 3) and frames.dtype == np.uint8
    assert numbers(frames) == [0, 4, 8, 12, 16]
    short = write_video(tmp_path / f"b.{suffix}", 3)
    assert numbers(read_frames(short, 5, 16)) == [0, 0, 1, 1, 2]


@needs_av
def test_a_file_that_breaks_off_gives_what_is_whole(tmp_path):
    whole = write_video(tmp_path / "a.mkv", 20).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    found = numbers(read_frames(tmp_path / "cut.mkv", 4, 16))
    assert found == sorted(set(found)) and 3 <= max(found) < 19


@needs_av
def test_frames_that_packets_promise_but_do_not_hold(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", 8)
    monkeypatch.setattr(video, "_count_packets", lambda container, stream: 16)
    assert numbers(read_frames(path, 4, 16)) == [0, 2, 4, 6]


@needs_av
def test_what_cannot_be_a_video_is_refused_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.avi").write_bytes(b"")
    whole = write_video(tmp_path / "a.mp4", 12).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    # A playlist would have its reader fetch what it names.
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    for name in ("text.mp4", "empty.avi", "cut.mp4", "list.m3u8", "missing.mp4"):
        with pytest.raises(VideoError, match=name):
            read_frames(tmp_path / name, 4, 16)
    monkeypatch.setattr(video, "MAX_FRAMES", 11)
    with pytest.raises(VideoError, match="frames, more than 11"):
        read_frames(tmp_path / "a.mp4", 4, 16)
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    with pytest.raises(VideoError, match="32x24 pixels, more than 100"):
        read_frames(tmp_path / "a.mp4", 4, 16)


def test_without_pyav_files_are_refused_and_folders_are_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pip install 'blip-jax\[video\]'") as told:
        read_frames(tmp_path / "a.mp4", 4, 16)
    assert not isinstance(told.value, ImageError)  # no fault of the video
    assert read_frames(write_images(tmp_path / "frames", 2), 4, 16).shape == (4, 16, 16, 3)


def test_folders_and_lists_of_frames(tmp_path):
    for i in range(6):
        Image.new("RGB", (9, 7), (10 * i,) * 3).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert numbers(read_frames(tmp_path, 3, 8)) == [0, 2, 4]
    listed = [tmp_path / f"{i:03d}.png" for i in (5, 1)]
    assert numbers(read_frames(listed, 4, 8)) == [5, 5, 1, 1]
    (tmp_path / "none").mkdir()
    for nothing in (tmp_path / "none", []):
        with pytest.raises(VideoError, match="no frames"):
            read_frames(nothing, 4, 8)
    with pytest.raises(ImageError, match="gone.png"):
        read_frames([tmp_path / "gone.png"], 2, 8)


@needs_av
def test_real_clips(shared):
    for path in sorted((shared / "msvd_clips").glob("*.avi")):
        frames = read_frames(path, 8, 64)
        assert frames.shape == (8, 64, 64, 3)
        apart = np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))
        assert (apart > 0.1).all() and 10 < frames.mean() < 245


def test_annotations_of_videos(tmp_path):
    path = tmp_path / "a.json"

    def read(reader, *rows):
        path.write_text(json.dumps(rows))
        return reader(path)

    rows = read(
        read_videos,
        {"clip_name": "video7010", "caption": "one"},
        {"video": "b.avi", "caption": ["two", "three"]},
        {"clip_name": "video7010", "caption": "four"},
        {"video": "c", "frames": ["c/1.jpg", "c/0.jpg"], "caption": "five"},
    )
    assert [row.captions for row in rows] == [("one", "four"), ("two", "three"), ("five",)]
    assert rows[0].place == tmp_path / "video7010.mp4" and rows[1].place == tmp_path / "b.avi"
    assert rows[2].place == (tmp_path / "c/1.jpg", tmp_path / "c/0.jpg")
    published = {"answer": "boy", "category_id": 5, "id": 9, "question": "who?", "video_id": 7010}
    (asked,) = read(read_video_questions, published)
    assert (asked.question_id, asked.place) == (9, tmp_path / "video7010.mp4")
    for reader, row, message in (
        (read_videos, {"caption": "a"}, 'row 0: field "video" must be the name'),
        (read_videos, {"video": "a"}, 'row 0: field "caption" must be a text or'),
        (read_videos, {"video": "a", "caption": "."}, "none of them empty"),
        (read_videos, {"video": "a", "frames": "b", "caption": "c"}, 'field "frames" must be'),
        (read_videos, 3, "row 0: expected an object"),
        (read_video_questions, {"video": "a"}, 'row 0: field "question" must be'),
        (read_video_questions, {"video": "a", "question": "b", "answer": 3}, 'field "answer"'),
    ):
        with pytest.raises(ValueError, match=message):
            read(reader, row)
    with pytest.raises(ValueError, match="holds no rows"):
        read(read_videos)


def test_a_video_is_the_mean_of_its_frames_and_all_of_their_tokens():
    model = tiny.model("retrieval")
    clips = np.stack([tiny.images(1, seed)[0][:16, :16] for seed in range(6)]).reshape(
        2, 3, 16, 16, 3
    )
    frames = clips.reshape(6, 16, 16, 3)
    tokens = model.blip.image_tokens(model.params, jnp.asarray(clips))
    each = model.blip.image_tokens(model.params, jnp.asarray(frames))
    np.testing.assert_allclose(tokens, each.reshape(2, -1, each.shape[-1]), atol=1e-5)
    head = model.params["vision_proj"]
    mean = (np.asarray(each)[:, 0] @ head["kernel"] + head["bias"]).reshape(2, 3, -1).mean(1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_images(model, clips, 2), expected, atol=1e-5)
    again = model.blip.image_tokens(model.params, tokens)
    assert again is tokens


def write_clips(folder, count=4):
    """Frames of `count` videos, and one that is not there."""
    rows = []
    for i in range(count):
        write_images(folder / str(i), i + 2)
        frames = [f"{i}/{n}.jpg" for n in range(i + 2)]
        rows.append(
            {
                "video": f"v{i}",
                "frames": frames,
                "caption": [f"a red star {i}", "dogs"][: 1 + i % 2],
            }
        )
    rows.insert(1, {"video": "gone", "frames": ["gone.jpg"], "caption": "nothing"})
    (folder / "videos.json").write_text(json.dumps(rows))
    return folder / "videos.json"


def settings(name, **changes) -> ConfigDict:
    """The evaluate section of a config file."""
    spec = importlib.util.spec_from_file_location(name, f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ValueError, match="no variant 'nonsense'"):
        module.get_config("nonsense")
    config = module.get_config()
    assert importlib.util.find_spec(f"blip_jax.tasks.{config.task}")
    config.lock()
    config.evaluate.update(changes)
    return config.evaluate


def test_video_retrieval_end_to_end(tmp_path):
    model = tiny.model("retrieval")
    path = write_clips(tmp_path)
    config = settings("msrvtt", annotations=str(path), num_frames=4, top_k=2, batch_size=2)
    found = video_retrieval.evaluate(model, config)
    assert isinstance(found, Evaluation) and found.count == 4 and found.skipped == {"unreadable": 1}
    videos = [row for row in read_videos(path) if row.name != "gone"]
    clips = Clips([row.place for row in videos], model.config.vision.image_size, 4)
    texts = [text for row in videos for text in row.captions]
    cosine = embed_images(model, clips, 2) @ model.embed_texts(texts).T
    owner = np.repeat(np.arange(4), [len(row.captions) for row in videos])
    right = cosine[owner, np.arange(len(texts))]
    ranks = (cosine >= right).sum(0)  # from 1, and the right one among those that are as good
    assert found.scores["itc_t2v_r1"].value == pytest.approx(np.mean(ranks <= 1))
    assert 1 <= found.scores["t2v_median_rank"].value <= 4
    assert len(found.examples) == len(texts)
    assert all(picture.suffix == ".jpg" for e in found.examples for picture in e.images)


@pytest.mark.parametrize("ranked", [False, True])
def test_video_qa_end_to_end(tmp_path, ranked):
    model = tiny.model("vqa")
    write_clips(tmp_path, 3)
    videos = json.loads((tmp_path / "videos.json").read_text())
    rows = [
        {"id": 10 * v + q, "question": question, "answer": "Red", **videos[v]}
        for q, question in enumerate(["is it green?", "two dogs?", "is it left?"])
        for v in (0, 1, 2)  # the second is not there
    ]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    (tmp_path / "answers.txt").write_text("red\n\nblue\ntwo dogs\n")
    candidates = str(tmp_path / "answers.txt") if ranked else ""
    config = settings(
        "video_qa",
        annotations=str(tmp_path / "qa.json"),
        candidates=candidates,
        num_frames=2,
        batch_size=2,
    )
    found = video_qa.evaluate(model, config)
    assert found.skipped == {"unreadable_video": 3} and found.count == 6
    answers = found.submissions["video_qa_result.json"]
    assert [a["question_id"] for a in answers] == [0, 20, 1, 21, 2, 22]
    kept = [row for row in rows if row["video"] != "gone"]
    for row, answer in zip(kept, answers, strict=True):
        frames = [tmp_path / frame for frame in row["frames"]]
        clip = Clips([frames], model.config.vision.image_size, 2)
        tokens = model.blip.image_tokens(model.params, clip[np.zeros(1, int)])
        options = {"top_k": 128} if ranked else {"num_beams": 3}
        if ranked:
            chosen, _ = video_qa.rank_answers(
                model, tokens, [row["question"]], ["red", "blue", "two dogs"], **options
            )
            expected = ["red", "blue", "two dogs"][chosen[0, 0]]
        else:
            expected = video_qa.write_answers(model, tokens, [row["question"]], **options)[0][0][0]
        assert answer["answer"] == expected
    hits = [a["answer"] == "red" for a in answers]
    assert found.scores["accuracy"].value == pytest.approx(np.mean(hits))
    assert found.scores["accuracy_two"].value == pytest.approx(np.mean(hits[2:4]))


def test_video_qa_without_answers_or_videos(tmp_path):
    model = tiny.model("vqa")
    write_images(tmp_path / "a", 1)
    path = tmp_path / "qa.json"
    config = settings("video_qa", annotations=str(path), num_frames=2, max_new_tokens=2)
    path.write_text(json.dumps([{"video": "a", "question": "red?"}]))
    found = video_qa.evaluate(model, config)
    assert (
        found.scores == {} and found.count == 0 and "holds no answers" in found.missing["accuracy"]
    )
    assert len(found.submissions["video_qa_result.json"]) == 1
    path.write_text(json.dumps([{"video": "a", "frames": [], "question": "red?"}]))
    with pytest.raises(ValueError, match="none of its videos can be opened"):
        video_qa.evaluate(model, config)


def test_real_frames(shared):
    videos = read_videos(shared / "msrvtt_frames/videos.json")
    assert len(videos) == 150 and all(len(row.captions) == 1 for row in videos)
    frames = Clips([row.place for row in videos[:6]], 32, 8)[np.arange(6)]
    assert frames.shape == (6, 8, 32, 32, 3)
    for row, clip in zip(videos, frames, strict=False):
        different = len(np.unique(clip.reshape(8, -1), axis=0))
        assert different == min(len(row.place), 8)
