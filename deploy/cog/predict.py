"""For cog: the inputs of the original's predictor, over one model folder or several."""

from pathlib import Path as Folder

from cog import BasePredictor, Input, Path

import blip_jax
from blip_jax.model import ABILITIES

TASKS = {
    "image_captioning": "caption",
    "visual_question_answering": "answer",
    "image_text_matching": "match",
}


class Predictor(BasePredictor):
    """The model folders beside this file, each for what it can."""

    def setup(self) -> None:
        """Loads every folder that holds a model."""
        folders = sorted(file.parent for file in Folder(".").glob("*/model.safetensors"))
        if not folders:
            raise FileNotFoundError("no folder here holds model.safetensors")
        self.models = [blip_jax.load(folder) for folder in folders]

    def predict(
        self,
        image: Path = Input(description="Picture: JPEG, PNG or WebP"),
        task: str = Input(choices=list(TASKS), default="image_captioning"),
        question: str = Input(default="", description="For visual_question_answering"),
        caption: str = Input(default="", description="For image_text_matching"),
    ) -> str:
        """A caption, an answer, or how well a caption fits."""
        text = {"answer": question, "match": caption}.get(TASKS[task])
        if text == "":
            raise ValueError(f"{task} needs {'question' if 'question' in task else 'caption'}")
        model = self.find(TASKS[task])
        if TASKS[task] == "caption":
            return str(model.caption(image)[0][0])
        if TASKS[task] == "answer":
            return str(model.answer(image, text)[0][0])
        return str(model.match(image, text)[0])

    def find(self, ability: str) -> blip_jax.Model:
        """The first model that can."""
        for model in self.models:
            if ability in ABILITIES[model.config.task]:
                return model
        raise ValueError(f"no model here can {ability}")
