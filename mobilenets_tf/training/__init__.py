"""Training: the papers' recipes as data, the input, the optimizers, and the loop that runs them."""
