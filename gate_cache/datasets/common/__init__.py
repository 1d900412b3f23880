"""What data sets share: reading images, splits, masks, lists of pairs."""
