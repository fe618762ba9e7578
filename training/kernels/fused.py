"""The parts of a sparse step in Triton: needs a CUDA device (or Triton's interpreter, for tests).

Floating-point sums are taken in an order that depends on the entries alone: the same step from the
same state gives the same bits on the same kind of device.
"""

from training.kernels.decode import centre, decode
from training.kernels.finish import finish
from training.kernels.select import select
from training.kernels.update import update_rows

__all__ = ["centre", "decode", "finish", "select", "update_rows"]
