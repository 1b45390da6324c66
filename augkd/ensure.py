"""Lets a notebook run alone: makes what the pipeline would have made before it."""

from augkd.config import Study


def ensure(study: Study, *what: str) -> None:
    """Makes what a notebook needs when it is opened alone, before the pipeline has run.

    In the pipeline everything is there already. At smoke size all of it takes seconds.

    Args:
        what: of "prepare", "teachers", "students", "scores"; the last implies the others.
    """
    wanted = {"prepare", "teachers", "students", "scores"} if "scores" in what else set(what)
    budget = study.budget
    cohorts = [f"{n}_x{scale}" for n in budget.backbones for scale in budget.all_scales]
    if "scores" in wanted and all(
        (study.folder("score", name) / "scores.csv").is_file() for name in (*cohorts, "ablation_x4")
    ):
        return
    from augkd.data.prepare import prepare_study
    from augkd.score import write_scores
    from augkd.study import distil, teach

    if "prepare" in wanted and not (study.folder("prepare") / "benchmarks").is_dir():
        prepare_study(study)
    for name in cohorts if "teachers" in wanted else ():
        if not (study.folder("teach", name) / "teacher.safetensors").is_file():
            teach(study, name)
    for name in (*cohorts, "ablation_x4") if "students" in wanted else ():
        if not (study.folder("distil", name) / "students").is_dir():
            distil(study, name)
    for name in (*cohorts, "ablation_x4") if "scores" in wanted else ():
        if not (study.folder("score", name) / "scores.csv").is_file():
            write_scores(study, name)
