"""Captions of images: by an automatic captioner, kept in a file."""
