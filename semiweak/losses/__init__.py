"""The papers' losses: pure functions of tensors."""
