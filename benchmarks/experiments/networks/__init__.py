"""The networks of the experiments, paper by paper."""
