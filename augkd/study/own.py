"""Distil your own, with any teacher on any images: ``augkd distil``, notebooks/your_own.ipynb.

What is asked for becomes a study of one cohort (own.yaml.j2), which runs as any other. Its folder
holds own.json (what was asked for), images, teacher, students, curves, run.json and the report.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
import yaml
from jinja2 import Environment, PackageLoader, select_autoescape
from torch import Tensor
from tqdm import tqdm

from augkd.data.images import list_images, read_image
from augkd.data.store import ImageStore, Prepared, evenly, write_store
from augkd.errors import UserError, replacing
from augkd.models import NETWORKS
from augkd.models.checkpoint import read_header
from augkd.study.params import Params, Study, valid
from augkd.study.prepare import degrade, photographs
from augkd.study.record import Frames, by_method, plot_curves, read_curves
from augkd.study.report.pictures import compare, show_windows
from augkd.study.report.style import METHOD_NAMES, plain_table
from augkd.study.runs import build, centre, distil, open_network, teach
from augkd.study.score import score_cohort
from augkd.study.watch import states
from augkd.train import Member

WATCHED, WIDE = 20, 64  # test images whose centres are validated, and LR pixels of those
FUNCTION = re.compile(r"[\w.]+:\w+")
Pictures = list[tuple[str, Callable[[], Tensor]]]  # name, and what reads (3, H, W) uint8


@dataclass(frozen=True)
class Wish:
    """What is asked for. Networks and methods are NAME or NAME:key=value,key=value."""

    images: str = ""  # a folder; "": the photographs that the study prepares
    test: str = ""  # a folder; "": one in ten, evenly, from 1 to 20; or the study's, as images
    teacher: str = ""  # a file of weights, or module:function; "": it is trained first
    network: str = ""  # of the teacher, where its file does not say it: or module:function
    student: str = "edsr:channels=16,blocks=4,res_scale=1.0"  # what is not given: Table 1's
    methods: tuple[str, ...] = ("augkd",)  # and scratch, named or not
    scale: int = 2
    steps: int = 3000
    schedule: str = ""  # another batch, patch, lr, seeds, …: see own.yaml.j2


class Own(Study):
    """A study of one cohort, ``own``, in the folder of its run."""

    def folder(self, stage: str, name: str = "") -> Path:
        return self.root / {"prepare": "images", "teach": "teacher"}.get(stage, "")


def open_own(out: Path, wish: Wish) -> Own:
    """The study of a wish in the folder ``out``, its images prepared; or a run to go on with.

    Raises:
        UserError: the wish cannot be met, and nothing was written; or ``out`` holds something else.
    """
    asked, file = asdict(wish) | {"methods": [*wish.methods]}, out / "own.json"
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for key in (key for key in asked if asked[key] != before.get(key)):
            was = f"is another run, with {key} {before.get(key)}, not {asked[key]}"
            raise UserError(f"{out}: {was}: give the same to go on with it, or a new folder")
        return _study(out.resolve(), wish)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out}: is there, and not a run of distil: choose a new folder")
    (train, test), study = _pictures(wish), _study(out.resolve(), wish)
    try:
        _prepare(study, train, test)
        with replacing(file) as part:
            part.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return study


def _study(root: Path, wish: Wish) -> Own:
    """The study of a wish, whose networks and methods have been tried together."""
    methods = {"scratch": dict[str, Any]()}
    for name, options in map(_parse, wish.methods):
        alike = sum(other.get("method") == name for other in methods.values())
        methods[f"{name}_{alike + 1}" if alike else name] = {"method": name, **options}
    (kind, sizes), door = _parse(wish.student), _teacher(wish)
    network, large = _parse(wish.network) if "network" in door else ("", {})
    schedule = _parse(f"schedule:{wish.schedule}")[1]
    facts: dict[str, Any] = {"kind": kind, "sizes": sizes, "methods": methods, "wish": wish}
    facts |= {"teacher": door, "network": network, "large": large, "schedule": schedule}
    try:
        params = valid(Params, yaml.safe_load(TEMPLATES.get_template("own.yaml.j2").render(facts)))
        study, training = Own(params, params.budget, root), params.budget.distil
        if training.patch % wish.scale:
            raise UserError(f"patch: {training.patch} is not divisible by the scale: correct it")
        for key, size in (sizes | large).items():
            numbers = size if isinstance(size, list) else [size]
            if not all(type(n) in (int, float) and (n > 0 or key == "drop_path") for n in numbers):
                raise ValueError(f"{key}={size}")
        entry, cohort = study.teacher("teacher"), study.cohort("own")
        fresh = partial(build, study, scale=wish.scale, seed=0)
        teacher = (
            fresh(network, "teacher") if entry.trained else open_network(study, entry, entry.file)
        )
        common = teacher, params.optimiser, training, torch.device("cpu")
        for label in methods:
            (student := fresh(kind, "student"))(torch.zeros(1, 3, 8, 8))
            Member(label, student, cohort.method(label), *common)
    except UserError as error:  # which speaks of params.yaml
        place = r"^params.yaml: (budget\.(distil|teach)\.|cohorts?\.(own\.)?)?"
        raise UserError(f"distil: {re.sub(place, '', str(error))}") from None
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        said = f"no network has such sizes ({error}): correct them"
        raise UserError(f"distil: {wish.student}, {wish.network}: {said}") from None
    return study


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options, whose values are YAML: augkd:aug=1.0,consistency=[lr]."""
    name, _, rest = text.partition(":")
    with suppress(yaml.YAMLError):
        options: dict[str, Any] = yaml.safe_load("{" + rest.replace("=", ": ") + "}")
        if None not in options.values():
            return name, options
    raise UserError(f"'{text}': expected NAME, or NAME:key=value,key=value")


def _teacher(wish: Wish) -> dict[str, Any]:
    """The teacher's entry of params.yaml, with the door that it comes by."""
    file, name = Path(wish.teacher).absolute(), wish.network.partition(":")[0]
    door: dict[str, Any] = {"scale": wish.scale}
    if not name and FUNCTION.fullmatch(wish.teacher) and not file.exists():
        return door | {"factory": wish.teacher}
    if not wish.teacher + name or (wish.teacher and not file.is_file()):
        raise UserError(f"--teacher '{wish.teacher}': no such file: give the teacher's weights")
    if not name:
        with suppress(UserError):
            if "network" in read_header(file):
                return door | {"weights": str(file)}
        return door | {"spandrel": str(file)}
    door |= {"weights": str(file)} if wish.teacher else {}
    foreign = wish.teacher and name not in NETWORKS and FUNCTION.fullmatch(wish.network)
    return door | ({"factory": wish.network} if foreign else {"network": name})


def _pictures(wish: Wish) -> tuple[Pictures, Pictures]:
    """The images to train on, and those to test on."""

    def listed(folder: str, split: str) -> Pictures:
        if not folder:
            return [(photograph.name, photograph.read) for photograph in photographs(split)]
        return [(str(f), partial(read_image, f)) for f in list_images(Path(folder).resolve())]

    train, test = listed(wish.images, "train"), listed(wish.test, "test")
    if wish.images and not wish.test:
        test = evenly(train, min(20, max(1, len(train) // 10)))
        train = [picture for picture in train if picture not in test]
    if not train or (both := dict(train).keys() & dict(test).keys()):
        what = "has one image" if not train else f"{min(both)} is to be trained and tested on"
        raise UserError(f"{wish.images}: {what}: test on another folder")
    return train, test


def _prepare(study: Own, train: Pictures, test: Pictures) -> None:
    """Writes the stores that a study has: train, benchmarks (scored) and test (validated)."""
    folder = study.folder("prepare")
    scale: int = study.cohort("own").scale

    def made(dataset: str, pictures: Pictures, least: int) -> Iterator[Prepared]:
        for name, read in tqdm(pictures, f"prepare {dataset}", unit="image", ncols=88):
            height, width = (hr := read()).shape[1:]
            if min(height, width) < least:
                small = f"{width} x {height} pixels, expected {least} or more a side at x{scale}"
                raise UserError(f"{name}: {small}: remove it, or choose a smaller patch")
            lr = {scale: degrade(hr, scale, study.params.data.edges)}
            yield Prepared(dataset, Path(name).name, hr, lr, "bicubic")

    write_store(folder / "train", made("train", train, study.budget.distil.patch * scale))
    write_store(folder / "benchmarks", made("test", test, 11 + 3 * scale))  # what SSIM needs
    store = ImageStore(folder / "benchmarks")
    pairs = [(key[1], *store.pair(*key, scale)) for key in evenly(store.keys, WATCHED)]
    side = min(WIDE, *(length for _, lr, _ in pairs for length in lr.shape[1:]))
    cut = ((name, *centre(lr, hr, scale, side)) for name, lr, hr in pairs)
    watched = (Prepared("watched", name, hr, {scale: lr}, "bicubic") for name, lr, hr in cut)
    write_store(folder / "test", watched)


def run_own(study: Own, show: Callable[[pd.DataFrame], None]) -> Frames:
    """Takes or trains the teacher, trains the students, or goes on with it; returns the curves.

    ``show`` is given the validation so far (step, member, value in dB) as often as it is saved.
    """
    if (study.root / "run.json").is_file():
        return read_curves(study.root)
    if not (study.folder("teach") / "run.json").is_file():
        teach(study, "teacher")
    over = Event()

    def follow() -> None:
        seen = None
        while not over.wait(1):
            for state in states(study.root)[-1:]:
                if state.psnr and state.saved != seen:
                    seen = state.saved
                    show(pd.DataFrame(state.psnr))

    Thread(target=follow, daemon=True).start()
    try:
        return distil(study, "own")
    finally:
        over.set()


def report(study: Own, frames: Frames) -> pd.DataFrame:
    """Writes scores.csv and report.html, which holds all it shows; returns means by method."""
    scores = score_cohort(study, "own").query("split == 'test' or metric == 'stopped'")
    means = scores.groupby(["metric", "image", "method"])["value"].mean()
    psnr, ssim = (means[metric].unstack("method") for metric in ("psnr_y", "ssim_y"))
    table = pd.DataFrame({"PSNR-Y (dB)": psnr.mean().round(2), "SSIM-Y": ssim.mean().round(4)})
    gain = psnr.sub(psnr["scratch"], axis=0)
    table["gain"], table["images better than scratch"] = gain.mean(), (gain > 0).sum()
    methods = study.cohort("own").methods
    table.insert(0, "method", [METHOD_NAMES.get(m, m) for m in table.index])
    table = table.loc[["bicubic", "teacher", *methods]]
    facts = {"psnr": psnr.mean(), "images": len(psnr), "methods": methods, "crops": ""}
    facts |= {"table": plain_table(table, "scores").to_html()}
    facts |= {n: json.loads((study.root / f"{n}.json").read_text()) for n in ("run", "own")}
    drawn = {"curves": partial(plot_curves, *map(by_method, frames))}
    if examples := compare(study, "own", [*methods]):  # of images large enough
        drawn["crops"] = partial(show_windows, evenly(examples, 3), "typical", page="")
    for name, draw in drawn.items():
        draw()
        plt.savefig(svg := StringIO(), format="svg", metadata={"Date": None})
        plt.close()
        facts[name] = "<svg" + svg.getvalue().partition("<svg")[2]
    page = TEMPLATES.get_template("own.html.j2").render(facts)
    for file, text in (("scores.csv", scores.to_csv(index=False)), ("report.html", page)):
        with replacing(study.root / file) as part:
            part.write_text(text, encoding="utf-8")
    return table


TEMPLATES = Environment(
    loader=PackageLoader("augkd.study.report"), autoescape=select_autoescape(["html.j2"])
)
