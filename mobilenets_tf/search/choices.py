"""The words of a search's options. Imports nothing, for checks that need no TensorFlow."""

NETADAPT, PARETO, RANDOM = METHODS = ("netadapt", "pareto", "random")
# What may change of a network. All but the resolution are searched unless a caller says otherwise: the resolution
# changes what the file takes.
KINDS = ("depth", "kernels", "squeeze_excite", "activation", "widths", "resolution")
REWARDS = ("mnasnet", "tunas")
IMPORTANCES = ("loss", "norm")
