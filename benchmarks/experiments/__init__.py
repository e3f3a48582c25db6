"""The papers' experiments, tried at a size that a processor can do; ``run.py`` runs them."""
