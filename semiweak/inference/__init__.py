"""From a trained network to files: tiling of large images, writers of label images."""
