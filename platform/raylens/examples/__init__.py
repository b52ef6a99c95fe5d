"""What explainers and scorers see of a feature: short excerpts, split into sets that share no document."""
