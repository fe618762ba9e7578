"""Where tensors live, in which dtype, and by which attention: words in settings.

PyTorch is imported by the functions alone: the words are needed to print the command's help.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["auto", "float32", "bfloat16"]
StoredDType = Literal["float32", "bfloat16", "float8_e4m3fn"]
"""Of an SAE's matrices on disk, by its name in PyTorch."""
DeviceMap = Literal["none", "auto", "balanced", "sequential"]
Attention = Literal["auto", "eager", "chunked", "sdpa", "flash_attention_2", "flex_attention"]


WITHOUT_FLOAT64 = ("mps",)
"""Kinds of devices that have no float64."""


def chosen_device(device: Device) -> "torch.device":
    """`auto` is CUDA if there is a device, else Apple's GPU if there is one, else the CPU;
    ValueError for a device that is not there.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda but PyTorch finds no CUDA device: use cpu or auto.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device is mps but PyTorch finds no Apple GPU: use cpu or auto.")
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def chosen_dtype(dtype: DType, device: "torch.device") -> "torch.dtype":
    """`auto` is bfloat16 on CUDA and float32 elsewhere."""
    import torch

    bfloat16 = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")
    return torch.bfloat16 if bfloat16 else torch.float32


def in_float64(x: "torch.Tensor") -> "torch.Tensor":
    """`x` in float64; on the CPU where its own device has none, as Apple's GPUs have not."""
    return x.to(wide_device(x.device)).double()


def wide_device(device: "torch.device | str") -> "torch.device":
    """Where sums in float64 of numbers on `device` are kept."""
    import torch

    kind = torch.device(device)
    return torch.device("cpu") if kind.type in WITHOUT_FLOAT64 else kind


def chosen_map(device_map: DeviceMap) -> str | None:
    """What `load_language_model` takes: None puts the whole model on one device."""
    return None if device_map == "none" else device_map
