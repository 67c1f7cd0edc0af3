"""Forward passes written once more, from ../shared/ENCODERS.md and the names in a state dict alone: one chip at a time,
with loops, in float64 NumPy. Slow and plain on purpose; nothing of geoelle is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type State = Mapping[str, Floats]


def jittered(network: Any, seed: int) -> dict[str, Floats]:
    """Change every learned tensor of a network, norms and biases too, and give all as float64 arrays."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "pos_embed" not in name and "embed.scale" not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return {name: tensor.detach().double().numpy() for name, tensor in network.state_dict().items()}


def norm(x: Floats, state: State, name: str, eps: float) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred / spread * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Floats, state: State, name: str) -> Floats:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", np.zeros(1))


def gelu(x: Floats) -> Floats:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(qkv: Floats, heads: int) -> Floats:
    """(token, 3 x head x feature): queries of all heads, then keys, then values."""
    width = qkv.shape[1] // 3
    each = width // heads
    out = np.empty((len(qkv), width))
    for h in range(heads):
        q, k, v = (qkv[:, part * width + h * each : part * width + (h + 1) * each] for part in range(3))
        scores = q @ k.T / math.sqrt(each)
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, h * each : (h + 1) * each] = share / share.sum(axis=1, keepdims=True) @ v
    return out


def timm_blocks(x: Floats, state: State, prefix: str, heads: int, eps: float, depth: int) -> list[Floats]:
    """The output of every block."""
    outputs = []
    for i in range(depth):
        name = f"{prefix}.{i}"
        y = attention(linear(norm(x, state, f"{name}.norm1", eps), state, f"{name}.attn.qkv"), heads)
        x = x + linear(y, state, f"{name}.attn.proj")
        y = gelu(linear(norm(x, state, f"{name}.norm2", eps), state, f"{name}.mlp.fc1"))
        x = x + linear(y, state, f"{name}.mlp.fc2")
        outputs.append(x)
    return outputs


def sincos(value: float, n: int, dtype: Any = np.float64) -> Floats:
    """sin, then cos of value x 10000^(-i / (n/2))."""
    omega = (1.0 / dtype(10000) ** (np.arange(n // 2, dtype=dtype) / dtype(n // 2))).astype(dtype)
    angle = dtype(value) * omega
    return np.concatenate([np.sin(angle), np.cos(angle)]).astype(np.float64)


def conv_patch(pixels: Floats, weight: Floats, bias: Floats, y: int, x: int, patch: int) -> Floats:
    cut = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
    return np.array([(kernel * cut).sum() for kernel in weight]) + bias


def kept_by(noise: Floats, n_kept: int) -> list[int]:
    """The tokens with the smallest noise."""
    return sorted(np.argsort(noise)[:n_kept].tolist())


# --- Prithvi -------------------------------------------------------------------------------------------------------


def prithvi_code(width: int, steps: int, side: int) -> Floats:
    sixteenth = width // 16
    return np.array([
        np.concatenate([sincos(x, 6 * sixteenth), sincos(y, 6 * sixteenth), sincos(t, 4 * sixteenth)])
        for t in range(steps) for y in range(side) for x in range(side)
    ])  # fmt: skip


def prithvi_told(state: State, end: str, half: str, when: Floats, lonlat: Floats, width: int, n_places: int) -> Floats:
    """(token, width) of year and day of year, longitude and latitude."""
    name = f"{half}.{{}}_embed_{end}.scale"
    place = np.concatenate([sincos(v, width // 2, np.float32) for v in lonlat]) * state[name.format("location")]
    rows = []
    for year, day in when:
        moment = np.concatenate([sincos(year, width // 2, np.float32), sincos(day, width // 2, np.float32)])
        rows += [moment * state[name.format("temporal")] + place] * n_places
    return np.array(rows)


def prithvi(
    state: State, pixels: Floats, noise: Floats, when: Floats, lonlat: Floats, *, patch: int, heads: tuple[int, int],
    depths: tuple[int, int], widths: tuple[int, int], told: bool,
) -> tuple[Floats, Floats, float]:  # fmt: skip
    """Class token, mean of patch tokens and masked loss of normalised pixels (step, band, y, x); eps 1e-5."""
    steps, side, eps = len(pixels), pixels.shape[-1] // patch, 1e-5
    weight, bias = state["encoder.patch_embed.proj.weight"][:, :, 0], state["encoder.patch_embed.proj.bias"]
    cells = [(t, y, x) for t in range(steps) for y in range(side) for x in range(side)]
    tokens = np.array([conv_patch(pixels[t], weight, bias, y, x, patch) for t, y, x in cells])
    tokens += prithvi_code(widths[0], steps, side)
    if told:
        tokens += prithvi_told(state, "enc", "encoder", when, lonlat, widths[0], side**2)
    cls = state["encoder.cls_token"][0]

    def encoded(some: Floats) -> Floats:
        last = timm_blocks(np.concatenate([cls, some]), state, "encoder.blocks", heads[0], eps, depths[0])[-1]
        return norm(last, state, "encoder.norm", eps)

    whole = encoded(tokens)
    kept = kept_by(noise, int(len(cells) * 0.25))
    small = linear(encoded(tokens[kept]), state, "decoder.decoder_embed")
    full = np.repeat(state["decoder.mask_token"][0], len(cells), axis=0)
    full[kept] = small[1:]
    full += prithvi_code(widths[1], steps, side)
    if told:
        full += prithvi_told(state, "dec", "decoder", when, lonlat, widths[1], side**2)
    last = timm_blocks(np.concatenate([small[:1], full]), state, "decoder.decoder_blocks", heads[1], eps, depths[1])[-1]
    predicted = linear(norm(last, state, "decoder.decoder_norm", eps), state, "decoder.decoder_pred")[1:]
    losses = []
    for token, (t, y, x) in enumerate(cells):
        if token not in kept:
            target = [
                pixels[t, band, y * patch + p, x * patch + q]
                for p in range(patch) for q in range(patch) for band in range(pixels.shape[1])
            ]  # fmt: skip
            losses.append(((predicted[token] - np.array(target)) ** 2).mean())
    return whole[0], whole[1:].mean(axis=0), float(np.mean(losses))


# --- SatMAE --------------------------------------------------------------------------------------------------------


def satmae(
    state: State, pixels: Floats, noise: Floats, *, groups: Sequence[Sequence[int]], patch: int, heads: tuple[int, int],
    depths: tuple[int, int], widths: tuple[int, int], group_widths: tuple[int, int],
) -> tuple[Floats, Floats, float]:  # fmt: skip
    """Class token, mean of the other tokens and masked loss of pixels (band, y, x); eps 1e-6."""
    side, eps = pixels.shape[-1] // patch, 1e-6
    cells = [(g, y, x) for g in range(len(groups)) for y in range(side) for x in range(side)]

    def code(which: int, g: int, y: int, x: int) -> Floats:
        place = (widths[which] - group_widths[which]) // 2
        return np.concatenate([sincos(x, place), sincos(y, place), sincos(g, group_widths[which])])

    tokens = np.array([
        conv_patch(
            pixels[list(groups[g])], state[f"patch_embed.{g}.proj.weight"], state[f"patch_embed.{g}.proj.bias"], y, x,
            patch,
        ) + code(0, g, y, x)
        for g, y, x in cells
    ])  # fmt: skip
    cls = state["cls_token"][0]

    def encoded(some: Floats) -> Floats:
        last = timm_blocks(np.concatenate([cls, some]), state, "blocks", heads[0], eps, depths[0])[-1]
        return norm(last, state, "norm", eps)

    whole = encoded(tokens)
    kept = kept_by(noise, int(len(cells) * 0.25))
    small = linear(encoded(tokens[kept]), state, "decoder_embed")
    full = np.repeat(state["mask_token"][0], len(cells), axis=0)
    full[kept] = small[1:]
    full += np.array([code(1, *cell) for cell in cells])
    first = small[:1] + np.concatenate(
        [np.zeros(widths[1] - group_widths[1]), sincos(len(groups), group_widths[1])]
    )  # the class token's is the row after the last group's
    last = timm_blocks(np.concatenate([first, full]), state, "decoder_blocks", heads[1], eps, depths[1])[-1]
    decoded = norm(last, state, "decoder_norm", eps)[1:].reshape(len(groups), side**2, -1)
    # Outputs of the heads one after another, compared with the bands as the input has them.
    rows = [
        linear(decoded[g], state, f"decoder_pred.{g}").reshape(side**2, len(group), patch**2)
        for g, group in enumerate(groups)
    ]
    predicted = np.concatenate(rows, axis=1)
    losses = []
    for token, (g, y, x) in enumerate(cells):
        if token not in kept:
            cut = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(len(pixels), -1)
            squares = (predicted[y * side + x] - cut) ** 2
            losses.append(squares[list(groups[g])].mean())
    return whole[0], whole[1:].mean(axis=0), float(np.mean(losses))


# --- the wavelength hyper-networks of Clay and DOFA ----------------------------------------------------------------


def residual(codes: Floats, state: State, first: str, second: str, activation: Any) -> Floats:
    return activation(linear(activation(linear(codes, state, first)), state, second)) + codes


def generated(state: State, name: str, waves: Floats) -> tuple[Floats, Floats | None]:
    """Weights (band, value) and bias; 4 heads, norms after, eps 1e-5, GELU."""
    x = np.concatenate([state[f"{name}.weight_tokens"], waves, state[f"{name}.bias_token"]])
    layer = next(
        key.removesuffix(".linear1.weight") for key in state if key.startswith(name) and "linear1.weight" in key
    )
    qkv = x @ state[f"{layer}.self_attn.in_proj_weight"].T + state[f"{layer}.self_attn.in_proj_bias"]
    x = norm(x + linear(attention(qkv, 4), state, f"{layer}.self_attn.out_proj"), state, f"{layer}.norm1", 1e-5)
    y = linear(gelu(linear(x, state, f"{layer}.linear1")), state, f"{layer}.linear2")
    x = norm(x + y, state, f"{layer}.norm2", 1e-5)
    weights = linear(x[128:-1] + waves, state, f"{name}.fc_weight")
    return weights, linear(x[-1:], state, f"{name}.fc_bias")[0] if f"{name}.fc_bias.weight" in state else None


# --- Clay ----------------------------------------------------------------------------------------------------------


def clay(
    state: State, pixels: Floats, noise: Floats, waves_um: Floats, gsd_m: float, codes: Floats, *, patch: int,
    heads: tuple[int, int], depths: tuple[int, int], widths: tuple[int, int],
) -> tuple[Floats, Floats, float]:  # fmt: skip
    """Class token, mean of patch tokens and masked loss; `codes` are the 8 values of time and place."""
    side, bands = pixels.shape[-1] // patch, len(pixels)
    cells = [(y, x) for y in range(side) for x in range(side)]
    wave = np.array([
        np.concatenate([[f(um * 10000.0 ** (-i / 63)) for i in range(64)] for f in (math.sin, math.cos)])
        for um in waves_um
    ])  # fmt: skip

    def where(y: int, x: int, dim: int) -> Floats:
        d = dim - 8
        omega = [gsd_m * 10000 ** (-2 * (i / (d / 4 - 1)) / d) for i in range(d // 4)]
        return np.array([f(v * o) for v in (x, y) for f in (math.sin, math.cos) for o in omega] + list(codes))

    def transformer(x: Floats, prefix: str, which: int) -> Floats:
        for i in range(depths[which]):
            a, f = f"{prefix}.layers.{i}.0", f"{prefix}.layers.{i}.1.net"
            qkv = norm(x, state, f"{a}.norm", 1e-5) @ state[f"{a}.to_qkv.weight"].T
            x = x + attention(qkv, heads[which]) @ state[f"{a}.to_out.weight"].T
            x = x + linear(gelu(linear(norm(x, state, f"{f}.0", 1e-5), state, f"{f}.1")), state, f"{f}.3")
        return norm(x, state, f"{prefix}.norm", 1e-5)

    name = "encoder.patch_embedding"
    told = residual(wave, state, f"{name}.fclayer.l1", f"{name}.fclayer.l2", gelu)
    weights, bias = generated(state, f"{name}.weight_generator", told)
    kernels = 0.02 * weights.reshape(bands, widths[0], patch, patch).transpose(1, 0, 2, 3)
    assert bias is not None
    tokens = np.array([conv_patch(pixels, kernels, bias, y, x, patch) + where(y, x, widths[0]) for y, x in cells])
    cls = state["encoder.cls_token"][0]
    whole = transformer(np.concatenate([cls, tokens]), "encoder.transformer", 0)
    order = np.argsort(noise)
    hidden = set(order[: int(0.75 * len(cells))].tolist())
    kept = [i for i in range(len(cells)) if i not in hidden]
    seen = transformer(np.concatenate([cls, tokens[kept]]), "encoder.transformer", 0)
    small = linear(seen, state, "decoder.enc_to_dec")
    full = np.tile(state["decoder.mask_patch"], (len(cells), 1))
    full[kept] = small[1:]
    full += np.array([where(y, x, widths[1]) for y, x in cells])
    out = transformer(np.concatenate([small[:1], full]), "decoder.transformer", 1)[1:]
    name = "decoder.embed_to_pixels"
    told = residual(wave, state, f"{name}.fclayer.l1", f"{name}.fclayer.l2", gelu)
    rows, _ = generated(state, f"{name}.weight_generator", told)
    head = 0.02 * rows.reshape(bands, patch, patch, widths[1])
    losses = []
    for i in hidden:
        y, x = cells[i]
        cut = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
        losses.append(np.abs(np.einsum("bpqd,d->bpq", head, out[i]) - cut).mean())
    return whole[0], whole[1:].mean(axis=0), float(np.mean(losses))


# --- DOFA ----------------------------------------------------------------------------------------------------------


def dofa(
    state: State, pixels: Floats, noise: Floats, waves_um: Floats, *, patch: int, heads: tuple[int, int],
    depths: tuple[int, int], widths: tuple[int, int],
) -> tuple[Floats, Floats, float]:  # fmt: skip
    """Class token, mean of patch tokens after the norm, and masked loss; eps 1e-6."""
    side, bands, eps = pixels.shape[-1] // patch, len(pixels), 1e-6
    cells = [(y, x) for y in range(side) for x in range(side)]
    codes = np.array([sincos(um * 1000, 128) for um in waves_um])
    waves = residual(codes, state, "patch_embed.fclayer.w1", "patch_embed.fclayer.w2", lambda x: np.maximum(x, 0))
    weights, bias = generated(state, "patch_embed.weight_generator", waves)
    kernels = 0.01 * weights.reshape(bands, patch, patch, widths[0]).transpose(3, 0, 1, 2)
    assert bias is not None
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))

    def where(y: int, x: int, dim: int) -> Floats:
        return np.concatenate([sincos(x, dim // 2), sincos(y, dim // 2)])

    tokens = np.array([
        conv_patch(padded, kernels, 0.01 * bias, y, x, patch) + where(y, x, widths[0]) for y, x in cells
    ])  # fmt: skip

    def encoded(some: Floats) -> Floats:
        first = state["cls_token"][0]
        last = timm_blocks(np.concatenate([first, some]), state, "blocks", heads[0], eps, depths[0])[-1]
        return norm(last, state, "norm", eps)

    whole = encoded(tokens)
    kept = kept_by(noise, int(len(cells) * 0.25))
    small = linear(encoded(tokens[kept]), state, "decoder_embed")
    full = np.repeat(state["mask_token"][0], len(cells), axis=0)
    full[kept] = small[1:]
    full += np.array([where(y, x, widths[1]) for y, x in cells])
    last = timm_blocks(np.concatenate([small[:1], full]), state, "decoder_blocks", heads[1], eps, depths[1])[-1]
    rows, _ = generated(state, "decoder_pred.weight_generator", waves)
    predicted = norm(last, state, "decoder_norm", eps)[1:] @ (0.01 * rows.reshape(-1, widths[1])).T
    losses = []
    for i, (y, x) in enumerate(cells):
        if i not in kept:
            cut = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            target = cut.transpose(1, 2, 0).ravel()
            target = (target - target.mean()) / math.sqrt(target.var(ddof=1) + 1e-6)
            losses.append(((predicted[i] - target) ** 2).mean())
    return whole[0], whole[1:].mean(axis=0), float(np.mean(losses))
