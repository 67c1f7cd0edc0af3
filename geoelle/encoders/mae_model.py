"""What the masked autoencoders Prithvi and SatMAE share: position codes, blocks, what a mask leaves, targets.

After He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners". Imports torch: import it lazily.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def sine_code(position: Tensor, n_features: int) -> Tensor:
    """Sines, then cosines, of a position times 10000^(-2 i / n), i < n / 2 (Vaswani et al. 2017).

    Args:
        position: Any shape; the frequencies are computed in its dtype, because a year times a frequency that is
            rounded otherwise is another angle.
        n_features: n, even.

    Returns:
        (..., n).
    """
    half = n_features // 2
    frequency = 1.0 / 10000 ** (torch.arange(half, dtype=position.dtype, device=position.device) / half)
    angle = position[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def transformer_blocks(n_features: int, depth: int, heads: int, mlp_ratio: float, norm_eps: float) -> nn.ModuleList:
    """Pre-norm blocks with biases; `norm_eps` is that of every layer norm in them."""
    norm = partial(nn.LayerNorm, eps=norm_eps)
    return nn.ModuleList([Block(n_features, heads, mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth)])


def through_blocks(
    blocks: nn.ModuleList, tokens: Tensor, layers: Sequence[int] = ()
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output of the last block, and those of the blocks `layers` in the order asked for."""
    kept = {}
    for i, block in enumerate(blocks):
        tokens = block(tokens)
        if i in layers:
            kept[i] = tokens
    return tokens, tuple(kept[i] for i in layers)


def hidden_by_noise(noise: Tensor, mask_ratio: float) -> Tensor:
    """Which tokens are hidden: all but the int(n x (1 - ratio)) with the smallest noise.

    Args:
        noise: (chip, token).
        mask_ratio: Share to hide.

    Returns:
        bool of the same shape; True is hidden.
    """
    rank = noise.argsort(dim=1).argsort(dim=1)
    return rank >= int(noise.shape[1] * (1 - mask_ratio))


def with_class(cls: Tensor, tokens: Tensor) -> Tensor:
    """The class token (1, 1, feature) before each chip's tokens (chip, token, feature)."""
    return torch.cat([cls.expand(len(tokens), -1, -1), tokens], dim=1)


def visible_of(tokens: Tensor, hidden: Tensor) -> Tensor:
    """The tokens that a mask leaves, in their order: (chip, visible, feature).

    Upstream keeps them in the order of the noise, which attention does not see: positions are in the tokens.
    """
    return tokens[~hidden].reshape(len(tokens), -1, tokens.shape[-1])


def refilled(visible: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
    """The visible tokens back in their places, the mask token in the others: (chip, token, feature)."""
    whole = mask_token.to(visible.dtype).repeat(*hidden.shape, 1)
    whole[~hidden] = visible.flatten(0, 1)
    return whole


def standardised(target: Tensor) -> Tensor:
    """Each patch with its own mean and (unbiased) variance taken out: the target where `norm_pix` is on."""
    mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
    return (target - mean) / (variance + 1e-6).sqrt()
