"""An embedded world to learn from: drawn scenes, captions, web noise, and the truth about them."""

from blip_jax.data.world.build import build
from blip_jax.data.world.language import describe, is_true
from blip_jax.data.world.noise import NOISE, web_caption
from blip_jax.data.world.scene import Group, Scene, draw, random_scene

__all__ = [
    "NOISE", "Group", "Scene", "build", "describe", "draw", "is_true", "random_scene",
    "web_caption",
]  # fmt: skip
