"""``pixel-knn``: classes of the nearest training pixels, as segmentation transfer is judged."""

from gate_cache.learn.heads.linear import probe
from gate_cache.manifest.heads import SHORT, Head, PixelProbeSpec

HEAD = Head("pixel-knn", "pixels", PixelProbeSpec, probe("knn", members=True), SHORT)
