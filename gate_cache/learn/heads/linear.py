"""``linear``: a logistic regression of averaged maps, solved, not trained (a linear probe)."""

from gate_cache.learn.heads import probe
from gate_cache.manifest.heads import SHORT, Head, PooledSpec

HEAD = Head("linear", "classification", PooledSpec, probe("linear"), SHORT)
