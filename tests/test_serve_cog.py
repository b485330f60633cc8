"""The predictor for cog, with a stand-in for cog itself."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import tiny
from PIL import Image

from blip_jax.model import save

FILE = Path(__file__).resolve().parents[1] / "deploy/cog/predict.py"


@pytest.fixture
def predictor(monkeypatch, tmp_path):
    cog = types.ModuleType("cog")
    cog.BasePredictor, cog.Path = object, Path
    cog.Input = lambda default=None, **_: default
    monkeypatch.setitem(sys.modules, "cog", cog)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("predict", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Predictor()


def test_the_first_model_that_can_is_asked(predictor, tmp_path):
    with pytest.raises(FileNotFoundError):
        predictor.setup()
    model = tiny.model("retrieval")
    save(model, tmp_path / "model")
    Image.fromarray(tiny.images(1)[0]).save(tmp_path / "a.png")
    predictor.setup()
    found = predictor.predict(tmp_path / "a.png", "image_text_matching", "", "two dogs")
    assert found == str(model.match(str(tmp_path / "a.png"), "two dogs")[0])
    with pytest.raises(ValueError, match="needs caption"):
        predictor.predict(tmp_path / "a.png", "image_text_matching", "", "")
    with pytest.raises(ValueError, match="can caption"):
        predictor.predict(tmp_path / "a.png", "image_captioning", "", "")
