"""params.yaml, validated: the whole study as typed values."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from augkd.errors import UserError

T = TypeVar("T")
STAGE = "AUGKD_STAGE"  # set in the notebook of a stage
Scale = Literal[2, 3, 4]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Degradation = Literal["bicubic", "bsrgan"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    benchmarks: Path | None = None
    edges: Literal["replicate", "symmetric"] = "replicate"
    registry: Path = Path("augkd/study/acquire/registry.yaml")  # of datasets and checkpoints
    mirror: Path | None = None  # a folder that holds its files: taken first
    on_device: Literal["auto", "never"] = "auto"  # training images, where a GPU has room


class Augment(Section):
    probability: Share = 0.3
    crops: Positive = 1


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


class Start(Section):
    """Whose weights a cohort's students start from."""

    cohort: str
    method: str | None = None  # null: each from the student of its own method


class Cohort(Section):
    network: str
    scale: Scale
    student: str
    teacher: TeacherSource
    start: Start | None = None
    methods: dict[str, dict[str, Any]]
    seeds: dict[str, Positive] = {}  # students a method, by budget; else what its distil says
    bits: tuple[int, ...] = ()  # students are quantised to so many, each method to each
    degradation: Degradation = "bicubic"  # what made its LR images, in training and in test
    training_images: Positive | None = None  # so many photographs, spread evenly; null: all
    expanded: bool = False  # also on the datasets that the budget's images name under expanded
    longer: Positive = 1  # times the budget's steps

    def method(self, name: str) -> Any:
        """The method named ``name`` with its options, ready to be called."""
        from augkd.distill import METHODS  # needs torch, which pages of the report do not

        options = dict(self.methods[name])
        return METHODS[options.pop("method", name)](**options)

    def seeds_at(self, budget: "Budget") -> int:
        """How many students a method has."""
        return self.seeds.get(budget.name, budget.distil.seeds)

    def variants(self) -> dict[str, tuple[str, int | None]]:
        """Its students by name, seeds apart: the method of each, and its bits if quantised."""
        if not self.bits:
            return {method: (method, None) for method in self.methods}
        return {f"{m}_{bits}bit": (m, bits) for bits in self.bits for m in self.methods}


class TeacherEntry(Section):
    """A teacher, by exactly one of these doors; files are relative to the study.

    =======================  ===================================================================
    network (and start)      trained here, at the budget's size
    network and weights      a checkpoint of that network at the budget's size, of any layout that
                             ``load_checkpoint`` knows
    weights                  a checkpoint of ours, which names its own network and sizes
    spandrel                 a file of any network that spandrel knows
    factory (and weights)    "module:function", which returns the network for ``scale=...``; without
                             ``weights`` it loads them itself
    =======================  ===================================================================
    """

    scale: Scale
    network: str | None = None
    start: str | None = None
    degradation: Degradation = "bicubic"
    expanded: bool = False  # as for a cohort
    checkpoint: str | None = None  # of the registry: named by a budget alone (``checkpoints``)
    weights: Path | None = None
    spandrel: Path | None = None
    factory: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None

    @property
    def trained(self) -> bool:
        """Whether it is trained here."""
        return self.network is not None and not (self.weights or self.checkpoint)

    @property
    def file(self) -> Path | None:
        """Where its weights come from, if it is not trained here."""
        return self.spandrel or self.weights

    def spec(self, file: Path | None) -> dict[str, Any]:
        """What ``augkd.models.foreign.load_teacher`` takes, with the weights in ``file``."""
        if self.spandrel:
            return {"spandrel": file}
        door: dict[str, Any] = {"factory": self.factory} if self.factory else {}
        return door | ({"weights": file} if file else {})


class Datasets(Section):
    """Datasets of the registry, by what they are for."""

    train: tuple[str, ...]
    expanded: tuple[str, ...] = ()  # beside those of train, where a cohort is expanded
    watch: tuple[str, ...]  # for the curves of validation; never scored
    test: tuple[str, ...]
    real: tuple[str, ...] = ()  # tests of students for real degradations, and of no others

    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(
            dict.fromkeys((*self.train, *self.expanded, *self.watch, *self.test, *self.real))
        )


class Images(Section):
    """How many listed photographs are used, null is all; or datasets in place of them."""

    train: Positive | None = None
    test: Positive | None = None
    datasets: Datasets | None = None


class Training(Section):
    steps: Positive
    batch: Positive
    patch: Positive  # LR pixels
    lr: Annotated[float, Field(gt=0)]
    decay_every: Positive
    seeds: Positive
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the average of weights; 0 keeps none
    validate_every: Positive
    # of the steps, where weights of another training are the start: they have taken the rest
    continued: Annotated[float, Field(gt=0, le=1)] = 1.0

    def longer(self, times: float) -> "Training":
        """The same schedule, stretched."""
        stretched = {k: max(1, round(times * getattr(self, k))) for k in ("steps", "decay_every")}
        return self.model_copy(update=stretched)


class Changes(Section):
    """What is another in a network's schedule than in the budget's."""

    steps: Positive | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    decay_every: Positive | None = None
    validate_every: Positive | None = None
    continued: Annotated[float, Field(gt=0, le=1)] | None = None


class Schedule(Section):
    teach: Changes
    distil: Changes


class Scoring(Section):
    train_images: Positive
    train_crop: Positive  # side of the centre crop, LR pixels
    self_ensemble: Literal["none", "all"] = "none"  # whose answers are means of eight
    ensemble_images: Positive | None = None  # of each test set, for teachers (Table 12); None: all


class Budget(Section):
    name: str
    about: str
    backbones: list[str]  # whose cohorts at x2, x3 and x4 are trained
    mixed: list[str]  # the budget's name where the cohorts are that need several of them, or []
    slow_pages: list[str]  # likewise where the pages are made that time methods
    teaching: list[str]  # likewise where the backbones' teachers are trained here
    public: list[str]  # likewise where they are public checkpoints, and images are fetched
    origin: Path  # of the images: a list of photographs, or the folder of what is fetched
    images: Images
    checkpoints: dict[str, str] = {}  # teachers that are checkpoints of the registry
    methods: dict[str, dict[str, Any]]  # options of methods, beside those of the cohorts
    networks: dict[str, dict[str, dict[str, Any]]]
    teach: Training
    distil: Training
    schedules: dict[str, Schedule]  # by network
    score: Scoring
    processes: Positive = 1  # that share each training, a GPU each; results do not rest on it


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
    by_hand: bool = False  # in a notebook that somebody opened, which writes no stage's results

    def page(self, name: str) -> Path:
        """Where the page ``name`` writes its files."""
        if self.by_hand:
            return self.root / "build" / "by_hand" / self.budget.name / "pages" / name
        return self.folder("pages", name)

    def folder(self, stage: str, name: str = "") -> Path:
        """runs/BUDGET/STAGE/NAME."""
        return self.root / "runs" / self.budget.name / stage / name

    def cohort(self, name: str) -> Cohort:
        """A cohort, with the options that the budget adds to its methods."""
        cohort = _entry(self.params.cohorts, name, "cohort")
        return _with_options(cohort, self.budget)

    def teacher(self, name: str) -> TeacherEntry:
        """A teacher, by the checkpoint that the budget names for it, if it names one."""
        entry = _entry(self.params.teachers, name, "teacher")
        if name not in self.budget.checkpoints:
            return entry
        return entry.model_copy(update={"checkpoint": self.budget.checkpoints[name], "start": None})

    def training_set(
        self, entry: Cohort | TeacherEntry
    ) -> tuple[tuple[str, ...] | None, int | None]:
        """The datasets that an entry is trained on (None: all that were prepared), and how many of
        their images (None: all)."""
        datasets = self.budget.images.datasets
        if datasets is None:
            return None, entry.training_images if isinstance(entry, Cohort) else None
        return (*datasets.train, *(datasets.expanded if entry.expanded else ())), None

    def trained(self, *cohorts: str) -> tuple[str, ...]:
        """Of the named cohorts, or of all, those that the budget trains."""
        wanted = cohorts or tuple(self.params.cohorts)
        return tuple(name for name in wanted if self.group(name) in self.groups())

    def groups(self) -> tuple[str, ...]:
        """The groups of cohorts that the budget trains: see ``group``."""
        return (*self.budget.backbones, "extras", *(["mixed"] if self.budget.mixed else []))

    def group(self, cohort: str) -> str:
        """With which others a cohort is scored: those of its network, the extras of EDSR, or
        those that need several networks."""
        network = self.cohort(cohort).network
        main = (f"{network}_x{scale}" for scale in (2, 3, 4))
        return network if cohort in main else "extras" if network == "edsr" else "mixed"

    def schedule(self, entry: Cohort | TeacherEntry) -> Training:
        """How long and how fast a cohort or a teacher is trained."""
        cohort = isinstance(entry, Cohort)
        training = self.budget.distil if cohort else self.budget.teach
        if entry.network:
            where = f"budgets.{self.budget.name}.schedules"
            own = _entry(self.budget.schedules, entry.network, where)
            changes = own.distil if cohort else own.teach
            training = training.model_copy(update=changes.model_dump(exclude_none=True))
        times = training.continued if entry.start else 1
        return training.longer(times * (entry.longer if isinstance(entry, Cohort) else 1))

    def seeds(self, cohort: str) -> int:
        """How many students a method of the cohort has."""
        return self.cohort(cohort).seeds_at(self.budget)

    def scores(self, cohort: str) -> Path:
        """The file of the cohort's scores."""
        return self.folder("score", self.group(cohort)) / "scores" / f"{cohort}.csv"

    def size(self, network: str, role: str) -> dict[str, Any]:
        """The budget's sizes of a network in a role."""
        sizes = _entry(self.budget.networks, network, f"budgets.{self.budget.name}.networks")
        return _entry(sizes, role, f"budgets.{self.budget.name}.networks.{network}")


def _with_options(cohort: Cohort, budget: Budget) -> Cohort:
    if not budget.methods.keys() & cohort.methods.keys():
        return cohort
    methods = {m: {**budget.methods.get(m, {}), **own} for m, own in cohort.methods.items()}
    return cohort.model_copy(update={"methods": methods})


def _entry(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        known = ", ".join(table)
        raise UserError(f"params.yaml: {what} '{name}' is unknown: choose one of {known}")
    return table[name]


def load_study(
    budget: str | None = None, root: Path | None = None, *, check_methods: bool = True
) -> Study:
    """Reads params.yaml of the study that ``root`` (or the working directory) lies in.

    Args:
        budget: the name of a budget; None for the one that params.yaml chooses.
        check_methods: also check the names and options of methods and networks, which needs
            torch. Pages of the report leave it out, and start two seconds sooner.

    Raises:
        UserError: no params.yaml, not YAML, an unknown key or a value of the wrong kind.
    """
    root = root or find_root()
    path = root / "params.yaml"
    try:
        # libyaml's loader is ten times as fast, and every stage and page waits for it
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
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
    if check_methods:
        _check_methods(params)
    chosen = _entry(params.budgets, budget, "budget") if budget else params.budget
    return Study(params, chosen, root)


def open_study(budget: str = "", *, check_methods: bool = True) -> Study:
    """The study as a notebook sees it: run as a stage, or opened by hand.

    Args:
        budget: what the pipeline passes; "" for the budget that params.yaml chooses.
    """
    study = load_study(budget or None, check_methods=check_methods)
    return replace(study, by_hand=STAGE not in os.environ)


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


def _check_methods(params: Params) -> None:
    """Names of networks and methods, and the methods' options."""
    from augkd.distill import METHODS

    for name, teacher in params.teachers.items():
        if teacher.network:
            _check_network(teacher.network, f"params.yaml: teachers.{name}.network")
    for name, budget in params.budgets.items():
        _check_sizes(params, budget, f"params.yaml: budgets.{name}")
        for cohort in params.cohorts.values():
            for method in budget.methods.keys() & cohort.methods.keys():
                try:
                    _with_options(cohort, budget).method(method)
                except ValidationError as error:
                    where = f"params.yaml: budgets.{name}.methods.{method}"
                    raise UserError(f"{where}.{_first(error)}") from None
    for name, cohort in params.cohorts.items():
        where = f"params.yaml: cohorts.{name}"
        _check_network(cohort.network, f"{where}.network")
        for method, options in cohort.methods.items():
            kind = options.get("method", method)
            if kind not in METHODS:
                raise UserError(
                    f"{where}.methods.{method}: method '{kind}' is unknown: "
                    f"choose one of {', '.join(METHODS)}"
                )
            try:
                cohort.method(method)
            except ValidationError as error:
                raise UserError(f"{where}.methods.{method}.{_first(error)}") from None


def _check_references(params: Params) -> None:
    """What pydantic cannot see: names that must be defined elsewhere."""
    for name, cohort in params.cohorts.items():
        where = f"params.yaml: cohorts.{name}"
        source = cohort.teacher
        if source.trained:
            taken = _entry(params.teachers, source.trained, f"cohorts.{name}.teacher.trained")
            if taken.scale != cohort.scale:
                raise UserError(
                    f"{where}.teacher: {source.trained} enlarges x{taken.scale}, the students "
                    f"x{cohort.scale}: choose a teacher of their scale"
                )
        elif source.student and source.method:
            taught = _entry(params.cohorts, source.student, f"cohorts.{name}.teacher.student")
            _entry(taught.methods, source.method, f"cohorts.{name}.teacher.method")
        else:
            raise UserError(
                f"{where}.teacher: give trained: NAME, or student: COHORT and method: NAME"
            )
        if cohort.start:
            from_ = _entry(params.cohorts, cohort.start.cohort, f"cohorts.{name}.start.cohort")
            for method in [cohort.start.method] if cohort.start.method else cohort.methods:
                _entry(from_.methods, method, f"cohorts.{name}.start.cohort's method")
        _check_seeds(params, name)
    for name, entry in params.teachers.items():
        _check_teacher(params, f"teachers.{name}", entry)
    for name, budget in params.budgets.items():
        if name != budget.name:
            raise UserError(
                f"params.yaml: budgets.{name}.name: must be {name}, not {budget.name!r}"
            )
        if odd := sorted(budget.schedules.keys() ^ budget.networks.keys()):
            raise UserError(
                f"params.yaml: budgets.{name}.schedules: {odd[0]}: give one for each of "
                "`networks`, and no others"
            )
        for training in ("teach", "distil"):
            patch = getattr(budget, training).patch
            if patch % 12:
                raise UserError(
                    f"params.yaml: budgets.{name}.{training}.patch: {patch} is not divisible by "
                    "12, which zooming out by 2, 3 and 4 needs: correct the value"
                )
        _check_sources(params, budget)


def _check_seeds(params: Params, name: str) -> None:
    """Each student has one of its own seed to start from."""
    cohort = params.cohorts[name]
    for budget in cohort.seeds:
        _entry(params.budgets, budget, f"cohorts.{name}.seeds: budget")
    if not cohort.start:
        return
    parent = cohort.start.cohort
    for budget, values in params.budgets.items():
        has = params.cohorts[parent].seeds_at(values)
        if (wanted := cohort.seeds_at(values)) > has:
            raise UserError(
                f"params.yaml: cohorts.{name}.seeds: {wanted} at budget {budget}, but {parent}, "
                f"from which it starts, has {has}: give it as many there"
            )


def _check_sources(params: Params, budget: Budget) -> None:
    """Where a budget's teachers and images come from: trained and photographs, or the registry."""
    where = f"params.yaml: budgets.{budget.name}"
    for key in ("mixed", "slow_pages", "teaching", "public"):
        if getattr(budget, key) not in ([], [budget.name]):
            raise UserError(f"{where}.{key}: give [{budget.name}], or [] for none")
    if bool(budget.public) == bool(budget.teaching):
        raise UserError(f"{where}: give either teaching or public as [{budget.name}]")
    if bool(budget.public) != bool(budget.images.datasets):
        raise UserError(
            f"{where}.images.datasets: give them where public is [{budget.name}], and only there"
        )
    backbones = {f"{network}_x{scale}" for network in budget.backbones for scale in (2, 3, 4)}
    wanted = backbones if budget.public else set()
    if odd := sorted(budget.checkpoints.keys() ^ wanted):
        raise UserError(
            f"{where}.checkpoints: {odd[0]}: give one for each backbone and scale where public is "
            f"[{budget.name}], and no others"
        )
    for name in budget.checkpoints:
        _entry(params.teachers, name, f"budgets.{budget.name}.checkpoints")
    for name in budget.methods:
        if not any(name in cohort.methods for cohort in params.cohorts.values()):
            raise UserError(f"{where}.methods: no cohort has '{name}': correct its name")


def _check_teacher(params: Params, where: str, entry: TeacherEntry) -> None:
    """Exactly one door, and nothing beside it that it would ignore."""
    chosen = [door for door in ("network", "spandrel", "factory") if getattr(entry, door)]
    doors = (
        "network (to train it here), network and weights, weights alone (a file of this study), "
        "spandrel, or factory and weights"
    )
    if len(chosen) > 1 or not (chosen or entry.weights):
        given = " and ".join(chosen) or "nothing"
        raise UserError(f"params.yaml: {where}: {given} is given: give one of {doors}")
    if entry.spandrel and entry.weights:
        raise UserError(
            f"params.yaml: {where}.weights: spandrel names the file already: remove one of them"
        )
    if entry.checkpoint:
        raise UserError(
            f"params.yaml: {where}.checkpoint: a budget names it: move it to "
            "budgets.NAME.checkpoints"
        )
    if entry.start:
        if not entry.trained:
            raise UserError(
                f"params.yaml: {where}.start: only a teacher that is trained here starts from "
                "another: remove it"
            )
        _entry(params.teachers, entry.start, f"{where}.start")


def _check_network(network: str, where: str) -> None:
    from augkd.models import NETWORKS

    if network not in NETWORKS:
        raise UserError(f"{where}: '{network}' is unknown: choose one of {', '.join(NETWORKS)}")


def _check_sizes(params: Params, budget: Budget, where: str) -> None:
    """A budget's backbones have sizes for every role that the cohorts give them."""
    from augkd.models import NETWORKS

    for network in budget.backbones:
        _check_network(network, f"{where}.backbones")
        roles = _entry(budget.networks, network, f"budgets.{budget.name}.networks")
        _entry(roles, "teacher", f"budgets.{budget.name}.networks.{network}")
        for name, cohort in params.cohorts.items():
            if cohort.network == network and cohort.student not in roles:
                raise UserError(
                    f"params.yaml: cohorts.{name}.student: '{cohort.student}' is unknown: "
                    f"choose one of {', '.join(roles)}, or add it to "
                    f"{where[13:]}.networks.{network}"
                )
    for network, roles in budget.networks.items():
        _check_network(network, f"{where}.networks")
        known = list(inspect.signature(NETWORKS[network]).parameters)
        for role, sizes in roles.items():
            for key in sizes:
                if key not in known or key == "scale":
                    raise UserError(
                        f"{where}.networks.{network}.{role}: '{key}' is unknown: "
                        f"choose one of {', '.join(k for k in known if k != 'scale')}"
                    )
