"""From a card to an encoder with its weights in it. Imports torch: import it lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoelle.encoders.checkpoints import Progress, fetch_weights, get_checkpoint, read_state
from geoelle.encoders.inputs import normalised
from geoelle.encoders.network import Network
from geoelle.encoders.torch_encoder import Prepare, TorchEncoder
from geoelle.errors import WeightsError
from geoelle.records import EncoderCard

type Build = Callable[[Mapping[str, Tensor] | None], Network]
"""Makes the network of the card; told the checkpoint's tensors where there are any."""
type Adapt = Callable[[EncoderCard, Mapping[str, Tensor]], EncoderCard]


def open_encoder(
    card: EncoderCard,
    build: Build,
    *,
    weights: str | Path | None = None,
    accept_license: bool = False,
    random_seed: int | None = None,
    shapes_only: bool = False,
    progress: Progress | None = None,
    prepare: Prepare = normalised,
    kind: type[TorchEncoder] = TorchEncoder,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    adapt: Adapt | None = None,
    **options: Any,
) -> TorchEncoder:
    """Build the network of a card, load its checkpoint strictly, and wrap both.

    Args:
        card: Of the variant wanted.
        build: Makes the network.
        weights: File or folder with the checkpoint; None: where geoelle keeps it, downloaded on first use.
        accept_license: Whether the user accepts a non-commercial licence.
        random_seed: Leave the weights as they are initialised from this seed: for tests and timing only. The card then
            says so in place of the weights' sha256.
        shapes_only: Compare names and shapes, on torch's meta device: the encoder has no values and computes nothing.
        progress: Told how far a download of the weights is.
        prepare: Normalisation other than the card's figures.
        kind: Class of the encoder.
        convert: Published names of tensors to the network's, where they differ.
        adapt: What the card says once the checkpoint is known, e.g. whether it holds a decoder.
        options: Of `TorchEncoder`.

    Raises:
        WeightsError: If the checkpoint is not there, damaged, not the one expected, or its licence is not accepted.
    """
    if random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            network = build(None)
        return kind(
            replace(card, weights_sha256=f"random-{random_seed}", validated=False), network, prepare=prepare, **options
        )
    checkpoint = get_checkpoint(card.checkpoint)
    found = fetch_weights(checkpoint, weights, accept_license=accept_license, progress=progress)
    state = read_state(found.path, checkpoint)
    tensors = convert(dict(state.tensors)) if convert is not None else dict(state.tensors)
    with torch.device("meta") if shapes_only else nullcontext():
        network = build(tensors)
    if shapes_only:
        check_fit(network, tensors, found.path)
    else:
        load_strictly(network, tensors, found.path)
    card = replace(card, weights_sha256=found.sha256)
    return kind(adapt(card, tensors) if adapt is not None else card, network, prepare=prepare, **options)


def load_strictly(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights; missing, unexpected or misshapen ones are an error.

    Raises:
        WeightsError: As `check_fit`.
    """
    check_fit(network, tensors, path)
    network.load_state_dict(dict(tensors), strict=True)


def check_fit(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compare names and shapes with the network's, whose values may be on torch's meta device.

    Raises:
        WeightsError: If tensors are missing, unexpected or misshapen, with the first few of each kind named.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} and should be {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    faults = (
        ("lacks", [name for name in wanted if name not in tensors]),
        ("has, unexpected,", [name for name in tensors if name not in wanted]),
        ("in another shape:", wrong),
    )
    told = [f"{word} {_first(names)}" for word, names in faults if names]
    if told:
        raise WeightsError(
            f"{path} does not hold this network: it {'; '.join(told)}. Expected its {len(wanted)} tensors exactly. "
            "Use the checkpoint that `geoelle encoders` names."
        )


def _first(names: Sequence[str], n: int = 3) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more
