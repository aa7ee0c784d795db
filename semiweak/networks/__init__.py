"""Networks: the papers' U-Net and segmentation_models_pytorch's architectures, one interface."""
