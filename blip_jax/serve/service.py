"""Models by name, and what is asked of them, from a picture as sent to a result."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from blip_jax.inference.results import AnswerResult, CaptionResult, MatchResult
from blip_jax.inference.trained import Trained
from blip_jax.model import ABILITIES
from blip_jax.serve.engine import Engine
from blip_jax.serve.features import FeatureCache
from blip_jax.serve.fetch import Fetcher
from blip_jax.serve.limits import Limits
from blip_jax.serve.metrics import Metrics
from blip_jax.serve.pictures import Picture, Pictures
from blip_jax.serve.programs import PROMPT_SLOTS, Features, Program, build_programs
from blip_jax.serve.refusal import Refusal


@dataclasses.dataclass(frozen=True)
class Served:
    """A model with its name and its programs."""

    name: str
    model: Trained
    programs: dict[str, Program]

    @property
    def task(self) -> str:
        return self.model.config.task

    @property
    def abilities(self) -> tuple[str, ...]:
        return ABILITIES[self.task]


class Service:
    """What the routes call. Every method raises Refusal where there will be no result."""

    def __init__(
        self,
        models: Mapping[str, Trained],
        limits: Limits | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.engine = Engine(self.limits, self.metrics)
        self.pictures = Pictures(self.limits, self.metrics, fetcher)
        self.cache = FeatureCache(self.limits.cache, self.metrics)
        self.models = {
            name: Served(name, model, build_programs(name, model, self.limits.max_batch))
            for name, model in models.items()
        }
        for served in self.models.values():
            self.metrics.models.labels(served.name, served.task).set(1)

    def start(self) -> None:
        """Begins to compile; to be called in the event loop."""
        self.engine.start([p for served in self.models.values() for p in served.programs.values()])

    def stop(self) -> None:
        """Ends when all that was accepted is answered."""
        self.engine.stop()
        self.pictures.close()

    def find(self, name: str | None, *abilities: str) -> Served:
        """The model of a name, or the first that has one of the abilities, in their order."""
        if name is not None and name not in self.models:
            raise Refusal(404, "model_not_found", "There is no model of that name; see /v1/models.")
        among = list(self.models.values()) if name is None else [self.models[name]]
        for ability in abilities:
            for served in among:
                if ability in served.abilities:
                    return served
        who = "No model here can" if name is None else "That model cannot"
        raise Refusal(400, "task_not_supported", f"{who} {' or '.join(abilities)}; see /v1/models.")

    async def captions(
        self,
        served: Served,
        pictures: Sequence[Picture],
        method: str = "beam",
        prompt: str | None = None,
        seed: int = 0,
    ) -> list[list[CaptionResult]]:
        """Captions of each picture, best first."""
        if prompt is not None:
            self._check_prompt(served, prompt)
        with self.engine.admit(len(pictures)):
            found = await self._features(served, pictures)
            rows = [(f.tokens, prompt, seed) for f in found]
            return await self.engine.run(served.programs[f"caption/{method}"], rows)

    async def answers(
        self, served: Served, pictures: Sequence[Picture], question: str
    ) -> list[list[AnswerResult]]:
        """Answers to a question about each picture, best first."""
        with self.engine.admit(len(pictures)):
            found = await self._features(served, pictures)
            rows = [(f.tokens, question) for f in found]
            return await self.engine.run(served.programs["answer"], rows)

    async def matches(
        self, served: Served, pictures: Sequence[Picture], texts: Sequence[str]
    ) -> list[list[MatchResult]]:
        """How well each text fits each picture."""
        with self.engine.admit(len(pictures) * len(texts)):
            found = await self._features(served, pictures)
            rows = [(f.tokens, text) for f in found for text in texts]
            scores = await self.engine.run(served.programs["match"], rows)
        return [scores[i : i + len(texts)] for i in range(0, len(scores), len(texts))]

    async def explanation(
        self, served: Served, picture: Picture, text: str
    ) -> list[tuple[str, np.ndarray]]:
        """The words of a text, each with the heatmap of where it was found."""
        with self.engine.admit(1):
            (found,) = await self._features(served, [picture])
            return (await self.engine.run(served.programs["explain"], [(found.tokens, text)]))[0]

    async def embeddings(
        self, served: Served, pictures: Sequence[Picture], texts: Sequence[str]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Unit vectors of pictures and of texts."""
        with self.engine.admit(len(pictures) + len(texts)):
            found = await self._features(served, pictures)
            vectors = [f.vector for f in found if f.vector is not None]
            texts_found = await self.engine.run(served.programs["embed"], texts) if texts else []
            return vectors, texts_found

    async def _features(self, served: Served, pictures: Sequence[Picture]) -> list[Features]:
        return await asyncio.gather(*(self._feature(served, picture) for picture in pictures))

    async def _feature(self, served: Served, picture: Picture) -> Features:
        content, digest = await self.pictures.read(picture)

        async def compute() -> Features:
            size = served.model.config.vision.image_size
            pixels = await self.pictures.pixels(content, size)
            return (await self.engine.run(served.programs["encode"], [pixels]))[0]

        return await self.cache.get((served.name, digest), compute)

    def _check_prompt(self, served: Served, prompt: str) -> None:
        """Prompts that are longer than what is compiled are refused, not cut."""
        tokens = served.model.tokenizer.count([prompt])[0] - 2
        if tokens > PROMPT_SLOTS - 1:
            raise Refusal(
                422,
                "prompt_too_long",
                f"The prompt has {tokens} tokens; {PROMPT_SLOTS - 1} are the most.",
            )
