"""The image tower: a Vision Transformer (the original's `models/vit.py`)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from blip_jax.config import BlipConfig, Dtype, VisionConfig
from blip_jax.models.attention import Attention, KeysValues
from blip_jax.models.layers import Mlp, Norm, module_again, normal, stacked
from blip_jax.models.placement import on_mesh


class DropPath(nn.Module):
    """Stochastic depth: drops a whole residual branch per sample, at a traced rate."""

    deterministic: bool

    @nn.compact
    def __call__(self, branch: jax.Array, rate: jax.Array) -> jax.Array:
        if self.deterministic:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
        return jnp.where(keep, branch / (1 - rate).astype(branch.dtype), 0)


class VisionBlock(nn.Module):
    """Pre-LN transformer block; scanned over layers with its own drop-path rate."""

    config: VisionConfig
    dtype: Dtype
    deterministic: bool

    def setup(self) -> None:
        c = self.config
        self.attention = Attention(c.width, c.heads, c.norm_eps, self.dtype)
        self.mlp = Mlp(c.width, c.mlp_width, c.norm_eps, self.dtype)
        self.drop_path = DropPath(self.deterministic or c.drop_path == 0)

    def __call__(self, x: jax.Array, rate: jax.Array) -> tuple[jax.Array, None]:
        def asked(block: Any, x: jax.Array) -> tuple[jax.Array, KeysValues]:
            h = block.attention.norm(x)
            return block.attention.ask(h), block.attention.keys_values(h)

        def widened(block: Any, x: jax.Array) -> jax.Array:
            return block.mlp.widen(block.mlp.norm(x))

        h = self.attention.answer(*module_again(asked)(self, x), None, self.deterministic)
        x = x + self.drop_path(h, rate)
        h = self.mlp.narrow(module_again(widened)(self, x))
        return on_mesh(x + self.drop_path(h, rate)), None


class VisionTransformer(nn.Module):
    """Images [B, H, W, 3], normalised -> tokens [B, 1 + H/p * W/p, width], class token first."""

    config: BlipConfig

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        c, dtype = self.config.vision, self.config.dtype
        patch = nn.Conv(
            c.width,
            (c.patch_size, c.patch_size),
            strides=c.patch_size,
            padding="VALID",
            dtype=jnp.dtype(dtype),
            kernel_init=normal,
            name="patch",
        )
        x = patch(images.astype(dtype))
        grid = (x.shape[1], x.shape[2])
        x = x.reshape(x.shape[0], -1, c.width)
        class_token = self.param("class_token", normal, (1, 1, c.width)).astype(x.dtype)
        position_init = nn.initializers.normal(c.position_std)
        positions = self.param("positions", position_init, (1, c.tokens, c.width))
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, c.width)), x], 1)
        x = x + resize_positions(positions, grid).astype(x.dtype)
        blocks = stacked(VisionBlock, c.remat, self.config.unroll, length=c.depth)
        rates = jnp.linspace(0.0, c.drop_path, c.depth)
        x, _ = blocks(c, dtype, deterministic, name="blocks")(x, rates)
        return Norm(c.norm_eps, dtype, name="norm")(x)


def resize_positions(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Interpolates square position embeddings to another grid as torch does.

    `F.interpolate(mode="bicubic", align_corners=False)`, which the original's
    `interpolate_pos_embed` calls, has a = -0.75 and no antialiasing.

    Args:
      positions: [1, 1 + n * n, D], class token first.
      grid: rows and columns wanted.

    Returns:
      [1, 1 + rows * columns, D].
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    width = positions.shape[-1]
    patches = positions[:, 1:].reshape(1, side, side, width)
    patches = jax.image.resize(patches, (1, *grid, width), "cubic-pytorch", antialias=False)
    return jnp.concatenate([positions[:, :1], patches.reshape(1, -1, width)], 1)
