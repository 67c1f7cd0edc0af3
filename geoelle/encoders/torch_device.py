"""Where and how exactly a network runs: device, threads, precision, locks. Imports torch: import it lazily.

Threads and precision are the process's in torch, so they are set around a call and put back after it.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import torch

from geoelle.errors import EncoderInputError
from geoelle.records import EncoderCard

Precision = Literal["float32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BATCH = 8
"""More gains nothing: a vision transformer's products fill a core with one chip."""
_GPU_VALUES = 2**26
"""Pixel values of a first try at a batch on a GPU; 128 chips of 9 bands and 224 px."""
_GPU_MOST = 1024
_LOCKS: dict[str, threading.RLock] = {}
_LOCKS_GUARD = threading.Lock()
_NO_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def pick_device(asked: str) -> torch.device:
    """The device asked for. `auto` is a GPU where there is one, else the CPU; `cuda` the process's own GPU.

    Raises:
        EncoderInputError: If there is no such device: nothing else is taken in its place.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not n_gpus):
        return torch.device("cpu")
    match = re.fullmatch(r"(?:auto|cuda(?::(\d+))?)", asked)
    if match is None:
        raise EncoderInputError(f"There is no device {asked!r}. Expected 'auto', 'cpu', 'cuda' or 'cuda:1'.")
    index = own_gpu(n_gpus) if match[1] is None else int(match[1])
    if index >= n_gpus:
        raise EncoderInputError(
            f"The device {asked!r} was asked for, and torch sees {n_gpus} GPU(s). Use 'cpu', or install the driver and "
            "a torch that is built for it, or correct CUDA_VISIBLE_DEVICES."
        )
    return torch.device("cuda", index)


def own_gpu(n_gpus: int) -> int:
    """Which of the visible GPUs is this process's.

    A Dask worker that is numbered, as `dask worker --nworkers 2 --name gpu` numbers them gpu-0 and gpu-1, has the GPU
    of its number; everything else has the first. Best is that a worker sees one GPU only, by CUDA_VISIBLE_DEVICES.
    """
    name = _worker_name()
    number = re.fullmatch(r"(?:.*-)?(\d{1,6})", name) if name is not None else None
    return int(number[1]) % n_gpus if number is not None and n_gpus else 0


def _worker_name() -> str | None:
    """Of the Dask worker that runs this; None outside of one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return str(distributed.get_worker().name)
    except ValueError:  # this thread is no worker's
        return None


def check_options(device: torch.device, precision: str, batch: int | None, threads: int | None) -> None:
    """Refuse options of `TorchEncoder` that make no sense.

    Raises:
        EncoderInputError: With the option.
    """
    if precision not in get_args(Precision):
        raise EncoderInputError(f"precision is {precision!r}. Expected one of {', '.join(get_args(Precision))}.")
    if precision == "fp16" and device.type == "cpu":
        raise EncoderInputError(
            "precision is 'fp16' on a CPU, which is slow and gains nothing. Expected 'float32' or 'bf16' there."
        )
    for name, value in (("batch", batch), ("threads", threads)):
        if value is not None and value < 1:
            raise EncoderInputError(f"{name} is {value}. Expected at least 1, or nothing for geoelle's choice.")


def first_batch(device: torch.device, card: EncoderCard) -> int:
    """Chips at a time to begin with, by the size of the card's largest input: the same for every run on a device."""
    if device.type == "cpu":
        return CPU_BATCH
    values = max(card.n_steps) * len(card.bands) * max(card.chip_sizes_px) ** 2
    return int(min(_GPU_MOST, max(1, 2 ** int(math.log2(max(1, _GPU_VALUES // values))))))


def device_lock(device: torch.device) -> threading.RLock:
    """One call at a time on a device: two would only take each other's memory and threads."""
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(str(device), threading.RLock())


@contextmanager
def running_on(device: torch.device, precision: Precision, threads: int | None) -> Iterator[None]:
    """Inference on a device, alone, with so many threads and this precision; as it was before, afterwards.

    The thread number is the calling thread's as much as the process's (OpenMP), so setting it once at the start
    would leave a Dask worker's other threads with all cores.
    """
    with ExitStack() as stack:
        stack.enter_context(device_lock(device))
        before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
            if precision == "float32":  # by default cuDNN rounds the operands of convolutions to 10 bits
                cudnn = torch.backends.cudnn
                stack.enter_context(cudnn.flags(enabled=cudnn.enabled, allow_tf32=False))
                stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                torch.set_float32_matmul_precision("highest")
        stack.enter_context(torch.inference_mode())
        if precision != "float32":
            stack.enter_context(torch.autocast(device.type, _AUTOCAST[precision]))
        yield


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU's memory was too small, be it torch that says so or a library below it."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY)
