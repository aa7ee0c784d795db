"""From what annotators say to tensors: annotation model, readers, samplers, data modules."""
