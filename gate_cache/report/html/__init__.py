"""Reports as one HTML file: no network, no other file, all text escaped."""
