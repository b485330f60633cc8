"""Model configuration: everything a checkpoint needs to be rebuilt, in frozen dataclasses."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

Sharing = Literal["all", "all_but_self_attention", "none"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "full", "dots"]
Task = Literal["pretrain", "caption", "retrieval", "vqa", "nlvr", "visdial", "classify"]


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """ViT of the original's `models/vit.py`: pre-LN, class token first, erf GELU."""

    image_size: int = 224  # pixels, square
    patch_size: int = 16  # pixels
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    drop_path: float = 0.0  # rate of the last block; grows linearly from 0 over depth
    norm_eps: float = 1e-6
    position_std: float = (
        0.02  # of initial positions; from scratch, more shows sooner what is where
    )
    remat: Remat = "none"  # what the backward pass recomputes in a block

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Image tokens, class token included."""
        return self.grid**2 + 1


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """MED text transformer of the original's `models/med.py`: post-LN BERT without token types."""

    vocab_size: int = 30524  # [DEC] and [ENC] included
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 512
    dropout: float = 0.1  # hidden states
    attention_dropout: float = 0.1  # attention probabilities
    norm_eps: float = 1e-12
    pad_id: int = 0
    cls_id: int = 101  # first token of a text for ITC
    sep_id: int = 102  # end of every text
    dec_id: int = 30522  # first token of a text to be written
    enc_id: int = 30523  # first token of a text to be matched
    # While training, rows of the word embedding are padded to a multiple of this, so that they
    # fill tiles and divide over a mesh. A saved model has none of the padding.
    vocab_multiple: int = 1
    remat: Remat = "none"  # what the backward pass recomputes in a block

    @property
    def vocab_rows(self) -> int:
        """Rows of the word embedding, padding included."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


@dataclasses.dataclass(frozen=True)
class Conventions:
    """How a source feeds its model, where the references differ (parity depends on each)."""

    match_first: Literal["enc", "cls"] = "enc"  # first token of a text that ITM scores
    question_first: Literal["enc", "cls"] = "enc"  # first token of a question
    prompt: str = ""  # what a caption begins with where the caller gives no prompt
    rank_smoothing: float = 0.1  # label smoothing when candidate answers are ranked
    question_mask: bool = True  # False: answers attend to the padding of questions, as released


@dataclasses.dataclass(frozen=True)
class BlipConfig:
    """A whole BLIP: two towers, the joint space, and how the text towers share parameters."""

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    task: Task = "pretrain"  # which heads and views the parameters hold
    conventions: Conventions = Conventions()
    classes: tuple[str, ...] = ()  # of "classify": what its logits stand for
    embed_dim: int = 256  # joint space of ITC
    sharing: Sharing = "all_but_self_attention"  # paper Table 3
    init_std: float = 0.02  # of kernels; narrow towers need more for the image to come through
    dtype: Dtype = (
        "float32"  # of activations; parameters, softmax, LayerNorm and losses are float32
    )
    # Blocks a step of the scan over layers: more compile longer and may run faster (`as_saved`
    # sets 1).
    unroll: int = 1

    def __post_init__(self) -> None:
        vision, text = self.vision, self.text
        if vision.image_size % vision.patch_size:
            raise ValueError(
                f"vision.image_size {vision.image_size} is not a multiple of "
                f"vision.patch_size {vision.patch_size}"
            )
        for name, tower in (("vision", vision), ("text", text)):
            if tower.width % tower.heads:
                raise ValueError(
                    f"{name}.width {tower.width} is not a multiple of {name}.heads {tower.heads}"
                )

    def as_saved(self) -> "BlipConfig":
        """The same model without what is training's alone: padded rows and unrolled layers."""
        text = dataclasses.replace(self.text, vocab_multiple=1)
        return dataclasses.replace(self, text=text, unroll=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BlipConfig":
        """Inverse of `to_dict`. Raises ValueError that names every unknown field."""
        data = dict(data)
        if "classes" in data:  # JSON knows lists alone
            data["classes"] = tuple(data["classes"])
        vision = _build(VisionConfig, data.pop("vision", {}), "vision.")
        text = _build(TextConfig, data.pop("text", {}), "text.")
        conventions = _build(Conventions, data.pop("conventions", {}), "conventions.")
        parts = {"vision": vision, "text": text, "conventions": conventions}
        return _build(cls, data | parts, "")

    def save(self, path: Path) -> None:
        """Writes the config as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "BlipConfig":
        """Reads what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text()))


def _build(cls: type, data: dict[str, Any], prefix: str) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(prefix + key for key in set(data) - names)
    if unknown:
        raise ValueError(f"unknown model config field(s): {', '.join(unknown)}")
    return cls(**data)


BLIP_B16 = BlipConfig()
BLIP_L16 = BlipConfig(
    vision=VisionConfig(width=1024, depth=24, heads=16, mlp_width=4096, drop_path=0.1)
)
TINY = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=96, depth=3, heads=4, mlp_width=384),
    text=TextConfig(vocab_size=512, width=96, depth=3, heads=4, mlp_width=384, max_positions=64),
    embed_dim=64,
)
VARIANTS = {"blip_b16": BLIP_B16, "blip_l16": BLIP_L16, "tiny": TINY}
