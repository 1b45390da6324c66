"""Timings. ``make bench`` runs those that targets.yaml names; each runs alone too, from here:

    python -m benchmarks training      (or score, upscale, memory, import)

Each module has ``measure(rounds) -> {case: {side: [one number a round]}}``, in seconds where it
does not say otherwise: sides of a case take turns, so that what else runs meets all alike.
"""
