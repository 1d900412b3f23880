"""Files of models: finding and fetching them, their headers, digests and layouts."""
