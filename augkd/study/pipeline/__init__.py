"""How the study's stages run: their graph, what each rests on, several side by side.

Here belongs what stands between dvc.yaml and a notebook. What a notebook computes is elsewhere in
``augkd.study``; DVC decides what has to run, and nothing of it is replaced.
"""
