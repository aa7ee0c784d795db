"""One paper, one file, one class; what all share is in `base`."""
