"""Lets a notebook run alone: makes what the pipeline would have made before it.

In the pipeline everything is there already. At smoke size all of it takes seconds.
"""

from pathlib import Path

from augkd.study.params import Study


def rests_on(study: Study, stage: str, name: str) -> list[Path]:
    """What the training of a teacher ("teach") or cohort ("distil") needs to be there."""
    paths = [study.folder("prepare") / split / "index.csv" for split in ("train", "test")]
    if stage == "teach":
        start = study.teacher(name).start
        return paths + ([study.folder("teach", start) / "teacher.safetensors"] if start else [])
    cohort = study.cohort(name)
    if cohort.teacher.trained:
        paths.append(study.folder("teach", cohort.teacher.trained) / "teacher.safetensors")
    others = (cohort.teacher.student, cohort.start.cohort if cohort.start else None)
    return paths + [study.folder("distil", other) / "students" for other in others if other]


def ensure_prepared(study: Study) -> None:
    """Makes the prepared photographs."""
    if not (study.folder("prepare") / "benchmarks").is_dir():
        from augkd.study.prepare import prepare_study

        if study.budget.public:
            from augkd.study.acquire.fetch import fetch_study

            fetch_study(study)
        prepare_study(study)


def ensure_teacher(study: Study, name: str) -> None:
    """Trains the teacher ``name``, after the one that it starts from, or takes its checkpoint."""
    if (study.folder("teach", name) / "teacher.safetensors").is_file():
        return
    ensure_prepared(study)
    if study.teacher(name).checkpoint:
        from augkd.study.gate import take

        take(study, name)
        return
    from augkd.study.runs import teach

    ensure_before_teacher(study, name)
    teach(study, name)


def ensure_before_teacher(study: Study, name: str) -> None:
    """Makes what the training of the teacher ``name`` rests on."""
    ensure_prepared(study)
    if start := study.teacher(name).start:
        ensure_teacher(study, start)


def ensure_before(study: Study, name: str) -> None:
    """Makes what the training of the cohort ``name`` rests on."""
    cohort = study.cohort(name)
    ensure_prepared(study)
    if cohort.teacher.trained:
        ensure_teacher(study, cohort.teacher.trained)
    for other in (cohort.teacher.student, cohort.start.cohort if cohort.start else None):
        if other:
            ensure_students(study, other)


def ensure_students(study: Study, name: str) -> None:
    """Trains the cohort ``name``, after all that it rests on."""
    if (study.folder("distil", name) / "students").is_dir():
        return
    from augkd.study.runs import distil

    ensure_before(study, name)
    distil(study, name)


def ensure_scores(study: Study, *cohorts: str) -> None:
    """Scores the named cohorts, after training them if need be."""
    for name in cohorts:
        if not study.scores(name).is_file():
            from augkd.study.score import write_scores

            ensure_students(study, name)
            write_scores(study, name)
