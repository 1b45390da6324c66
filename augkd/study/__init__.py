"""The study: everything that runs and reports the experiment. The core imports nothing of it.

Here lie params.yaml as typed values (``params``) and what the notebooks of its runs call:
``prepare`` images, ``gate`` and ``runs`` for teachers and students, ``score`` them; ``record`` says
how each run came about. Where images come from is in ``acquire``, the order of stages in
``pipeline``, what is made of scores in ``report`` and ``paper``, what it takes in ``cost``. What
the paper itself defines (networks, methods, metrics, the training loop) belongs to the core.
"""
