"""The store: all that knows Zarr. Floor 2."""
