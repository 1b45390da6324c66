"""What trainings take up, beside what ``augkd plan`` states of it."""

import resource
import subprocess
import sys

from augkd.distill import Teacher
from augkd.study.cost.passes import CPU, count_step, entry_of, noise, untrained
from augkd.study.cost.plan import make_plan
from augkd.study.cost.steps import update
from augkd.study.params import load_study
from augkd.train import single_core

# of budgets smoke and cpu the largest cohorts; of paper size the smallest, which takes minutes
TRAININGS = {"smoke": "edsr_x4", "cpu": "controls_x2", "gpu": "ablation_x4"}


def stated(budget: str, name: str) -> int:
    """Bytes by the plan."""
    return int(make_plan(load_study(budget), measure=False).trainings["memory"]["distil", name])


def measured(budget: str, name: str) -> int:
    """Bytes that this process has taken up at most, after two steps of all students, on noise."""
    study = load_study(budget)
    entry, copies = study.cohort(name), count_step(study, "distil", name).copies
    training = study.schedule(entry)
    with single_core(CPU):
        each = [untrained(study, entry_of(study, "distil", name), CPU) for _ in range(copies)]
        batch = noise(study, entry, training.batch, training.patch, CPU).draw(0)
        for _ in range(2):
            update([one for members, _ in each for one in members], Teacher(each[0][1]), batch)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(rounds: int = 1) -> dict[str, dict[str, list[float]]]:
    """By budget, bytes; once, whatever ``rounds``: it hardly varies."""
    found: dict[str, dict[str, list[float]]] = {}
    for budget, name in TRAININGS.items():
        for side in (stated, measured):  # each in a process of its own
            code = f"from {__name__} import *; print({side.__name__}({budget!r}, {name!r}))"
            run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
            found.setdefault(budget, {})[side.__name__] = [int(run.stdout)]
    return found
