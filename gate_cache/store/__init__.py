"""The store: all that knows Zarr. Floor 3."""
