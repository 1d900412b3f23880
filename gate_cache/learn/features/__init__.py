"""From a store to features: streams, buckets, descriptors."""
