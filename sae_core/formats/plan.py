"""How a file of some format becomes an SAE: `Plan`, made from headers, and carrying it out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sae_core.config import SAEConfig
from sae_core.formats.container import Container
from sae_core.sae import SAE, JumpReLUSAE, tensor_shapes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a format's reader settles before any weight is read."""

    cfg: SAEConfig
    """The SAE's configuration, without the content hash."""
    weights: Container
    """Where the numbers are."""
    names: Mapping[str, str]
    """Parameter -> stored tensor. One number may stand for a vector of it."""
    transposed: frozenset[str] = frozenset()
    """Parameters whose stored tensors are their transposes."""
    unused: frozenset[str] = frozenset()
    """Stored tensors that are of the format and not needed."""
    absent: frozenset[str] = frozenset()
    """Parameters that the file does not hold: they are 0 until `fold` sets them."""
    fold: Callable[[SAE], None] | None = None
    """Takes training matters into the weights, once they are read."""

    def check(self) -> None:
        """ValueError with one sentence if names, shapes or dtypes are not the SAE's."""
        path, headers = self.weights.path, self.weights.headers
        needed = set(self.names.values())
        if missing := needed - set(headers):
            raise ValueError(f"{path} lacks the tensors {', '.join(sorted(missing))}.")
        if extra := set(headers) - needed - self.unused:
            raise ValueError(f"{path} holds tensors of another format: {', '.join(sorted(extra))}.")
        for parameter, shape in tensor_shapes(self.cfg).items():
            if parameter in self.absent:
                continue
            name = self.names[parameter]
            header = headers[name]
            wanted = shape[::-1] if parameter in self.transposed else shape
            if header.shape not in ((wanted, ()) if len(shape) == 1 else (wanted,)):
                raise ValueError(f"{name} in {path} has shape {header.shape} but must be {wanted}.")
            if not header.is_float:
                raise ValueError(
                    f"{name} in {path} holds {header.dtype} numbers: weights must be floats."
                )

    def carry_out(self, device: str | torch.device = "cpu") -> SAE:
        """The SAE in float32 on `device`, its weights read straight into place."""
        self.check()
        with torch.device(device):
            sae = SAE.build(self.cfg)
        into: dict[str, Tensor] = {}
        for parameter, name in self.names.items():
            tensor: Tensor = getattr(sae, parameter).data
            if self.weights.headers[name].shape == ():
                into[name] = tensor.new_empty(())
            else:
                into[name] = tensor.mT if parameter in self.transposed else tensor
        digest = self.weights.read(into)
        for parameter, name in self.names.items():
            if self.weights.headers[name].shape == ():
                getattr(sae, parameter).data.fill_(into[name])
        if self.fold is not None:
            self.fold(sae)
        if isinstance(sae, JumpReLUSAE):
            # Other libraries take relu(pre_acts) * (pre_acts > threshold): below 0 their threshold
            # does nothing, while ours would let negative activations through.
            sae.threshold.data.clamp_(min=0)
        sae.cfg = replace(self.cfg, metadata={**self.cfg.metadata, "content_hash": digest})
        return sae


def matrix_shape(weights: Container, name: str) -> tuple[int, int]:
    """Shape of a stored matrix; ValueError if there is no such tensor or it is no matrix."""
    if name not in weights.headers:
        raise ValueError(f"{weights.path} lacks the tensors {name}.")
    shape = weights.headers[name].shape
    if len(shape) != 2:
        raise ValueError(
            f"{name} in {weights.path} has shape {shape}, which is no matrix: SAEs and transcoders "
            "of one layer are read, cross-layer transcoders and crosscoders are not."
        )
    return shape[0], shape[1]


def decoder_width(weights: Container, name: str, d_sae: int) -> int:
    """The width that a stored decoder `[d_sae, d_out]` writes; ValueError for another d_sae."""
    rows, width = matrix_shape(weights, name)
    if rows != d_sae:
        raise ValueError(
            f"{name} in {weights.path} has shape {(rows, width)} but the encoder has {d_sae} "
            "features."
        )
    return width
