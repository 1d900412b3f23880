"""``pixel-linear``: a logistic regression of single pixels, solved and not trained."""

from gate_cache.learn.heads.linear import probe
from gate_cache.manifest.heads import SHORT, Head, PixelProbeSpec

HEAD = Head("pixel-linear", "pixels", PixelProbeSpec, probe("linear", members=True), SHORT)
