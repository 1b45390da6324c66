"""The cohort's two laws, bit for bit, and what its loop asks of methods and of resume states."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from augkd.augment import Invertible
from augkd.data.sampler import Batch, PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.distill import METHODS, Teacher
from augkd.errors import UserError
from augkd.models import SRNetwork, create_model
from augkd.options import Optimiser, Training
from augkd.study.params import load_study
from augkd.study.prepare import degrade
from augkd.study.runs import distil, student_path, teach
from augkd.train import Curves, Member, finish, precision, single_core, train

EDSR: tuple[str, dict[str, Any]] = ("edsr", {"channels": 4, "blocks": 1, "res_scale": 1.0})
SWINIR = {"embed_dim": 4, "depths": (2,), "num_heads": (2,), "window_size": 4, "mlp_ratio": 2}
DROPPING = ("swinir", {**SWINIR, "drop_path": 0.5})
STEPS = 6
OPTIMISER, CPU = Optimiser(), torch.device("cpu")

# name: network and its sizes, method and its options
STUDENTS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "scratch": (*EDSR, "scratch", {}),
    "augkd": (*EDSR, "augkd", {}),
    "twice": (*EDSR, "augkd", {"updates": 2}),
    "fitnet": (*EDSR, "fitnet", {}),
    "csd": (*EDSR, "csd", {}),
    "dropping": (*DROPPING, "kd", {}),
    "dropping_too": (*DROPPING, "augkd", {}),
}
Outcome = tuple[dict[str, dict[str, Tensor]], Curves]


def training(**changes: Any) -> Training:
    values = {"steps": STEPS, "batch": 2, "patch": 12, "lr": 1e-2, "decay_every": 4, "seeds": 1}
    return Training(**{**values, "ema": 0.0, "validate_every": 2, **changes})


def network(name: str, seed: int = 0, **sizes: Any) -> SRNetwork:
    torch.manual_seed(seed)
    return create_model(name, scale=2, **sizes)


def teacher_network() -> SRNetwork:
    return network("edsr", 9, channels=6, blocks=1, res_scale=1.0)


def member(name: str, plan: Training, method: Any = None) -> Member:
    kind, sizes, entry, options = STUDENTS[name] if name in STUDENTS else STUDENTS["scratch"]
    method, teacher = method or METHODS[entry](**options), teacher_network()
    seed = [*STUDENTS].index(name) % 2 if name in STUDENTS else 0
    return Member(name, network(kind, **sizes), method, teacher, OPTIMISER, plan, CPU, seed)


def photographs(dataset: str, count: int, side: int) -> Iterator[Prepared]:
    generator = torch.Generator().manual_seed(count)
    for i in range(count):
        shape = (3, side + 12 * i, side + 12)
        hr = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        lr = {scale: degrade(hr, scale, "replicate") for scale in (2, 3, 4)}
        yield Prepared(dataset, f"image{i}", hr, lr, "bicubic")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("prepared") / "train"
    write_store(folder, photographs("train", 3, 36))
    return ImageStore(folder)


def sampler(store: ImageStore, seed: int = 5) -> PatchSampler:
    return PatchSampler(store, scale=2, patch=12, batch=2, seed=seed)


def value_of(student: SRNetwork) -> float:
    with torch.no_grad():
        return float(student(torch.linspace(0, 1, 300).view(1, 3, 10, 10)).sum())


def learn(one: Member, plan: Training, store: ImageStore, state: Path, **options: Any) -> None:
    train([one], None, sampler(store), plan, OPTIMISER, state=state, **options)


def cohort(
    store: ImageStore, state: Path, names: Sequence[str], plan: Training, **options: Any
) -> Outcome:
    """Trains; the students' weights by name, and the curves."""
    members, teacher = [member(name, plan) for name in names], Teacher(teacher_network())
    options |= {"state": state, "validate": value_of}
    before = torch.get_rng_state()
    curves = train(members, teacher, sampler(store), plan, OPTIMISER, **options)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    return {m.name: m.result().state_dict() for m in members}, curves


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


# --- the first law ---


PRECISIONS = {0.0: "bfloat16", 0.9: "float32"}  # by the average's decay: any device computes both


@pytest.mark.parametrize("ema", PRECISIONS)
def test_a_student_does_not_depend_on_its_cohort(
    store: ImageStore, tmp_path: Path, ema: float
) -> None:
    plan, names = training(ema=ema, precision=PRECISIONS[ema]), tuple(STUDENTS)
    together, curves = cohort(store, tmp_path / "all", names, plan)
    backwards, _ = cohort(store, tmp_path / "back", names[::-1], plan)
    for name in names:
        alone, own = cohort(store, tmp_path / name, (name,), plan)
        assert_same(alone[name], together[name])
        assert_same(alone[name], backwards[name])
        assert own.loss == [row for row in curves.loss if row["member"] == name]
        assert own.psnr == [row for row in curves.psnr if row["member"] == name]
    # the students did move, and drop-path was drawn for each apart
    for name in names:
        kind, sizes, *_ = STUDENTS[name]
        fresh = network(kind, **sizes).state_dict()
        assert any(not torch.equal(fresh[k], v) for k, v in together[name].items())


@pytest.mark.parametrize(
    ("chosen", "device", "able", "expected"),
    [
        ("auto", "cpu", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", "cpu", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ("auto", "cpu", {"avx512_bf16": False}, torch.float32),
        ("auto", "cpu", {}, torch.float32),
        ("float32", "cpu", {"avx512_bf16": True}, torch.float32),
        ("bfloat16", "cpu", {}, torch.bfloat16),
        ("auto", "meta", {"avx512_bf16": True}, torch.float32),
    ],
)
def test_precision_is_the_devices(
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    device: str,
    able: dict[str, bool],
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr("augkd.train.torch.cpu.get_capabilities", lambda: able)
    assert precision(training(precision=chosen), torch.device(device)) == expected


def test_precision_is_of_activations_alone(store: ImageStore, tmp_path: Path) -> None:
    """Weights and their averages stay float32; activations are not what they were."""
    made = {}
    for one in ("float32", "bfloat16"):
        made[one], _ = cohort(store, tmp_path / one, ["scratch"], training(precision=one))
    for key, value in made["float32"]["scratch"].items():
        assert made["bfloat16"]["scratch"][key].dtype == value.dtype == torch.float32
    pairs = zip(*(made[one]["scratch"].values() for one in made), strict=True)
    apart = max((one - other).abs().max().item() for one, other in pairs)
    assert 0 < apart < 0.1


# --- the second law ---


class Killed(Exception):
    pass


def killer(at: int) -> Callable[[int], None]:
    def after_step(done: int) -> None:
        if done == at:
            raise Killed

    return after_step


@pytest.fixture(scope="module")
def unkilled(store: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Outcome]:
    folder = tmp_path_factory.mktemp("unkilled")
    plans = {ema: training(ema=ema, precision=one) for ema, one in PRECISIONS.items()}
    return {e: cohort(store, folder / str(e), [*STUDENTS], plan) for e, plan in plans.items()}


ONCE = [(0.0, [1]), (0.0, [3]), (0.9, [4]), (0.9, [STEPS])]
KILLS = [(*case, every) for every in (0.0, 2.5) for case in ONCE]  # states of all steps, of some


@pytest.mark.parametrize(("ema", "kills", "every"), [*KILLS, (0.0, range(1, STEPS + 1), 0.0)])
def test_a_killed_run_ends_as_one_never_killed(
    store: ImageStore,
    tmp_path: Path,
    unkilled: dict[float, Outcome],
    monkeypatch: pytest.MonkeyPatch,
    ema: float,
    kills: Sequence[int],
    every: float,
) -> None:
    seconds = itertools.count()  # a clock that ticks each time it is read
    monkeypatch.setattr("augkd.train.time.monotonic", lambda: float(next(seconds)))
    plan, names = training(ema=ema, precision=PRECISIONS[ema]), tuple(STUDENTS)
    for at in kills:
        with pytest.raises(Killed):
            cohort(store, tmp_path, names, plan, save_every=every, after_step=killer(at))
        saved = (tmp_path / "state.pt").is_file()
        assert saved == (not every or at > every)
    began: list[int] = []
    weights, curves = cohort(store, tmp_path, names, plan, after_step=began.append)
    assert began[:1] != [1] or not saved  # it went on, not anew
    expected, seen = unkilled[ema]
    for name in names:
        assert_same(weights[name], expected[name])
    assert curves == seen
    finish(tmp_path)
    assert not tmp_path.exists()


def test_a_training_has_one_core_and_gives_the_others_back(
    store: ImageStore, tmp_path: Path
) -> None:
    cores, seen = torch.get_num_threads(), []

    def after(done: int) -> None:
        seen.append(torch.get_num_threads())
        if done == 2:
            raise Killed

    torch.set_num_threads(3)
    try:
        with pytest.raises(Killed):
            cohort(store, tmp_path, ("scratch",), training(), after_step=after)
        with single_core(torch.device("cuda")):
            seen.append(torch.get_num_threads())
        assert (seen, torch.get_num_threads()) == ([1, 1, 3], 3)
    finally:
        torch.set_num_threads(cores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number, at least 1, not 0"),
        ({"batch": 1.5}, "batch: expected a whole number"),
        ({"lr": 0.0}, "lr: expected a number above 0, not 0"),
        ({"ema": 1.0}, "ema: expected a number from 0 to less than 1, not 1"),
        ({"continued": 0.0}, "continued: expected a number above 0, at most 1, not 0"),
    ],
)
def test_a_schedule_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**changes)
    with pytest.raises(ValueError, match="betas: expected a number from 0 to 1, not"):
        Optimiser(betas=(0.9, 2.0))


def test_a_longer_schedule_is_the_same_stretched() -> None:
    plan = training(steps=6, decay_every=4)
    for times, steps, every in ((0.1, 1, 1), (1.5, 9, 6)):
        assert plan.longer(times) == replace(plan, steps=steps, decay_every=every)


# --- what a resume state is of ---


PARAMS = Path(__file__).parent.parent / "params.yaml"


def small_study(root: Path) -> Path:
    """A root with params.yaml and prepared images, of which two small teachers can be taught."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PARAMS, root / "params.yaml")
    (root / "dvc.yaml").touch()
    prepared = root / "runs" / "smoke" / "prepare"
    write_store(prepared / "train", photographs("train", 2, 96))
    write_store(prepared / "test", photographs("photographs", 1, 48))
    return root


def distil_smoke(root: Path, **options: Any) -> None:
    """Distils, with options of ``train``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augkd.study.runs.train", partial(train, **options))
        distil(load_study("smoke", root), "edsr_x2")


def test_a_killed_stage_goes_on_and_forgets_its_state(tmp_path: Path) -> None:
    root = small_study(tmp_path / "killed")
    teach(load_study("smoke", root), "edsr_x2")
    shutil.copytree(root, tmp_path / "whole")
    with pytest.raises(Killed):
        distil_smoke(root, save_every=0, after_step=killer(3))
    assert not (root / "runs" / "smoke" / "distil" / "edsr_x2" / "students").exists()
    assert len(list((root / ".state").iterdir())) == 1
    steps: list[int] = []
    distil_smoke(root, after_step=steps.append)
    assert steps[0] == 4
    assert not list((root / ".state").iterdir())
    distil_smoke(tmp_path / "whole")
    for folder in ("students", "curves"):
        out = root / "runs" / "smoke" / "distil" / "edsr_x2" / folder
        assert len(list(out.iterdir())) == (20 if folder == "students" else 4)
        for file in out.iterdir():
            same = tmp_path / "whole" / file.relative_to(root)
            assert file.read_bytes() == same.read_bytes(), file.name


def test_a_seed_by_itself_is_what_it_is_among_others(tmp_path: Path) -> None:
    """The central cohort's seeds are stages; another seed changes nothing of one."""
    root = small_study(tmp_path)
    text = (root / "params.yaml").read_text()
    together = text.replace("    apart: true\n", "", 1)
    teach(load_study("smoke", root), "edsr_x2")
    for training in ("central_x2-0", "central_x2-1"):
        distil(load_study("smoke", root), training)
    (root / "params.yaml").write_text(together)
    study = load_study("smoke", root)
    distil(study, "central_x2")
    for student in study.cohort("central_x2").variants():
        for seed in range(2):
            whole = student_path(study, "central_x2", student, seed)
            apart = study.folder("distil", f"central_x2-{seed}") / "students" / whole.name
            assert apart != whole
            assert apart.read_bytes() == whole.read_bytes()


def test_other_options_never_resume_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_study(tmp_path)
    params = root / "params.yaml"
    original = params.read_text()
    teacher = root / "runs" / "smoke" / "teach" / "edsr_x2" / "teacher.safetensors"
    states: list[Path] = []

    def record(*_: Any, state: Path, **__: Any) -> Curves:
        states.append(state)
        raise Killed

    def learn(old: str = "", new: str = "") -> Path:
        assert old in original
        params.write_text(original.replace(old, new, 1))
        with pytest.raises(Killed):
            distil(load_study("smoke", root), "edsr_x2")
        return states[-1]

    teach(load_study("smoke", root), "edsr_x2")
    monkeypatch.setattr("augkd.study.runs.train", record)
    first = learn()
    assert learn() == first
    # of the smoke budget's distil line, which comes second
    line = next(part for part in original.splitlines() if part.startswith("    distil: "))
    seen = {first}
    for old, new in (
        (line, line.replace("lr: 2.0e-3", "lr: 3.0e-3")),
        (line, line.replace("ema: 0.0", "ema: 0.9")),
        (line, line.replace("steps: 4", "steps: 5")),
        ("      augkd: {}", "      augkd: {kd: 0.3}"),
        ("      dfkd: {}\n", ""),
        ("seed: 10", "seed: 11"),
        ("probability: 0.3", "probability: 0.4"),
        ("student: {channels: 4,", "student: {channels: 5,"),
    ):
        state = learn(old, new)
        assert state not in seen, new
        seen.add(state)
    content = bytearray(teacher.read_bytes())
    content[-1] ^= 1  # the last bit of a weight
    teacher.write_bytes(content)
    state = learn()
    monkeypatch.setattr("augkd.study.record.code_hash", lambda: "other sources")
    assert len(seen | {state, learn()}) == len(seen) + 2


# --- what a method may be ---


def halves(student: SRNetwork, _: Any, batch: Batch) -> Iterator[dict[str, Tensor]]:
    yield {"first": (student(batch.lr) - batch.hr).abs().mean()}
    yield {"second": student(batch.zoom_in).square().mean()}


def test_groups_of_terms_are_steps_on_gradients_that_add_up(
    store: ImageStore, tmp_path: Path
) -> None:
    plan = training(steps=2, precision="float32")
    trained = member("halves", plan, halves)
    learn(trained, plan, store, tmp_path)

    student = network("edsr", **EDSR[1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rates = plan.lr, OPTIMISER.betas, OPTIMISER.eps
    adam = torch.optim.Adam(student.parameters(), *rates, fused=True)
    with single_core(CPU):
        for step in range(2):
            batch = sampler(store).draw(step)
            adam.zero_grad()
            for terms in halves(student, None, batch):
                for value in terms.values():
                    value.backward()  # type: ignore[no-untyped-call]
                adam.step()
    assert_same(trained.network.state_dict(), student.state_dict())


class Sibling(nn.Module):
    """Trains a network of its own, which ``sync`` copies into the student."""

    trains_student = False

    def __init__(self, student: SRNetwork) -> None:
        super().__init__()
        self.own = network("edsr", 4, channels=student.channels, blocks=1, res_scale=1.0)

    def bind(self, student: SRNetwork, teacher: nn.Module) -> "Sibling":
        return self

    def forward(self, student: SRNetwork, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        return {"rec": (self.own(batch.lr) - batch.hr).abs().mean()}

    def sync(self, student: SRNetwork) -> None:
        student.load_state_dict(self.own.state_dict())


@pytest.mark.parametrize(("ema", "decays"), [(0.0, [0, 0, 0]), (0.2, [1 / 10, 2 / 11, 0.2])])
def test_sync_makes_the_student_and_averages_begin_short(
    store: ImageStore, tmp_path: Path, ema: float, decays: list[float]
) -> None:
    plan = training(steps=3, ema=ema)
    sibling = Sibling(network("edsr", **EDSR[1]))
    trained = member("sibling", plan, sibling)
    mean = [p.detach().clone() for p in trained.network.parameters()]

    def after(done: int) -> None:
        own, decay = [p.detach() for p in sibling.own.parameters()], decays[done - 1]
        mean[:] = [decay * m + (1 - decay) * w for m, w in zip(mean, own, strict=True)]

    learn(trained, plan, store, tmp_path, after_step=after)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if ema else {"rtol": 0, "atol": 0}
    for a, b in zip(trained.result().parameters(), mean, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def broken(value: float, student: SRNetwork, _: Any, batch: Batch) -> dict[str, Tensor]:
    return {"rec": student(batch.lr).mean() * value}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (partial(broken, float("nan")), "ill-0: the loss is not finite at step 1: lower the"),
        (partial(broken, float("inf")), "ill-0: the loss is not finite at step 1: lower the"),
        (METHODS["scratch"](rec=0.0), "ill-0: every weight of its loss is 0"),
    ],
)
def test_a_loss_that_is_not_finite_or_has_no_terms_stops(
    store: ImageStore, tmp_path: Path, method: Any, message: str
) -> None:
    plan = training()
    with pytest.raises(UserError, match=message) as caught:
        learn(member("ill-0", plan, method), plan, store, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "state.pt").exists()  # nothing to resume the broken weights from


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_student_that_fails_stops_alone_and_can_be_replayed(
    store: ImageStore, tmp_path: Path, where: str
) -> None:
    plan, calls = training(), []

    def ill(student: SRNetwork, _: Any, batch: Batch) -> dict[str, Tensor]:
        calls.append(batch)
        sr = student(batch.lr)
        if len(calls) > 3:  # infinite, or 0 with a gradient that is not a number
            sr = sr / 0 if where == "loss" else (sr - sr.detach()).abs().sqrt()
        return {"rec": sr.mean()}

    def run() -> Curves:
        both = [member("ill-0", plan, ill), member("scratch", plan)]
        curves = train(both, None, sampler(store), plan, OPTIMISER, state=tmp_path / "both")
        assert_same(alone.result().state_dict(), both[1].result().state_dict())
        return curves

    alone = member("scratch", plan)
    learn(alone, plan, store, tmp_path / "alone")
    curves = run()
    assert curves.stopped == {"ill-0": 3}
    assert len(calls) == 4
    assert max(row["step"] for row in curves.loss if row["member"] == "ill-0") == 3
    kept = torch.load(tmp_path / "both" / "stopped" / "ill-0.pt", weights_only=True)
    again = member("ill-0", plan, ill)
    again.load_state(kept["member"])
    assert all(p.isfinite().all() for p in again.network.parameters())
    given = kept["batch"] | {"transform": Invertible(kept["batch"]["transform"])}
    assert not again.update(Batch(**given), None, kept["rate"], kept["step"])
    assert torch.equal(calls[-1].lr, calls[-2].lr)
    assert run().stopped == curves.stopped
    assert len(calls) == 5


def test_the_rate_decays_by_step(store: ImageStore, tmp_path: Path) -> None:
    plan, rates = training(), []
    one = member("scratch", plan)
    rate = lambda _: rates.append(one.optimiser.param_groups[0]["lr"])  # noqa: E731
    learn(one, plan, store, tmp_path, after_step=rate)
    assert rates == pytest.approx([1e-2] * 4 + [1e-3] * 2)
