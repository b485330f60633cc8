"""transformers' side of `speed.py`: `CALLS` has for each row what makes its call.

On a GPU where torch has one.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import torch
from inputs import NEW, TEXTS, Args, Call, pictures, read_texts

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_peak() -> int | None:
    """Most bytes of a GPU that were held; none without one."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None


def ended(make: Callable[[Args], Call], args: Args) -> Call:
    """A row's call, which returns when the device has done it."""
    call = make(args)
    if DEVICE.type == "cpu":
        return call
    return lambda: (call(), torch.cuda.synchronize())


def texts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask."""
    ids, mask = (torch.from_numpy(x).to(DEVICE) for x in read_texts(count))
    return ids.long(), mask


def for_torch(args: Args, pixels: np.ndarray) -> torch.Tensor:
    seen = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return seen.to(DEVICE, torch_dtype(args))


def torch_dtype(args: Args) -> torch.dtype:
    return getattr(torch, args.dtype)


def torch_model(args: Args, model: Any) -> Any:
    """In the precision asked for, its towers compiled where asked."""
    model = model.to(DEVICE, torch_dtype(args)).requires_grad_(False)
    for tower in ("vision_model", "text_encoder", "text_decoder") if args.compile else ():
        if hasattr(model, tower):
            getattr(model, tower).compile()
    return model


def captions(method: str, args: Args) -> Call:
    lengths = {"min_new_tokens": NEW, "max_new_tokens": NEW}
    model = torch_model(args, peers.captioner(args.size, args.image_size))
    seen = for_torch(args, pictures(args.batch_size, args.image_size))
    search = {
        "greedy": {"num_beams": 1},
        "nucleus": {"do_sample": True, "top_p": 0.9, "top_k": 0},
        "beam": {"num_beams": 3},
    }[method]
    return lambda: model.generate(seen, **search, **lengths)


def matcher(args: Args) -> Any:
    return torch_model(args, peers.matcher(args.size, args.image_size))


def match_one(args: Args) -> Call:
    """Encodes the picture once, by hand."""
    model, seen = matcher(args), for_torch(args, pictures(1, args.image_size))
    ids, mask = texts(TEXTS)

    @torch.no_grad()
    def by_hand() -> Any:
        tokens = model.vision_model(seen).last_hidden_state.expand(TEXTS, -1, -1)
        hidden = model.text_encoder(ids, attention_mask=mask, encoder_hidden_states=tokens)
        return model.itm_head(hidden[0][:, 0])

    return by_hand


def pairs(args: Args, pixels: np.ndarray) -> Call:
    """transformers' forward as documented: a picture beside each text."""
    model, seen = matcher(args), for_torch(args, pixels)
    ids, _ = texts(len(pixels))
    return torch.no_grad()(lambda: model(ids, seen).itm_score)


def match_one_forward(args: Args) -> Call:
    return pairs(args, pictures(1, args.image_size).repeat(TEXTS, 0))


def match_pairs(args: Args) -> Call:
    return pairs(args, pictures(TEXTS, args.image_size))


def capfilt(args: Args) -> Call:
    """Runs a vision tower in every call: none of its models takes image tokens."""
    count = args.batch_size
    caption, model = captions("nucleus", args), matcher(args)
    seen = for_torch(args, pictures(count, args.image_size))
    ids = texts(2 * count)[0].reshape(count, 2, -1)

    @torch.no_grad()
    def both() -> None:
        caption()
        for text in ids.unbind(1):
            model(text, seen)

    return both


def train_step(args: Args, model: Any, loss_of: Callable[[Any], Any]) -> Call:
    """One optimiser step at a time, with torch's fused AdamW."""
    model.to(DEVICE).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, weight_decay=0.05, fused=True)
    if args.compile:
        model.compile()

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            loss_of(model).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return call


def training_batch(args: Args) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, ids, mask."""
    pixels = torch.from_numpy(pictures(args.batch_size, args.image_size))
    return pixels.permute(0, 3, 1, 2).to(DEVICE), *texts(args.batch_size)


def train_caption(args: Args) -> Call:
    seen, ids, mask = training_batch(args)
    given = {"pixel_values": seen, "input_ids": ids, "attention_mask": mask, "labels": ids}
    model = peers.captioner(args.size, args.image_size)
    return train_step(args, model, lambda m: m(**given).loss)


def train_pretrain(args: Args) -> Call:
    config = peers.their_config(args.size, args.image_size)
    torch.manual_seed(0)
    model = peers.TorchPretrain(config.vision_config, config.text_config)
    batch = training_batch(args)
    return train_step(args, model, lambda m: m(*batch))


MAKE: dict[str, Callable[[Args], Call]] = {
    "caption_greedy": functools.partial(captions, "greedy"),
    "caption_nucleus": functools.partial(captions, "nucleus"),
    "caption_beam": functools.partial(captions, "beam"),
    "match_one": match_one,
    "match_one_forward": match_one_forward,
    "match_pairs": match_pairs,
    "capfilt": capfilt,
    "capfilt_shared": capfilt,
    "train_caption": train_caption,
    "train_pretrain": train_pretrain,
}

CALLS = {name: functools.partial(ended, make) for name, make in MAKE.items()}
