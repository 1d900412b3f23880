"""Copying stores to other places, with a page that says what is in them."""
