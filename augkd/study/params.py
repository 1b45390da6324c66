"""params.yaml, validated: the whole study as typed values, and the line that chooses a budget.

Nothing here needs torch but what says so: pages of the report start two seconds sooner.
"""

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from augkd.errors import UserError, replacing
from augkd.options import Optimiser, Training

T = TypeVar("T")
STAGE = "AUGKD_STAGE"  # set in the notebook of a stage
Scale = Literal[2, 3, 4]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Degradation = Literal["bicubic", "bsrgan"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def problems(self) -> Iterable[str]:
        """What types do not say, as "key: what is wrong: the mend"; the first is refused."""
        return ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for problem in self.problems():
            raise ValueError(problem)
        return self


class Data(Section):
    benchmarks: Path | None = None
    edges: Literal["replicate", "symmetric"] = "replicate"
    registry: Path = Path("augkd/study/acquire/registry.yaml")  # of datasets and checkpoints
    mirror: Path | None = None  # a folder that holds its files: taken first
    on_device: Literal["auto", "never"] = "auto"  # training images, where a GPU has room


class Augment(Section):
    probability: Share = 0.3
    crops: Positive = 1


class TeacherSource(Section):
    """Where a cohort's frozen teacher comes from."""

    trained: str | None = None  # an entry of `teachers`
    student: str | None = None  # or a cohort, of which `method` is the teacher (first seed)
    method: str | None = None

    def problems(self) -> Iterator[str]:
        if not (self.trained or (self.student and self.method)):
            yield "give trained: NAME, or student: COHORT and method: NAME"


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
        """The method named ``name`` with its options, ready to be called. Needs torch."""
        from augkd.distill import METHODS

        options = dict(self.methods[name])
        return TypeAdapter(METHODS[options.pop("method", name)]).validate_python(options)

    def seeds_at(self, budget: "Budget") -> int:
        """How many students a method has."""
        return self.seeds.get(budget.name, budget.distil.seeds)

    def variants(self) -> dict[str, tuple[str, int | None]]:
        """Its students by name, seeds apart: the method of each, and its bits if quantised."""
        if not self.bits:
            return {method: (method, None) for method in self.methods}
        return {f"{m}_{bits}bit": (m, bits) for bits in self.bits for m in self.methods}

    def at(self, budget: "Budget") -> "Cohort":
        """With the options that the budget adds to its methods."""
        methods = {m: {**budget.methods.get(m, {}), **own} for m, own in self.methods.items()}
        return self.model_copy(update={"methods": methods})


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

    def problems(self) -> Iterator[str]:
        chosen = [door for door in ("network", "spandrel", "factory") if getattr(self, door)]
        if len(chosen) > 1 or not (chosen or self.weights):
            yield (
                f"{' and '.join(chosen) or 'nothing'} is given: give one of network (to train it "
                "here), network and weights, weights alone (a file of this study), spandrel, or "
                "factory and weights"
            )
        if self.spandrel and self.weights:
            yield "weights: spandrel names the file already: remove one of them"
        if self.checkpoint:
            yield "checkpoint: a budget names it: move it to budgets.NAME.checkpoints"
        if self.start and not self.trained:
            yield "start: only a teacher that is trained here starts from another: remove it"


class Datasets(Section):
    """Datasets of the registry, by what they are for."""

    train: tuple[str, ...]
    expanded: tuple[str, ...] = ()  # beside those of train, where a cohort is expanded
    watch: tuple[str, ...]  # for the curves of validation; never scored
    test: tuple[str, ...]
    real: tuple[str, ...] = ()  # tests of students for real degradations, and of no others

    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        every = (*self.train, *self.expanded, *self.watch, *self.test, *self.real)
        return tuple(dict.fromkeys(every))


class Images(Section):
    """How many listed photographs are used, null is all; or datasets in place of them."""

    train: Positive | None = None
    test: Positive | None = None
    datasets: Datasets | None = None


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
    networks: dict[str, dict[str, dict[str, Any]]]  # sizes by role, where not Table 1's
    teach: Training
    distil: Training
    # by network, what is another for it than in the two above
    schedules: dict[str, dict[Literal["teach", "distil"], dict[str, Any]]]
    score: Scoring
    processes: Positive = 1  # that share each training, a GPU each; results do not rest on it

    def training(self, stage: Literal["teach", "distil"], network: str | None) -> Training:
        """The schedule of a stage for a network; for one from elsewhere, the budget's."""
        where, changes = f"budgets.{self.name}.schedules", {}
        if network:
            changes = _entry(self.schedules, network, where).get(stage, {})
        with _named(f"{where}.{network}.{stage}"):
            return TypeAdapter(Training).validate_python(asdict(getattr(self, stage)) | changes)

    def problems(self) -> Iterator[str]:
        for odd in sorted(self.schedules.keys() ^ self.networks.keys()):
            yield f"schedules: {odd}: give one for each of `networks`, and no others"
        for key, patch in (("teach", self.teach.patch), ("distil", self.distil.patch)):
            if patch % 12:
                yield (
                    f"{key}.patch: {patch} is not divisible by 12, which zooming out by 2, 3 and 4 "
                    "needs: correct the value"
                )
        if bool(self.public) == bool(self.teaching):
            yield f"give either teaching or public as [{self.name}]"
        only = f"where public is [{self.name}], and"
        if bool(self.public) != bool(self.images.datasets):
            yield f"images.datasets: give them {only} only there"
        names = {f"{network}_x{scale}" for network in self.backbones for scale in (2, 3, 4)}
        for odd in sorted(self.checkpoints.keys() ^ (names if self.public else set())):
            yield f"checkpoints: {odd}: give one for each backbone and scale {only} no others"


class Params(Section):
    seed: int
    data: Data
    augment: Augment
    optimiser: Optimiser
    cohorts: dict[str, Cohort]
    teachers: dict[str, TeacherEntry]
    budgets: dict[str, Budget]
    budget: Budget

    def problems(self) -> Iterator[str]:
        """Names that must be defined elsewhere in the file, and what goes with them."""
        for name, cohort in self.cohorts.items():
            yield from self._of_cohort(f"cohorts.{name}", cohort)
        for name, entry in self.teachers.items():
            if entry.start:
                _entry(self.teachers, entry.start, f"teachers.{name}.start")
        named = {method for cohort in self.cohorts.values() for method in cohort.methods}
        for name, budget in self.budgets.items():
            where = f"budgets.{name}"
            if name != budget.name:
                yield f"{where}.name: must be {name}, not {budget.name!r}"
            for key in ("mixed", "slow_pages", "teaching", "public"):
                if getattr(budget, key) not in ([], [name]):
                    yield f"{where}.{key}: give [{name}], or [] for none"
            for network, changes in budget.schedules.items():
                for stage in changes:
                    budget.training(stage, network)
            for teacher in budget.checkpoints:
                _entry(self.teachers, teacher, f"{where}.checkpoints")
            for odd in sorted(budget.methods.keys() - named):
                yield f"{where}.methods: no cohort has '{odd}': correct its name"

    def _of_cohort(self, where: str, cohort: Cohort) -> Iterator[str]:
        source, start, scale = cohort.teacher, cohort.start, cohort.scale
        if source.trained:
            taken = _entry(self.teachers, source.trained, f"{where}.teacher.trained")
            if taken.scale != scale:
                yield (
                    f"{where}.teacher: {source.trained} enlarges x{taken.scale}, the students "
                    f"x{scale}: choose a teacher of their scale"
                )
        else:
            taught = _entry(self.cohorts, source.student, f"{where}.teacher.student")
            _entry(taught.methods, source.method, f"{where}.teacher.method")
        for name in cohort.seeds:
            _entry(self.budgets, name, f"{where}.seeds: budget")
        if not start:
            return
        parent = _entry(self.cohorts, start.cohort, f"{where}.start.cohort")
        for method in [start.method] if start.method else cohort.methods:
            _entry(parent.methods, method, f"{where}.start.cohort's method")
        for name, budget in self.budgets.items():  # each student has one of its own seed
            if (wanted := cohort.seeds_at(budget)) > (has := parent.seeds_at(budget)):
                yield (
                    f"{where}.seeds: {wanted} at budget {name}, but {start.cohort}, from which it "
                    f"starts, has {has}: give it as many there"
                )

    def check_methods(self) -> None:
        """Names of networks and methods, their sizes and options. Needs torch.

        Raises:
            UserError: one is unknown, or of the wrong kind.
        """
        from augkd.distill import METHODS
        from augkd.models import NETWORKS

        for name, teacher in self.teachers.items():
            if teacher.network:
                _entry(NETWORKS, teacher.network, f"teachers.{name}.network:")
        for name, cohort in self.cohorts.items():
            where = f"cohorts.{name}"
            _entry(NETWORKS, cohort.network, f"{where}.network:")
            for method, options in cohort.methods.items():
                here = f"{where}.methods.{method}"
                _entry(METHODS, options.get("method", method), f"{here}: method")
                with _named(here):
                    cohort.method(method)
        for name, budget in self.budgets.items():
            where = f"budgets.{name}"
            for cohort in self.cohorts.values():
                for method in budget.methods.keys() & cohort.methods.keys():
                    with _named(f"{where}.methods.{method}"):
                        cohort.at(budget).method(method)
            where = f"{where}.networks"
            for network in budget.backbones:
                _entry(NETWORKS, network, f"budgets.{name}.backbones:")
                roles = _entry(budget.networks, network, where)
                _entry(roles, "teacher", f"{where}.{network}")
                for other, cohort in self.cohorts.items():
                    if cohort.network == network:
                        mend = f", or add it to {where}.{network}"
                        _entry(roles, cohort.student, f"cohorts.{other}.student:", mend)
            for network, roles in budget.networks.items():
                kind = _entry(NETWORKS, network, f"{where}:")
                known = dict(inspect.signature(kind).parameters)
                del known["scale"]
                for role, sizes in roles.items():
                    for key in sizes:
                        _entry(known, key, f"{where}.{network}.{role}:")


def _entry(table: Mapping[str, T], name: str | None, what: str, mend: str = "") -> T:
    if name is None or name not in table:
        known = ", ".join(table)
        raise UserError(f"params.yaml: {what} '{name}' is unknown: choose one of {known}{mend}")
    return table[name]


@contextmanager
def _named(*where: str) -> Iterator[None]:
    """Makes one line of the first of pydantic's complaints: the key, what is wrong, the mend."""
    try:
        yield
    except ValidationError as error:
        detail = error.errors()[0]
        key, given = ".".join([*where, *map(str, detail["loc"])]), repr(detail["input"])
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            problem = "unknown key: remove it or correct its name"
        elif detail["type"] == "missing":
            problem = "missing: add it"
        elif detail["type"] == "value_error":  # of ``problems``, or of a dataclass of the core
            problem = str(detail["ctx"]["error"])
            if re.split(r"\W", problem)[0] in detail["input"]:
                key, _, problem = f"{key}.{problem}".strip(".").partition(": ")
            problem += ": correct the value" * problem.startswith("expected")
        else:
            given = given if len(given) < 80 else f"{given[:77]}..."
            problem = f"{detail['msg']}, not {given}: correct the value"
        raise UserError(f"params.yaml: {key or 'the file'}: {problem}") from None


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

    def only_shows(self, notebook: str, entry: str = "") -> bool:
        """Whether a stage's notebook is to show what the stage made, and to make nothing.

        So it is where somebody opened it by hand. What it shows is there then.

        Raises:
            UserError: it is not there, and would take long: names the command that makes it.
        """
        if self.by_hand:
            from augkd.study.pipeline.stage import need

            need(self, notebook, entry)
        return self.by_hand

    def folder(self, stage: str, name: str = "") -> Path:
        """runs/BUDGET/STAGE/NAME."""
        return self.root / "runs" / self.budget.name / stage / name

    def cohort(self, name: str) -> Cohort:
        """A cohort, with the options that the budget adds to its methods."""
        return _entry(self.params.cohorts, name, "cohort").at(self.budget)

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
        stage: Literal["teach", "distil"] = "distil" if isinstance(entry, Cohort) else "teach"
        training = self.budget.training(stage, entry.network)
        times = training.continued if entry.start else 1
        return training.longer(times * (entry.longer if isinstance(entry, Cohort) else 1))

    def seeds(self, cohort: str) -> int:
        """How many students a method of the cohort has."""
        return self.cohort(cohort).seeds_at(self.budget)

    def scores(self, cohort: str) -> Path:
        """The file of the cohort's scores."""
        return self.folder("score", self.group(cohort)) / "scores" / f"{cohort}.csv"

    def size(self, network: str, role: str) -> dict[str, Any]:
        """All sizes of a network in a role: the budget's, else Table 1's. Needs torch."""
        from augkd.models import SIZES

        where = f"budgets.{self.budget.name}.networks"
        own = _entry(_entry(self.budget.networks, network, where), role, f"{where}.{network}")
        return {**SIZES.get(network, {}).get(role, {}), **own}


def load_study(
    budget: str | None = None, root: Path | None = None, *, check_methods: bool = True
) -> Study:
    """Reads params.yaml of the study that ``root`` (or the working directory) lies in.

    Args:
        budget: the name of a budget; None for the one that params.yaml chooses.
        check_methods: also check the names and options of methods and networks, which needs
            torch. Pages of the report leave it out.

    Raises:
        UserError: no params.yaml, not YAML, an unknown key or a value of the wrong kind.
    """
    root = root or find_root()
    with _named():
        params = Params.model_validate(read_params(root / "params.yaml")[1])
    if check_methods:
        params.check_methods()
    chosen = _entry(params.budgets, budget, "budget") if budget else params.budget
    return Study(params, chosen, root)


def open_study(budget: str = "", *, check_methods: bool = True) -> Study:
    """The study as a notebook sees it: run as a stage, or opened by hand.

    Args:
        budget: what the pipeline passes; "" for the budget that params.yaml chooses.
    """
    study = load_study(budget or None, check_methods=check_methods)
    return replace(study, by_hand=STAGE not in os.environ)


# --- the file -------------------------------------------------------------------------------------


def find_root(*files: str) -> Path:
    """The nearest folder upwards that has the files: params.yaml and dvc.yaml, if none is named."""
    files = files or ("params.yaml", "dvc.yaml")
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / file).is_file() for file in files):
            return folder
    raise UserError(
        f"{here}: no {' and '.join(files)} here or above: run this in a clone of the study"
    )


def read_params(path: Path) -> tuple[str, Any]:
    """The text of a params.yaml, and what it says: unchecked, any YAML.

    Raises:
        UserError: it cannot be read, or is not YAML.
    """
    try:
        text = path.read_bytes().decode()
        # libyaml's loader is ten times as fast, and every stage and page waits for it
        return text, yaml.load(text, yaml.CSafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: run in a clone of the study") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 ({error}): mend the file") from None
    except yaml.YAMLError as error:
        mark, problem = (getattr(error, key, None) for key in ("problem_mark", "problem"))
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not YAML{line} ({problem}): mend the YAML there") from None


_LINE = re.compile(r"^(budget:[ \t]*\*)([\w.-]+)", re.MULTILINE)


def read_budgets(path: Path) -> tuple[str, list[str]]:
    """The chosen budget's name, and the names of all.

    Raises:
        UserError: the file is not YAML, or lacks ``budgets`` or the line that chooses one.
    """
    text, values = read_params(path)
    budgets = values.get("budgets") if isinstance(values, dict) else None
    if not isinstance(budgets, dict) or not budgets:
        raise UserError(f"{path}: has no 'budgets': expected a list of budgets by name")
    chosen = _LINE.findall(text)
    if len(chosen) != 1:
        raise UserError(
            f"{path}: has {len(chosen)} lines like 'budget: *name', expected one: write it so"
        )
    return chosen[0][1], [str(name) for name in budgets]


def switch_budget(path: Path, name: str) -> str:
    """Rewrites the one line that chooses the budget, and returns the name chosen before.

    Every other byte stays, comments and line ends included.

    Raises:
        UserError: the budget is unknown or has no anchor of its name, or as ``read_budgets``.
    """
    before, names = read_budgets(path)
    if name not in names:
        raise UserError(f"budget '{name}' is unknown: choose one of {', '.join(names)}")
    text, values = read_params(path)
    changed = _LINE.sub(rf"\g<1>{name}", text)
    try:
        chosen = yaml.safe_load(changed)["budget"]
    except yaml.YAMLError:  # there is no such anchor
        chosen = None
    if chosen != values["budgets"][name]:
        raise UserError(
            f"{path}: budgets.{name} needs an anchor of its name: write '{name}: &{name}'"
        )
    if changed != text:
        with replacing(path) as partial:
            partial.write_bytes(changed.encode())
    return before


def refuse_links(path: Path) -> None:
    """Sees to it that the benchmarks' folder has no linked folders in it.

    DVC does not look behind them: it would not score a set that is added so, and say nothing.

    Raises:
        UserError: it has, or as ``read_budgets``.
    """
    read_budgets(path)
    benchmarks = (read_params(path)[1].get("data") or {}).get("benchmarks")
    for found in sorted((path.parent / benchmarks).glob("**/*")) if benchmarks else ():
        if found.is_symlink() and found.is_dir():
            raise UserError(
                f"{found}: is a link, and DVC does not see what is behind it: copy the folder, or "
                "let data.benchmarks of params.yaml name the folder that it lies in"
            )
