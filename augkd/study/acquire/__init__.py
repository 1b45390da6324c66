"""Datasets and public checkpoints: what there is, how it is fetched, how archives are read."""
