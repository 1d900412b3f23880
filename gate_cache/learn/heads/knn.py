"""``knn``: classes of the nearest training images, by averaged maps (DINO's protocol)."""

from gate_cache.learn.heads.linear import probe
from gate_cache.manifest.heads import SHORT, Head, PooledSpec

HEAD = Head("knn", "classification", PooledSpec, probe("knn"), SHORT)
