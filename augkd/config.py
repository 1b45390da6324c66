"""params.yaml, validated: the whole study as typed values."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from augkd.distill import METHODS
from augkd.errors import UserError
from augkd.models import NETWORKS

T = TypeVar("T")
Scale = Literal[2, 3, 4]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    benchmarks: Path | None = None
    edges: Literal["replicate", "symmetric"] = "replicate"


class Augment(Section):
    probability: Share = 0.3
    crops: Positive = 1
    zoom_in: Literal["random", "cell"] = "random"


class Optimiser(Section):
    """Adam and its step decay: the rate is lr * decay ** (step // decay_every)."""

    betas: tuple[Share, Share] = (0.9, 0.99)
    eps: float = 1e-8
    decay: Share = 0.1


class TeacherSource(Section):
    """Where a cohort's frozen teacher comes from: exactly one of the three."""

    trained: str | None = None  # an entry of `teachers`
    student: str | None = None  # a cohort, of which `method` is the teacher (first seed)
    method: str | None = None


class Cohort(Section):
    network: str
    scale: Scale
    student: str
    teacher: TeacherSource
    start: str | None = None  # the cohort whose students of the same method these start from
    methods: dict[str, dict[str, Any]]

    def method(self, name: str) -> Any:
        """The method named ``name`` with its options, ready to be called."""
        options = dict(self.methods[name])
        return METHODS[options.pop("method", name)](**options)


class TeacherEntry(Section):
    network: str
    scale: Scale
    start: str | None = None
    weights: Path | None = None


class Images(Section):
    """How many listed photographs are used; null is all."""

    train: Positive | None = None
    test: Positive | None = None


class Training(Section):
    steps: Positive
    batch: Positive
    patch: Positive  # LR pixels
    lr: Annotated[float, Field(gt=0)]
    decay_every: Positive
    seeds: Positive
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the average of weights; 0 keeps none
    validate_every: Positive


class Scoring(Section):
    train_images: Positive
    train_crop: Positive  # side of the centre crop, LR pixels


class Budget(Section):
    name: str
    about: str
    backbones: list[str]
    scales: list[Literal[2, 3]]  # x4 always follows, since it starts from x2
    all_scales: list[Scale]
    images: Images
    networks: dict[str, dict[str, dict[str, Any]]]
    teach: Training
    distil: Training
    score: Scoring


class Params(Section):
    seed: int
    data: Data
    augment: Augment
    optimiser: Optimiser
    cohorts: dict[str, Cohort]
    teachers: dict[str, TeacherEntry]
    budgets: dict[str, Budget]
    budget: Budget


@dataclass(frozen=True)
class Study:
    """One budget of params.yaml, and where its files are."""

    params: Params
    budget: Budget
    root: Path

    def folder(self, stage: str, name: str = "") -> Path:
        """runs/BUDGET/STAGE/NAME."""
        return self.root / "runs" / self.budget.name / stage / name

    def cohort(self, name: str) -> Cohort:
        return _entry(self.params.cohorts, name, "cohort")

    def teacher(self, name: str) -> TeacherEntry:
        return _entry(self.params.teachers, name, "teacher")

    def size(self, network: str, role: str) -> dict[str, Any]:
        """The budget's sizes of a network in a role."""
        sizes = _entry(self.budget.networks, network, f"budgets.{self.budget.name}.networks")
        return _entry(sizes, role, f"budgets.{self.budget.name}.networks.{network}")


def _entry(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise UserError(f"params.yaml: {what} '{name}' is unknown: choose of {', '.join(table)}")
    return table[name]


def load_study(budget: str | None = None, root: Path | None = None) -> Study:
    """Reads params.yaml of the study that ``root`` (or the working directory) lies in.

    Args:
        budget: the name of a budget; None for the one that params.yaml chooses.

    Raises:
        UserError: no params.yaml, not YAML, an unknown key or a value of the wrong kind.
    """
    root = root or find_root()
    path = root / "params.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: run in a clone of the study") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8: save it as text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{line}: {problem}: mend the YAML there") from None
    try:
        params = TypeAdapter(Params).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{path.name}: {_first(error)}") from None
    _check_references(params)
    chosen = _entry(params.budgets, budget, "budget") if budget else params.budget
    return Study(params, chosen, root)


def find_root() -> Path:
    """The nearest folder upwards that has a params.yaml and a dvc.yaml (notebooks run below)."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(
        f"{here}: no params.yaml and dvc.yaml here or above: run in a clone of the study"
    )


def _first(error: ValidationError) -> str:
    """One line for the first of pydantic's complaints: the key, what is wrong, the mend."""
    detail = error.errors()[0]
    key = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key: remove it or correct its name"
    if detail["type"] == "missing":
        return f"{key}: missing: add it"
    given = repr(detail["input"])
    given = given if len(given) < 80 else f"{given[:77]}..."
    return f"{key}: {detail['msg']}, not {given}: correct the value"


def _check_references(params: Params) -> None:
    """What pydantic cannot see: names that must be defined elsewhere, and method options."""
    for name, cohort in params.cohorts.items():
        where = f"params.yaml: cohorts.{name}"
        _check_network(cohort.network, f"{where}.network")
        for method, options in cohort.methods.items():
            kind = options.get("method", method)
            if kind not in METHODS:
                raise UserError(
                    f"{where}.methods.{method}: method '{kind}' is unknown: "
                    f"choose of {', '.join(METHODS)}"
                )
            try:
                cohort.method(method)
            except ValidationError as error:
                raise UserError(f"{where}.methods.{method}.{_first(error)}") from None
        source = cohort.teacher
        if source.trained:
            _entry(params.teachers, source.trained, f"cohorts.{name}.teacher.trained")
        elif source.student and source.method:
            taught = _entry(params.cohorts, source.student, f"cohorts.{name}.teacher.student")
            _entry(taught.methods, source.method, f"cohorts.{name}.teacher.method")
        else:
            raise UserError(
                f"{where}.teacher: give trained: NAME, or student: COHORT and method: NAME"
            )
        if cohort.start:
            _entry(params.cohorts, cohort.start, f"cohorts.{name}.start")
    for name, teacher in params.teachers.items():
        _check_network(teacher.network, f"params.yaml: teachers.{name}.network")
        if teacher.start:
            _entry(params.teachers, teacher.start, f"teachers.{name}.start")
    for name, budget in params.budgets.items():
        _check_sizes(params, budget, f"params.yaml: budgets.{name}")
        if name != budget.name:
            raise UserError(
                f"params.yaml: budgets.{name}.name: must be {name}, not {budget.name!r}"
            )
        for training in ("teach", "distil"):
            patch = getattr(budget, training).patch
            if patch % 12:
                raise UserError(
                    f"params.yaml: budgets.{name}.{training}.patch: {patch} is not divisible by "
                    "12, which zooming out by 2, 3 and 4 needs: correct the value"
                )


def _check_network(network: str, where: str) -> None:
    if network not in NETWORKS:
        raise UserError(f"{where}: '{network}' is unknown: choose of {', '.join(NETWORKS)}")


def _check_sizes(params: Params, budget: Budget, where: str) -> None:
    """A budget's backbones have sizes for every role that the cohorts give them."""
    for network in budget.backbones:
        _check_network(network, f"{where}.backbones")
        roles = _entry(budget.networks, network, f"budgets.{budget.name}.networks")
        _entry(roles, "teacher", f"budgets.{budget.name}.networks.{network}")
        for name, cohort in params.cohorts.items():
            if cohort.network == network and cohort.student not in roles:
                raise UserError(
                    f"params.yaml: cohorts.{name}.student: '{cohort.student}' is unknown: "
                    f"choose of {', '.join(roles)}, or add it to {where[13:]}.networks.{network}"
                )
    for network, roles in budget.networks.items():
        _check_network(network, f"{where}.networks")
        known = list(inspect.signature(NETWORKS[network]).parameters)
        for role, sizes in roles.items():
            for key in sizes:
                if key not in known or key == "scale":
                    raise UserError(
                        f"{where}.networks.{network}.{role}: '{key}' is unknown: "
                        f"choose of {', '.join(k for k in known if k != 'scale')}"
                    )
