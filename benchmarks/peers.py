"""transformers' torch models as a user would run them, and the pre-training step made of them.

No package offers BLIP's pre-training; `TorchPretrain` states it (paper section 3.2, the
original's `models/blip_pretrain.py`) with transformers' modules, so that the step has a peer.
"""

import copy

import torch
import torch.nn.functional as F
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

VISION = {
    "tiny": (96, 3, 4, 384),
    "b16": (768, 12, 12, 3072),
    "l16": (1024, 24, 16, 4096),
}  # width, depth, heads, MLP
SHARED = ("crossattention", "intermediate", "output")  # what both views of a text layer hold


def their_config(size: str, image_size: int) -> BlipConfig:
    """BLIP's sizes under transformers' names; the text tower of "tiny" has three layers of 96."""
    width, depth, heads, mlp = VISION[size]
    text_width, text_depth, text_heads, text_mlp = VISION["tiny" if size == "tiny" else "b16"]
    vision = {
        "image_size": image_size,
        "patch_size": 16,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
    }
    text = {
        "hidden_size": text_width,
        "num_hidden_layers": text_depth,
        "num_attention_heads": text_heads,
        "intermediate_size": text_mlp,
        "encoder_hidden_size": width,
        # Dropout as in training by the original, where transformers' default is none.
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=256)


def captioner(size: str, image_size: int) -> BlipForConditionalGeneration:
    """A random captioner, in evaluation mode."""
    torch.manual_seed(0)
    return BlipForConditionalGeneration(their_config(size, image_size)).eval()


def matcher(size: str, image_size: int) -> BlipForImageTextRetrieval:
    """A random retrieval model, in evaluation mode."""
    torch.manual_seed(0)
    return BlipForImageTextRetrieval(their_config(size, image_size)).eval()


class TorchPretrain(torch.nn.Module):
    """Student, momentum teacher, queues, and the three losses over a batch.

    The decoder's layers are the encoder's but for self-attention; the embeddings are one.
    """

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, queue_size: int = 57600):
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.decoder = BlipTextLMHeadModel(text)
        self.encoder = copy.deepcopy(self.decoder.bert)
        self.encoder.embeddings = self.decoder.bert.embeddings
        for mine, other in zip(
            self.encoder.encoder.layer, self.decoder.bert.encoder.layer, strict=True
        ):
            for name in SHARED:
                setattr(mine, name, getattr(other, name))
        self.vision_proj = torch.nn.Linear(vision.hidden_size, 256)
        self.text_proj = torch.nn.Linear(text.hidden_size, 256)
        self.itm_head = torch.nn.Linear(text.hidden_size, 2)
        self.temperature = torch.nn.Parameter(torch.tensor(0.07))
        students = (self.vision, self.encoder, self.vision_proj, self.text_proj)
        self.teacher = torch.nn.ModuleList(map(copy.deepcopy, students)).requires_grad_(False)
        for name in ("image", "text"):
            queue = F.normalize(torch.randn(queue_size, 256), dim=-1)
            self.register_buffer(f"{name}_queue", queue)
        # A tensor, for torch.compile would make a new step of every number.
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.vocab = text.vocab_size

    def features(self, towers, pixels, ids, mask):
        """Image tokens, and unit image and text features."""
        vision, encoder, vision_proj, text_proj = towers
        tokens = vision(pixels).last_hidden_state
        hidden = encoder(ids, attention_mask=mask, is_decoder=False).last_hidden_state
        image = F.normalize(vision_proj(tokens[:, 0]), dim=-1)
        return tokens, image, F.normalize(text_proj(hidden[:, 0]), dim=-1)

    @torch.no_grad()
    def move_teacher(self, momentum: float = 0.995) -> None:
        students = (self.vision, self.encoder, self.vision_proj, self.text_proj)
        for mine, theirs in zip(students, self.teacher, strict=True):
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                b.mul_(momentum).add_(a, alpha=1 - momentum)

    def forward(self, pixels, ids, mask, alpha: float = 0.4) -> torch.Tensor:
        """Pixels [B, 3, H, W], texts [B, T] with [CLS] first -> the sum of ITC, ITM and LM."""
        size = len(ids)
        self.move_teacher()
        students = (self.vision, self.encoder, self.vision_proj, self.text_proj)
        tokens, image, text = self.features(students, pixels, ids, mask)
        with torch.no_grad():
            _, their_image, their_text = self.features(self.teacher, pixels, ids, mask)
            images = torch.cat([their_image, self.image_queue])
            texts = torch.cat([their_text, self.text_queue])
            truth = torch.zeros(size, len(texts), device=ids.device)
            truth.fill_diagonal_(1)
            soft = [
                alpha * F.softmax(a @ b.T / self.temperature, -1) + (1 - alpha) * truth
                for a, b in ((their_image, texts), (their_text, images))
            ]
        i2t, t2i = image @ texts.T / self.temperature, text @ images.T / self.temperature
        itc = -sum(
            (F.log_softmax(logits, -1) * target).sum(-1).mean()
            for logits, target in zip((i2t, t2i), soft, strict=True)
        )
        self.enqueue(their_image, their_text)

        with torch.no_grad():
            other = ~torch.eye(size, dtype=torch.bool, device=ids.device)
            hard_image = torch.multinomial(F.softmax(t2i[:, :size], -1) * other + 1e-9 * other, 1)
            hard_text = torch.multinomial(F.softmax(i2t[:, :size], -1) * other + 1e-9 * other, 1)
        asked = torch.cat([ids, ids, ids[hard_text[:, 0]]])
        asked[:, 0] = self.vocab - 1
        seen = torch.cat([tokens, tokens[hard_image[:, 0]], tokens])
        hidden = self.encoder(
            asked,
            attention_mask=torch.cat([mask, mask, mask[hard_text[:, 0]]]),
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state
        labels = (torch.arange(3 * size, device=ids.device) < size).long()
        itm = F.cross_entropy(self.itm_head(hidden[:, 0]), labels)

        told = ids.clone()
        told[:, 0] = self.vocab - 2
        targets = told.masked_fill(mask == 0, -100)
        lm = self.decoder(
            told, attention_mask=mask, encoder_hidden_states=tokens, labels=targets
        ).loss
        return itc / 2 + itm + lm

    @torch.no_grad()
    def enqueue(self, image: torch.Tensor, text: torch.Tensor) -> None:
        size = len(self.image_queue)
        where = (self.pointer + torch.arange(len(image), device=image.device)) % size
        self.image_queue[where], self.text_queue[where] = image, text
        self.pointer.add_(len(image)).remainder_(size)
