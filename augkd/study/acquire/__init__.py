"""Datasets and public checkpoints: what there is, how it is fetched, how archives are read.

Here belongs what ends with verified files in a folder and images found inside them: the registry
and its data, transfers, archives. How images become a store is ``augkd.study.prepare``; whether a
checkpoint scores as published is ``augkd.study.gate``; reading weights is ``augkd.models``.
"""
