"""convert from the shell, in this process: there and back, and what it refuses."""

import numpy as np
import pytest
import tiny

from blip_jax import cli
from blip_jax.model import flatten, load, save

HEADS = ("--vision_heads=4", "--text_heads=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a pre-trained model, and its vocabulary beside it."""
    root = tmp_path_factory.mktemp("convert")
    save(tiny.model(), root / "ours")
    tiny.model().tokenizer.save(root)
    return root


def convert(capsys, *argv):
    """Exit code, stdout, stderr."""
    code = 0
    try:
        cli.main(["convert", *(str(a) for a in argv)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_to_salesforce_and_back_is_bit_for_bit(capsys, place):
    assert convert(capsys, place / "ours", place / "a.pth", "--to", "salesforce")[0] == 0
    code, out, _ = convert(capsys, place / "a.pth", place / "back", "--to=blip_jax", *HEADS)
    assert code == 0 and "tied" in out
    one, two = (flatten(load(place / name).params) for name in ("ours", "back"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


@pytest.mark.parametrize("task", ["caption", "retrieval"])
def test_half_of_a_pretrained_model_goes_to_hugging_face(capsys, place, task):
    target = place / f"hf_{task}"
    code, _, err = convert(capsys, place / "ours", target, "--to=huggingface", f"--task={task}")
    assert code == 0, err
    ours, theirs = load(place / "ours"), load(target)
    assert theirs.config.task == task
    picture = tiny.images(1)[0]
    if task == "caption":
        captions = [m.caption(picture, max_new_tokens=5)[0][0].text for m in (ours, theirs)]
        assert captions[0] == captions[1]
    else:
        np.testing.assert_allclose(
            ours.embed_images(picture), theirs.embed_images(picture), atol=1e-6
        )


def test_mistakes_are_one_sentence_and_leave_nothing(capsys, place):
    code, _, err = convert(capsys, place / "ours", place / "ours", "--to=blip_jax")
    assert code == 2 and "is there already" in err
    code, _, err = convert(capsys, place / "none.pth", place / "x", "--to=blip_jax")
    assert code == 2 and "none.pth" in err and not (place / "x").exists()
    (place / "cut.pth").write_bytes(b"PK\x03\x04 not a whole file")
    code, _, err = convert(capsys, place / "cut.pth", place / "x", "--to=blip_jax")
    assert code == 2 and "cut.pth" in err and not (place / "x").exists()
    code, _, err = convert(capsys, place / "ours", "--to=blip_jax")
    assert code == 2 and "SOURCE and TARGET" in err
