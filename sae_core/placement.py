"""Where tensors live, in which dtype, and by which attention: words in settings.

PyTorch is imported by the functions alone: the words are needed to print the command's help.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16"]
DeviceMap = Literal["none", "auto", "balanced", "sequential"]
Attention = Literal["auto", "eager", "chunked", "sdpa", "flash_attention_2", "flex_attention"]


def chosen_device(device: Device) -> "torch.device":
    """`auto` is CUDA if there is a device; ValueError for CUDA where there is none."""
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("device is cuda but PyTorch finds no CUDA device: use cpu or auto.")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def chosen_dtype(dtype: DType, device: "torch.device") -> "torch.dtype":
    """`auto` is bfloat16 on CUDA and float32 on the CPU."""
    import torch

    bfloat16 = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")
    return torch.bfloat16 if bfloat16 else torch.float32


def chosen_map(device_map: DeviceMap) -> str | None:
    """What `load_language_model` takes: None puts the whole model on one device."""
    return None if device_map == "none" else device_map
