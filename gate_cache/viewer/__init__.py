"""`gate-cache view`: a page on loopback that shows a store. Floor 7."""
