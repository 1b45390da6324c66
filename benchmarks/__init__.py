"""Timings. ``make bench`` runs those that targets.yaml names; each runs alone too, from here:

    python -m benchmarks training      (or score, upscale, memory, import)

Each module has ``measure(rounds) -> {case: {side: [seconds, a round each]}}``: sides of a case take
turns, so that what else runs meets all alike. Or it sums its rounds up itself: ``{name: number}``.
"""
