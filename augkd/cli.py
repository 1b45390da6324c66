"""The command line. Commands import what they need when they run, so that help comes at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from csv import DictReader, writer
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from augkd import __version__
from augkd.errors import UserError, one_line, replacing


class _OneLine(TyperGroup):
    """A user's mistake is one line on stderr and exit code 2, wherever it was found."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, OSError, MemoryError, RuntimeError, ImportError) as error:
            said, user = one_line(error), isinstance(error, UserError)
            if not user and ("memory" in said or isinstance(error, MemoryError)):
                said = "out of memory: cut the image into pieces, or give a smaller --tile"
            elif isinstance(error, ModuleNotFoundError):
                extras = {"onnxscript": "onnx", "onnxruntime": "onnx", "distributed": "dask"}
                extra = extras.get(str(error.name), "study")
                said = f"this needs {error.name}: pip install 'augkd[{extra}]'"
            elif not user and not getattr(error, "filename", ""):  # a pipe was closed
                raise
            if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes, one says it
                typer.echo(f"augkd: {said}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_OneLine,
    help="AugKD, reproduced: knowledge distillation for image super-resolution, put to the test.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as stderr is
    app(prog_name="augkd")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"augkd {__version__}")
        raise typer.Exit


Weights = Annotated[Path | None, typer.Option("--weights", "-w", help="Of this study, or public.")]
_SIZE = "What the weights must be of: channels=64,blocks=16,res_scale=1"
Size = Annotated[str | None, typer.Option(help=_SIZE)]
Scale = Annotated[int | None, typer.Option("--scale", "-s", help="2, 3 or 4.")]
Method = Annotated[str | None, typer.Option(help="Instead of weights: bicubic.")]
_TILE = """Side of a tile in pixels of the input; 0: the whole image. By default tiles are cut where
that is faster or a pass would take over 2 GiB, and change nothing. RCAN is tiled only if this is
given, since it sees the whole image: each tile then has its own statistics."""
Tile = Annotated[int | None, typer.Option(min=0, help=_TILE)]
Ensemble = Annotated[bool, typer.Option("--self-ensemble", help="Mean over eight turns and flips.")]
Device = Annotated[str | None, typer.Option(help="auto (CUDA if there is one), cpu, cuda:1, …")]
Csv = Annotated[Path | None, typer.Option(help="Write the rows to this CSV file.")]
Budget = Annotated[str | None, typer.Option("--budget", "-b", help="By default the chosen one.")]


@app.command()
def upscale(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN", help="Images, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or one image's .png.")],
    weights: Weights = None,
    size: Size = None,
    method: Method = None,
    scale: Scale = None,
    tile: Tile = None,
    self_ensemble: Ensemble = False,
    device: Device = None,
) -> None:
    """Enlarge images, to 8-bit PNG under the same names and of the same colour profiles.

    Nothing is written unless every image can be read. EXIF and other notes are not kept.
    """
    from augkd.data.images import read_colour, read_image, write_image

    jobs = _jobs(inputs, output)
    for source, _ in jobs:
        read_image(source), read_colour(source)
    times, enlarge = _open(weights, size, method, scale, tile, self_ensemble, device)
    for source, target in tqdm(jobs, unit="image", ncols=88, disable=None):
        write_image(target, enlarge(read_image(source)), **read_colour(source))
    typer.echo(f"{output}: {len(jobs)} image{'s' * (len(jobs) > 1)}, x{times}")


@app.command()
def score(
    hr: Annotated[Path, typer.Option(help="Folder of the true images.")],
    scale: Annotated[int, typer.Option("--scale", "-s", min=1, help="2, 3 or 4.")],
    weights: Weights = None,
    size: Size = None,
    method: Method = None,
    sr: Annotated[Path | None, typer.Option(help="Instead of weights: enlarged images.")] = None,
    lr: Annotated[Path | None, typer.Option(help="Folder of small images, else bicubic.")] = None,
    csv: Csv = None,
    tile: Tile = None,
    self_ensemble: Ensemble = False,
    device: Device = None,
) -> None:
    """Measure PSNR and SSIM on luma, with a border of the scale cut, as the paper does.

    Images of two folders belong together by name: baby.png and baby.png, or babyx2.png.
    """
    from augkd.data.images import read_image
    from augkd.degrade import bicubic
    from augkd.metrics import psnr_y, ssim_y

    if sr is None:
        _, enlarge = _open(weights, size, method, scale, tile, self_ensemble, device)
    elif any((weights, size, method, lr, self_ensemble, device)) or tile is not None:
        raise UserError("--sr: the images are made already: leave out --lr and what makes them")
    scores: dict[str, tuple[float, float]] = {}
    pairs = tqdm(_pairs(hr, sr or lr, scale), unit="image", ncols=88, disable=None, leave=False)
    for file, partner in pairs:
        true = read_image(file)
        rows, columns = true.shape[1:]
        if min(rows, columns) < 11 + 3 * scale:
            raise UserError(f"{file}: too small to score: x{scale} needs {11 + 3 * scale} pixels")
        even = true[:, : rows - rows % scale, : columns - columns % scale]
        given = read_image(partner) if partner else bicubic(even, scale)
        shown = given if sr else enlarge(given)
        height, width = shown.shape[1:]
        if not (0 <= rows - height < scale and 0 <= columns - width < scale):
            sizes = f"gives {width} x {height} pixels, but {file.name} has {columns} x {rows}"
            raise UserError(f"{partner}: at x{scale} {sizes}: give its own scale and folder")
        images = shown[None], true[None, :, :height, :width]
        scores[file.stem] = float(psnr_y(*images, scale)), float(ssim_y(*images, scale))
    psnr, ssim = (sum(values) / len(scores) for values in zip(*scores.values(), strict=True))
    if csv:
        with replacing(csv) as partial, partial.open("w", -1, "utf-8", "backslashreplace", "") as f:
            kept = [(name, f"{a:.6f}", f"{b:.6f}") for name, (a, b) in scores.items()]
            writer(f, lineterminator="\n").writerows([("image", "psnr_y", "ssim_y"), *kept])
        typer.echo(f"{csv}: {len(scores)} images, mean {psnr:.2f} dB, {ssim:.4f}")
        return
    wide = max(len("image"), *map(len, scores))
    typer.echo(f"{'image':{wide}}  PSNR-Y (dB)  SSIM-Y")
    for name, (a, b) in [*scores.items(), ("mean", (psnr, ssim))]:
        typer.echo(f"{name:{wide}}  {a:11.2f}  {b:6.4f}")


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Of this study, or public.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A name in .onnx or .pt2.")],
    size: Size = None,
    scale: Scale = None,
) -> None:
    """Write a network as a file that runs without augkd: see docs/export.md."""
    from augkd.models.export import export as write

    off = write(_network(weights, size, scale), output, _origin(weights))
    typer.echo(f"{output}: tried, at most {off:.1g} away from the network")


@app.command()
def doctor() -> None:
    """Say whether this machine is ready for the study; exit code 1 if something is missing."""
    from augkd.study.doctor import examine

    raise typer.Exit(0 if examine(typer.echo) else 1)


@app.command()
def budget(
    name: Annotated[str | None, typer.Argument(help="To switch to; else all are listed.")] = None,
) -> None:
    """Show the budgets of params.yaml, or choose the one that 'dvc repro' runs."""
    from augkd.study.params import budgets, find_root

    chosen, names = budgets(find_root() / "params.yaml", name)
    if name is not None:
        typer.echo(f"budget: {name} ({'as before' if chosen == name else f'was {chosen}'})")
        return
    for known in names:
        typer.echo(f"{'*' if known == chosen else ' '} {known}")


@app.command()
def plan(
    budget: Budget = None,
    measure: Annotated[bool, typer.Option(help="Time steps here, for about a minute.")] = True,
    csv: Csv = None,
) -> None:
    """Say what a budget takes before it is run: updates, operations, memory, disk, hours.

    Nothing is fetched or trained. See docs/plan.md for how each figure is come by.
    """
    from augkd.study.cost.plan import make_plan, show
    from augkd.study.params import load_study

    made = make_plan(load_study(budget), measure)
    typer.echo(show(made))
    if csv:
        with replacing(csv) as partial:
            made.trainings.to_csv(partial, index=False)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A cohort of params.yaml, or with -t a teacher.")],
    budget: Budget = None,
    teacher: Annotated[bool, typer.Option("--teacher", "-t", help="NAME is a teacher.")] = False,
) -> None:
    """Train a cohort or a teacher, by the call that its notebook makes.

    What it rests on must be there. Weights go to runs/BUDGET, where 'dvc repro' puts them too; a
    run by hand is not recorded there. Several processes share the training where a launcher starts
    them: torchrun --nproc_per_node 2 -m augkd train NAME.
    """
    from augkd.data.shared import joined, leave
    from augkd.study.params import load_study
    from augkd.study.pipeline.stage import find
    from augkd.study.runs import distil, teach

    study = load_study(budget)
    kind, make = ("teach", teach) if teacher else ("distil", distil)
    stage = find(study, kind, name)
    for dep in stage.deps:
        if dep.startswith("runs/") and not (study.root / dep).exists():
            raise UserError(f"{dep}: missing: run 'dvc repro {stage.name}', which makes it first")
    make(study, name)
    if joined().main:
        typer.echo(study.folder(kind, name).relative_to(study.root))
    leave()


@app.command()
def spread(
    workers: Annotated[int, typer.Option("--workers", "-n", min=0, help="On this machine.")] = 0,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
) -> None:
    """Run the pipeline of the chosen budget on several workers.

    It does what 'dvc repro' does. See docs/many_gpus.md.
    """
    from augkd.study.params import load_study
    from augkd.study.pipeline.side_by_side import spread as run

    study = load_study(check_methods=False)
    run(study.root, workers, scheduler, study.budget.processes, typer.echo)


@app.command()
def watch(
    budget: Budget = None,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
) -> None:
    """Show how far a run is; Ctrl-C ends the looking alone."""
    from augkd.study.params import load_study
    from augkd.study.watch import watch as look

    look(load_study(budget, check_methods=False), once)


_OF = "NAME:key=value,key=value"


@app.command()
def distil(
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder, or a run's.")],
    images: Annotated[str, typer.Option(help="Folder; else the study's photographs.")] = "",
    test: Annotated[str, typer.Option(help="Folder; else some of the images.")] = "",
    teacher: Annotated[str, typer.Option(help="Weights, or module:function.")] = "",
    network: Annotated[str, typer.Option(help=f"The teacher's: {_OF}, or module:function.")] = "",
    student: Annotated[str, typer.Option(help=_OF)] = "edsr:channels=16,blocks=4,res_scale=1.0",
    method: Annotated[list[str] | None, typer.Option(help=f"{_OF}; several at once.")] = None,
    scale: Annotated[int, typer.Option("--scale", "-s", help="2, 3 or 4.")] = 2,
    steps: int = 3000,
    schedule: Annotated[str, typer.Option(help="batch=16,patch=24,lr=4e-4,seeds=1, …")] = "",
) -> None:
    """Distil a teacher on images of yours; the same command goes on with a stopped run."""
    from augkd.study.own import Wish, open_own, report, run_own

    methods = tuple(method or ["augkd"])
    asked = images, test, teacher, network, student, methods, scale, steps, schedule
    study = open_own(output, Wish(*asked))
    with tqdm(bar_format="{desc}", position=1, leave=False) as line:

        def show(psnr: Any) -> None:
            last = psnr[psnr["step"] == psnr["step"].max()].to_numpy()
            values = ", ".join(f"{value:.2f} {member}" for _, member, value in last)
            line.set_description_str(f"validation at step {last[0][0]}, dB: {values}")

        frames = run_own(study, show)
    typer.echo(f"{report(study, frames).to_string(index=False)}\n{output / 'report.html'}")


def _open(*options: Any) -> tuple[int, Callable[[Any], Any]]:
    """The scale, and what --weights or --method make of an image (3, h, w), uint8."""
    import torch

    from augkd.degrade import bicubic
    from augkd.models import upscale as whole

    weights, size, method, scale, tile, self_ensemble, device = options
    if (weights is None) == (method is None) or method not in (None, "bicubic"):
        raise UserError("give either --weights FILE or --method bicubic")
    if weights is None:
        needless = any((size, self_ensemble, device)) or tile is not None
        if scale not in (2, 3, 4) or needless:
            rule = "needs --scale 2, 3 or 4, and takes no option of networks (--tile, --device, …)"
            raise UserError(f"--method bicubic {rule}")
        return scale, lambda image: bicubic(image, scale, up=True)
    model = _network(weights, size, scale)
    if device in (None, "auto"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device).eval()
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {device}: is not on this machine: choose auto or cpu") from None
    kind, say = type(model).__name__, partial(tqdm.write, file=sys.stderr)
    halo = None if (exact := whole.reach(model)) else whole.OWN_STATISTICS_HALO
    if tile and not exact:
        say(f"augkd: {kind} sees the whole image: tiles see statistics of their own, scores differ")

    def enlarge(image: Any) -> Any:
        fitting = whole.fitting_tile(model, *image.shape[1:])
        side = fitting if exact and tile is None else tile or None
        if not side and (size := whole.working_set(model, *image.shape[1:]) >> 30) >= 2:
            say(f"augkd: {kind} takes about {size} GiB for a whole image, with --tile 256 less")
        return whole.upscale(model, image, side, halo, self_ensemble)

    return model.scale, enlarge


def _network(weights: Path, size: str | None, scale: int | None) -> Any:
    """The network of a file, which must be what the options say."""
    from augkd.models import load_network

    try:
        pairs = (part.split("=") for part in (size or "").split(",") if size)
        given: Any = {key: float(value) if "." in value else int(value) for key, value in pairs}
    except ValueError:
        raise UserError(f"--size {size}: expected channels=64,blocks=16,res_scale=1") from None
    return load_network(weights, given=given | ({"scale": scale} if scale else {}))


def _origin(weights: Path) -> dict[str, Any]:
    """What a run of the study left beside weights: revision and mean scores."""
    file, known, scores = weights.resolve(), dict[str, Any](), dict[str, list[float]]()
    with suppress(OSError, ValueError, LookupError, StopIteration):  # no run's, or not all is there
        record = next(p / "run.json" for p in file.parents[:2] if (p / "run.json").is_file())
        run = json.loads(record.read_text(encoding="utf-8"))
        known = {key: run[key] for key in ("budget", "cohort", "revision", "dirty")}
        cohort, name = run["cohort"].partition("-")[0], file.stem.replace("teacher", "teacher--1")
        stage = next(p for p in file.parents if p.name == run["stage"])
        (table,) = stage.parent.glob(f"score/*/scores/{cohort}.csv")
        for row in DictReader(table.read_text(encoding="utf-8").splitlines()):
            key, bits = f"{row['dataset']} {row['metric']}", row["cohort"].removeprefix(cohort)
            if row["split"] == "test" and f"{row['method']}{bits}-{row['seed']}" == name:
                scores.setdefault(key, []).append(float(row["value"]))
    return known | {"scores": {key: round(sum(v) / len(v), 4) for key, v in scores.items()}}


def _pairs(hr: Path, other: Path | None, scale: int) -> list[tuple[Path, Path | None]]:
    """Each HR image with the other folder's of its name, baby.png or babyx2.png, or with None."""
    from augkd.data.images import list_images

    true, made = dict[str, Path](), dict[str, Path]()
    for by_stem, folder in ((true, hr), (made, other)):
        for file in list_images(folder) if folder else ():
            if twin := by_stem.get(file.stem):
                raise UserError(f"{file}: has the name of {twin.name}: keep one of the two")
            by_stem[file.stem] = file
    pairs = [(file, made.get(stem) or made.get(f"{stem}x{scale}")) for stem, file in true.items()]
    for file, partner in pairs:
        if other and not partner:
            raise UserError(f"{other}: has no image for {file.name}, also none named x{scale}")
    return pairs


def _jobs(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Each image, folders listed, with the PNG to write: in ``output``, or that if it is a .png."""
    from augkd.data.images import SUFFIXES, list_images

    sources: list[Path] = []
    for given in inputs:
        if not given.exists():
            raise UserError(f"{given}: no such image or folder")
        sources += list_images(given) if given.is_dir() else [given]
    folder = output.is_dir() or not (output.exists() or output.suffix.lower() in SUFFIXES)
    if not folder and (sources != inputs[:1] or output.suffix.lower() != ".png"):
        raise UserError(f"{output}: expected a folder, or a .png file for one image")
    jobs = [(source, output / f"{source.stem}.png" if folder else output) for source in sources]
    taken = {source.resolve(): source for source in sources}
    for source, target in jobs:
        if other := taken.get(target.resolve()):
            raise UserError(f"{target}: would overwrite {other} or its image: use separate folders")
        taken[target.resolve()] = source
    return jobs
