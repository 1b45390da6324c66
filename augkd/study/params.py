"""params.yaml as typed values, without torch but for what says so, and the choice of a budget."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from augkd.errors import UserError, replacing
from augkd.options import Optimiser, Training
from augkd.study.pipeline import stage as stages

T = TypeVar("T")
STAGE = stages.STAGE
Scale = Literal[2, 3, 4]
Positive = Annotated[int, Field(gt=0)]
Degradation = Literal["bicubic", "bsrgan"]
Stage = Literal["teach", "distil"]
# how pandas reads a table in which 007 and NA are names
NAMES: dict[str, Any] = {"dtype": {"dataset": str, "image": str}, "keep_default_na": False}
NAMES["na_values"] = {"value": [""]}
_LINE = re.compile(r"^(budget:[ \t]*\*)([\w.-]+)", re.MULTILINE)  # of the chosen budget


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    benchmarks: Path
    edges: Literal["replicate", "symmetric"] = "replicate"
    registry: Path = Path("augkd/study/acquire/registry.yaml")  # of datasets and checkpoints
    mirror: Path | None = None  # a folder that holds its files: taken first


class Augment(Section):
    probability: Annotated[float, Field(ge=0, le=1)] = 0.3
    crops: Positive = 1


class TeacherSource(Section):  # where a cohort's frozen teacher comes from
    trained: str | None = None  # an entry of `teachers`
    student: str | None = None  # or a cohort, of which `method` is the teacher (first seed)
    method: str | None = None


class Start(Section):  # whose weights a cohort's students start from
    cohort: str
    method: str | None = None  # null: each from the student of its own method


class Cohort(Section):
    network: str
    scale: Scale
    student: str
    teacher: TeacherSource
    start: Start | None = None
    methods: dict[str, dict[str, Any]]
    apart: bool = False  # each seed of the budget's ``central`` is trained in a stage of its own
    at: dict[str, dict[str, Any]] = {}  # by budget: what is another than its distil says
    bits: tuple[int, ...] = ()  # students are quantised to so many, each method to each
    degradation: Degradation = "bicubic"  # what made its LR images, in training and in test
    trend: Literal["width", "images"] | None = None  # whose page compares it with others
    training_images: Positive | None = None  # so many photographs, spread evenly; null: all
    expanded: bool = False  # also on the datasets that the budget's images name under expanded
    longer: Positive = 1  # times the budget's steps

    def method(self, name: str, where: str = "cohort") -> Any:
        """The method named ``name`` with its options, ready to be called. Needs torch."""
        from augkd.distill import METHODS

        options, where = dict(self.methods[name]), f"{where}.methods.{name}"
        kind = lookup(METHODS, options.pop("method", name), f"{where}: method")
        return valid(kind, options, where)

    def variants(self) -> dict[str, tuple[str, int | None]]:
        """Its students by name, seeds apart: the method of each, and its bits if quantised."""
        every = [(method, bits) for bits in self.bits or (None,) for method in self.methods]
        return {f"{method}_{bits}bit" if bits else method: (method, bits) for method, bits in every}


class TeacherEntry(Section):  # by a door that params.yaml lists; files are relative to the study
    scale: Scale
    network: str | None = None
    start: str | None = None
    degradation: Degradation = "bicubic"
    expanded: bool = False  # as for a cohort
    weights: Path | None = None
    spandrel: Path | None = None
    factory: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None

    @property
    def trained(self) -> bool:
        """Whether it is trained here."""
        return bool(self.network and not self.weights)

    @property
    def file(self) -> Path | None:
        """Where its weights come from, if it is not trained here."""
        return self.spandrel or self.weights

    def spec(self, file: Path | None) -> dict[str, Any]:
        """What ``augkd.models.foreign.load_teacher`` takes, with the weights in ``file``."""
        given = {"factory": self.factory, "spandrel" if self.spandrel else "weights": file}
        return {door: value for door, value in given.items() if value}


class Datasets(Section):  # of the registry, by what they are for
    train: tuple[str, ...]
    expanded: tuple[str, ...] = ()  # beside those of train, where a cohort is expanded
    watch: tuple[str, ...]  # for the curves of validation; never scored
    test: tuple[str, ...]
    real: tuple[str, ...] = ()  # tests of students for real degradations, and of no others

    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(name for _, names in self for name in names))


class Images(Section):  # how many listed photographs are used, null is all; or datasets instead
    train: Positive | None = None
    test: Positive | None = None
    datasets: Datasets | None = None


class Scoring(Section):
    train_images: Positive
    train_crop: Annotated[int, Field(ge=8)]  # side of the centre crop, LR pixels; 8: SSIM's at x2
    ensemble_images: Positive | None = None  # of each test set, for teachers (Table 12); None: all


class Budget(Section):
    name: str
    about: str
    backbones: list[str]  # whose cohorts at x2, x3 and x4 are trained
    mixed: list[str]  # the budget's name where the cohorts are that need several of them, or []
    slow_pages: list[str]  # likewise where the pages are made that time, and Figure 7
    students: list[str]  # likewise where cohorts beside the central one are trained
    reported: list[str]  # likewise where the central one is, and a report made
    teaching: list[str]  # likewise where the backbones' teachers are trained or shipped ones taken
    scales: list[Literal[2, 3]]  # of them, beside x4
    x4: list[str]  # likewise where those for x4 are
    central: list[int]  # seeds of cohorts whose seeds are trained apart
    only: list[str] = []  # methods of cohorts that are apart; none: all
    trends: list[Literal["length", "width", "images"]]  # pages of trends
    trend_cohorts: list[str]  # what they need beyond the central cohort
    real_teacher: list[str]  # likewise where that for real degradations is
    public: list[str]  # likewise where they are public checkpoints, and images are fetched
    origin: Path  # of the images: a list of photographs, or the folder of what is fetched
    images: Images
    checkpoints: dict[str, str] = {}  # teachers that are checkpoints of the registry
    shipped: Path | None = None  # the folder of teachers that come with the study, to be taken
    methods: dict[str, dict[str, Any]]  # options of methods, beside those of the cohorts
    networks: dict[str, dict[str, dict[str, Any]]]  # sizes by role, where not Table 1's
    teach: Training
    distil: Training
    schedules: dict[str, dict[Stage, dict[str, Any]]]  # what is another for a network
    score: Scoring
    zoomed: int = 0  # least side of a zoomed-out patch, LR pixels; patches are larger for it
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

    def only_shows(self, notebook: str, entry: str = "") -> bool:
        """Whether a notebook was opened by hand, to show what its stage made: it is there then."""
        stages.need(self, notebook, entry)
        return self.by_hand

    def folder(self, stage: str, name: str = "") -> Path:
        """runs/BUDGET/STAGE/NAME; of one seed of a cohort (central_x2-1) within the cohort's."""
        return self.root / "runs" / self.budget.name / stage / name.replace("-", "/")

    def page(self, name: str) -> Path:
        """Where the page ``name`` writes its files."""
        place = "build/by_hand" if self.by_hand else "runs"
        return self.root / place / self.budget.name / "pages" / name

    def scores(self, cohort: str) -> Path:
        """The file of the cohort's scores."""
        return self.folder("score", self.group(cohort)) / "scores" / f"{cohort}.csv"

    def cohort(self, name: str) -> Cohort:
        """A cohort, or that of one of its seeds, with the options that the budget adds."""
        cohort = lookup(self.params.cohorts, name.partition("-")[0], "cohort")
        more = self.budget.methods
        only = self.budget.only if cohort.apart else ()
        own = cohort.methods.items()
        methods = {m: more.get(m, {}) | options for m, options in own if not only or m in only}
        return cohort.model_copy(update={"methods": methods})

    def teacher(self, name: str) -> TeacherEntry:
        """A teacher; one that the budget takes from elsewhere has the weights that it took."""
        entry = lookup(self.params.teachers, name, "teacher")
        file = self.folder("teach", name) / "teacher.safetensors"
        if self.budget.shipped:
            file = self.budget.shipped / f"{name}.safetensors"
        elif name not in self.budget.checkpoints:
            return entry
        return entry.model_copy(update={"weights": file, "start": None})

    def training_set(self, of: Cohort | TeacherEntry) -> tuple[tuple[str, ...] | None, int | None]:
        """The datasets that it is trained on, and how many of their images; None is all."""
        if not (datasets := self.budget.images.datasets):
            return None, of.training_images if isinstance(of, Cohort) else None
        return datasets.train + (datasets.expanded if of.expanded else ()), None

    def trained(self, *cohorts: str) -> tuple[str, ...]:
        """Of the named cohorts, or of all, those that the budget trains."""
        return tuple(c for c in cohorts or self.params.cohorts if self.group(c) in self.groups())

    def groups(self) -> tuple[str, ...]:
        """The groups of cohorts that the budget trains: see ``group``."""
        budget = self.budget
        wide = [*budget.backbones, "extras"] if budget.students else []
        deep = ["central", *budget.trend_cohorts] if budget.reported else []
        return (*wide, *deep, *(["mixed"] if budget.mixed else []))

    def group(self, cohort: str) -> str:
        """With which it is scored: those of its network, the extras of EDSR, or mixed ones; those
        of a trend by themselves."""
        own = self.cohort(cohort)
        if own.apart or own.trend:
            return cohort if own.trend else "central"
        network = own.network
        main = (f"{network}_x{scale}" for scale in (2, 3, 4))
        return network if cohort in main else "extras" if network == "edsr" else "mixed"

    def schedule(self, of: Cohort | TeacherEntry) -> Training:
        """How long and how fast a cohort or a teacher is trained."""
        stage: Stage = "distil" if isinstance(of, Cohort) else "teach"
        training: Training = getattr(self.budget, stage)
        name, schedules = self.budget.name, self.budget.schedules.get(of.network or "", {})
        own = {f"budgets.{name}.schedules.{of.network}.{stage}": schedules.get(stage)}
        own[f"cohorts: at.{name}"] = getattr(of, "at", {}).get(name)
        for where, values in own.items():
            training = valid(Training, asdict(training) | values, where) if values else training
        zoomed = of.scale * self.budget.zoomed if stage == "distil" else 0
        training = replace(training, patch=max(training.patch, zoomed))
        return training.longer((training.continued if of.start else 1) * getattr(of, "longer", 1))

    def seeds(self, cohort: str) -> int:
        """How many students a method of the cohort has."""
        return len(self.seeds_of(cohort.partition("-")[0]))

    def parts(self, cohort: str) -> list[str]:
        """The trainings of a cohort: itself, or each of its seeds."""
        seeds = self.budget.central if self.cohort(cohort).apart else ()
        return [f"{cohort}-{seed}" for seed in seeds] or [cohort]

    def seeds_of(self, training: str) -> Sequence[int]:
        """The seeds of a cohort, or the one that its name ends with: central_x2-1."""
        cohort, _, seed = training.partition("-")
        if seed:
            return [int(seed)]
        of = self.cohort(cohort)
        return self.budget.central if of.apart else range(self.schedule(of).seeds)

    def size(self, network: str, role: str) -> dict[str, Any]:
        """All sizes of a network in a role: the budget's, else Table 1's (of other roles, those of
        the student). Needs torch."""
        from augkd.models import SIZES

        own = lookup(self.budget.networks[network], role, f"networks.{network}:")
        published = SIZES.get(network, {})
        return published.get(role, published.get("student", {})) | own


def open_study(budget: str = "", *, check_methods: bool = True) -> Study:
    """The study as a notebook sees it: run as a stage at ``budget``, or opened by hand."""
    study = load_study(budget, check_methods=check_methods)
    return replace(study, by_hand=STAGE not in os.environ)


def load_study(
    budget: str | None = None, root: Path | None = None, *, check_methods: bool = True
) -> Study:
    """The study that lies in ``root``, or round the working directory, at a budget.

    Without its name params.yaml chooses. To check methods and their options too needs torch.
    """
    root = root or find_root()
    params = valid(Params, read_params(root / "params.yaml")[1])
    for problem in _problems(params, check_methods):
        raise UserError(f"params.yaml: {problem}")
    return Study(params, lookup(params.budgets, budget or params.budget.name, "budget"), root)


def _problems(params: Params, check_methods: bool) -> Iterator[str]:
    """What types do not say, as "key: what is wrong: the mend"; the first is refused."""
    networks = dict.fromkeys(name for budget in params.budgets.values() for name in budget.networks)
    for name, entry in params.teachers.items():
        where, doors = f"teachers.{name}", ("network", "spandrel", "factory")
        given = [door for door in doors if getattr(entry, door)]
        if len(given) > 1 or not (given or entry.weights):
            both = " and ".join(given) or "nothing"
            yield f"{where}: {both} is given: give one of {', '.join(doors)}, or weights alone"
        if entry.spandrel and entry.weights:
            yield f"{where}.weights: spandrel names the file already: remove one of them"
        if entry.start and not entry.trained:
            yield f"{where}.start: only a teacher that is trained here has one: remove it"
        lookup(params.teachers, entry.start or name, f"{where}.start")
        if entry.network:
            lookup(networks, entry.network, f"{where}.network:")
    for name, cohort in params.cohorts.items():
        where, source = f"cohorts.{name}", cohort.teacher
        if source.trained:
            scale = lookup(params.teachers, source.trained, f"{where}.teacher.trained").scale
            if scale != cohort.scale:
                both = f"{source.trained} enlarges x{scale}, the students x{cohort.scale}"
                yield f"{where}.teacher: {both}: choose a teacher of their scale"
        elif source.student and source.method:
            taught = lookup(params.cohorts, source.student, f"{where}.teacher.student")
            lookup(taught.methods, source.method, f"{where}.teacher.method")
        else:
            yield f"{where}.teacher: give trained: NAME, or student: COHORT and method: NAME"
        for key in cohort.at:
            lookup(params.budgets, key, f"{where}.at: budget")
        lookup(networks, cohort.network, f"{where}.network:")
        for method in cohort.methods if check_methods else ():
            cohort.method(method, where)
    for name, budget in params.budgets.items():
        where, study = f"budgets.{name}", Study(params, budget, Path())
        public, datasets = bool(budget.public), bool(budget.images.datasets)
        for key in ("mixed", "slow_pages", "students", "teaching", "real_teacher", "public"):
            if getattr(budget, key) not in ([], [name]):
                yield f"{where}.{key}: give [{name}], or [] for none"
        if {public, datasets} != {not budget.teaching}:
            yield f"{where}: give either teaching as [{name}], or public and images.datasets"
        names = {f"{n}_x{scale}" for n in budget.backbones for scale in (2, 3, 4) if public}
        for odd in sorted(budget.checkpoints.keys() ^ names):
            yield f"{where}.checkpoints: {odd}: give one for each backbone and scale, if public"
        for key in ("backbones", "schedules"):
            for network in getattr(budget, key):
                lookup(budget.networks, network, f"{where}.{key}:")
        for key in budget.trend_cohorts:
            if not lookup(params.cohorts, key, f"{where}.trend_cohorts:").trend:
                yield f"{where}.trend_cohorts: {key} is of no trend: name cohorts that have one"
        known = {method for cohort in params.cohorts.values() for method in cohort.methods}
        for odd in {*budget.only, *budget.methods} - known:
            yield f"{where}: no cohort has '{odd}': correct its name"
        for entry in params.teachers.values():
            study.schedule(entry)
        for key, cohort in ((key, study.cohort(key)) for key in params.cohorts):
            study.schedule(cohort)
            of = cohort.start.cohort if cohort.start else key
            if (wanted := study.seeds(key)) > (has := study.seeds(of)):
                both = f"{wanted} at budget {name}, but {of}, from which it starts, has {has}"
                yield f"cohorts.{key}.at.{name}.seeds: {both}: give it as many there"
            if key in study.trained():
                roles = budget.networks.get(cohort.network, {})
                lookup(roles, cohort.student, f"cohorts.{key}.student: at budget {name}")
            for method in budget.methods.keys() & cohort.methods.keys() if check_methods else ():
                cohort.method(method, where)


def lookup(table: Mapping[str, T], name: str, what: str, file: object = "params.yaml") -> T:
    """The entry of a name that must be known."""
    if name not in [*table]:  # where a name is no text too
        known = ", ".join(map(str, table))
        raise UserError(f"{file}: {what} '{name}' is unknown: choose one of {known}")
    return table[name]


def valid(kind: type[T], values: Any, where: str = "", file: object = "params.yaml") -> T:
    """Typed values; the first of pydantic's complaints as a line: key, what is wrong, the mend."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        detail = error.errors()[0]
        place, text = [where, *detail["loc"]], "correct the value"
        if detail["type"] == "missing":
            text = "missing: add it"
        elif detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            text = "unknown key: remove it or correct its name"
        elif detail["type"] == "value_error":  # a check of ours: "field: expected ..., not ..."
            place.append(detail["ctx"]["error"])
        else:
            text = f"{detail['msg']}, not {detail['input']!r:.80}: {text}"
        key = ".".join(map(str, place)).strip(".") or "the file"
        raise UserError(f"{file}: {key}: {text}") from None


def find_root() -> Path:
    """The nearest folder upwards that has a params.yaml."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise UserError(f"{here}: no params.yaml here or above: run this in a clone of the study")


def read_params(path: Path) -> tuple[str, Any]:
    """The text of a params.yaml, and what it says: unchecked, any YAML. UserError if it is none."""
    try:
        text = path.read_bytes().decode()
        # libyaml's loader is ten times as fast, and every stage and page waits for it
        return text, yaml.load(text, yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}): restore the file") from None
    except Exception as error:  # of dates and numbers that are none PyYAML raises any kind
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        problem = str(problem).partition("\n")[0]
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not YAML{line} ({problem}): mend the YAML there") from None


def budgets(path: Path, switch_to: str | None = None) -> tuple[str, list[str]]:
    """The chosen budget's name, before one word is rewritten to choose another, and all names.
    UserError: one is not there, or benchmarks are behind links, where DVC does not look."""
    text, values = read_params(path)
    chosen, known = _LINE.findall(text), values.get("budgets") if isinstance(values, dict) else None
    if len(chosen) != 1 or not isinstance(known, dict):
        raise UserError(f"{path}: has no 'budgets' or no 'budget: *NAME': expected one of each")
    data = values.get("data")
    benchmarks = data.get("benchmarks") if isinstance(data, dict) else None
    folders = [path.parent / benchmarks] if isinstance(benchmarks, str) else []
    depths = "*", "*/*", "*/*/*"  # of a set's folders: below may lie a whole disk
    for found in (file for folder in folders for depth in depths for file in folder.glob(depth)):
        if found.is_symlink() and found.is_dir():
            mend = "copy the folder, or let data.benchmarks name the one it is in"
            raise UserError(f"{found}: is a link, and DVC does not see what is behind it: {mend}")
    if (name := switch_to) is not None:
        lookup(known, name, "budget")
        if (anchor := f"{name}: &{name}") not in text:
            raise UserError(f"{path}: budgets.{name} needs an anchor of its name: write '{anchor}'")
        with replacing(path) as partial:
            partial.write_bytes(_LINE.sub(rf"\g<1>{name}", text).encode())
    return chosen[0][1], list(known)
