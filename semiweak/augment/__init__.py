"""Random views of images, made on the device in the training step."""
