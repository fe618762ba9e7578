"""Where tensors live and in which number format: chosen once, from words in settings."""

from typing import Literal

import torch

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


def chosen_device(device: Device) -> torch.device:
    """`auto` is CUDA if there is a device; ValueError if CUDA is asked for and there is none."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("device is cuda but PyTorch finds no CUDA device: use cpu or auto.")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def chosen_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on the processor."""
    bfloat16 = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if bfloat16 else torch.float32
