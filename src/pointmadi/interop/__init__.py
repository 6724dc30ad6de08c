"""Checkpoints of the published code of Point-MaDi, Point-MAE and PCP-MAE in our terms and back, and `load`.

The tables of `names` pair the beginning of each published name with ours. Convolutions of width 1 there are linear
layers here, parameters of shape (1, 1, C) there are vectors here, and q, k and v, which Point-MaDi's decoder keeps
apart there, are one matrix here. No tensor is passed over in silence: it is taken, or named as left out, or it is an
error.
"""

from pointmadi.interop.files import load, read
from pointmadi.interop.names import FORMATS, require, summarize
from pointmadi.interop.published import Published, detect, from_published, to_published

__all__ = ["FORMATS", "Published", "detect", "from_published", "load", "read", "require", "summarize", "to_published"]
