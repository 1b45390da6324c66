"""The command line. Commands import what they need when they run, so that help comes at once."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from augkd import __version__
from augkd.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from augkd.models import SRNetwork


class _OneLine(TyperGroup):
    """A user's mistake is one line on stderr and exit code 2, wherever it was found."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if os.environ.get("LOCAL_RANK", "0") != "0":
                raise typer.Exit(2) from None  # of several processes, one says it
            typer.echo(f"augkd: {' '.join(str(error).split())}", err=True)
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
    app(prog_name="augkd")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"augkd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


Weights = Annotated[
    Path | None,
    typer.Option("--weights", "-w", help="Weights of this study, which name their network."),
]
Network = Annotated[
    str | None,
    typer.Option(help="Network of public weights, which do not name it: edsr, rcan or swinir."),
]
Role = Annotated[
    str | None, typer.Option(help="With --network: its size in Table 1, teacher or student.")
]
Method = Annotated[str | None, typer.Option(help="Instead of weights: bicubic.")]
Tile = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Side of a tile in pixels of the input; 0: always the whole image. By default "
        "tiles are cut when a pass would take more than about 2 GiB. Tiles read as far beyond "
        "their edge as EDSR and SwinIR can see, so they change nothing. RCAN sees the whole "
        "image: it is tiled only if this is given, and each tile then has its own statistics.",
    ),
]
SelfEnsembled = Annotated[
    bool,
    typer.Option("--self-ensemble", help="Mean over eight flips and turns, at 8 times the cost."),
]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, …")]


@app.command()
def upscale(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN", help="Images, or folders of images.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a .png file for a single image.")
    ],
    weights: Weights = None,
    network: Network = None,
    role: Role = None,
    method: Method = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", help="2, 3 or 4; weights of this study know it.")
    ] = None,
    tile: Tile = None,
    self_ensemble: SelfEnsembled = False,
    device: Device = "auto",
) -> None:
    """Enlarge images, to 8-bit PNG under the same names.

    Nothing is written unless every image can be read.
    """
    from tqdm import tqdm

    from augkd.data.images import read_image, write_image
    from augkd.study.pairs import destinations

    jobs = destinations(inputs, output)
    for source, _ in jobs:
        read_image(source)
    enlarger = _enlarger(weights, network, role, method, scale, tile, self_ensemble, device)
    for source, target in tqdm(jobs, unit="image", ncols=88, disable=None):
        write_image(target, enlarger(read_image(source), source))
    typer.echo(f"{output}: {len(jobs)} image{'s' * (len(jobs) > 1)}, x{enlarger.scale}")


@app.command()
def score(
    hr: Annotated[Path, typer.Option("--hr", help="Folder of the true images.")],
    scale: Annotated[int, typer.Option("--scale", "-s", help="2, 3 or 4.")],
    weights: Weights = None,
    network: Network = None,
    role: Role = None,
    method: Method = None,
    sr: Annotated[
        Path | None, typer.Option("--sr", help="Instead of weights: folder of enlarged images.")
    ] = None,
    lr: Annotated[
        Path | None,
        typer.Option("--lr", help="Folder of small images; by default made by MATLAB's bicubic."),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a row an image (image, psnr_y, ssim_y) to this file."),
    ] = None,
    tile: Tile = None,
    self_ensemble: SelfEnsembled = False,
    device: Device = "auto",
) -> None:
    """Measure PSNR and SSIM on luma, with a border of the scale cut, as the paper does.

    Images of two folders belong together by name: baby.png and baby.png, or babyx2.png.
    """
    from tqdm import tqdm

    from augkd.data.images import read_image
    from augkd.degrade import bicubic
    from augkd.errors import replacing
    from augkd.metrics import psnr_y, ssim_y
    from augkd.study.pairs import by_stem, crop_to, match

    _check_scale(scale)
    if sr and (weights or method or network or lr):
        raise UserError("--sr: the images are made already: leave out --weights, --method and --lr")
    enlarger = None
    if sr is None:
        enlarger = _enlarger(weights, network, role, method, scale, tile, self_ensemble, device)
    other = sr or lr
    pairs: list[tuple[Path, Path | None]]
    pairs = [*match(hr, other, scale)] if other else [(file, None) for file in by_stem(hr).values()]
    rows: list[tuple[str, float, float]] = []
    for file, partner in tqdm(pairs, unit="image", ncols=88, disable=None, leave=False):
        true = read_image(file)
        if min(true.shape[1:]) < 11 + 3 * scale:
            raise UserError(f"{file}: too small to score: x{scale} needs {11 + 3 * scale} pixels")
        if partner is None:
            height, width = (side // scale * scale for side in true.shape[1:])
            true = true[:, :height, :width]
            given = bicubic(true, scale)
        else:
            given = read_image(partner)
            height, width = (side * (1 if sr else scale) for side in given.shape[1:])
            true = crop_to(true, (height, width), scale, file, partner)
        shown = enlarger(given, file) if enlarger else given
        psnr, ssim = (measure(shown[None], true[None], scale) for measure in (psnr_y, ssim_y))
        rows.append((file.stem, psnr.item(), ssim.item()))
    mean = ("mean", fmean(row[1] for row in rows), fmean(row[2] for row in rows))
    if csv_file is None:
        _print_table([*rows, mean])
        return
    with replacing(csv_file) as partial, partial.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("image", "psnr_y", "ssim_y"))
        writer.writerows((name, f"{psnr:.6f}", f"{ssim:.6f}") for name, psnr, ssim in rows)
    typer.echo(f"{csv_file}: {len(rows)} images, mean {mean[1]:.2f} dB, {mean[2]:.4f}")


@app.command()
def doctor() -> None:
    """Say whether this machine is ready for the study; exit code 1 if something is missing."""
    from augkd.study.doctor import examine

    findings = []
    for finding in examine(Path.cwd()):
        mark = {"ok": "ok", "missing": "MISSING", "none": "-"}[finding.state]
        typer.echo(f"{mark:8}{finding.name:12}{finding.text}")
        findings.append(finding)
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        typer.echo(f"not ready: {', '.join(missing)}")
        raise typer.Exit(1)
    typer.echo("ready")


@app.command()
def budget(
    name: Annotated[
        str | None, typer.Argument(help="The budget to switch to; without it they are listed.")
    ] = None,
) -> None:
    """Show the budgets of params.yaml, or choose the one that 'dvc repro' runs."""
    from augkd.study.params import find_root, read_budgets, refuse_links, switch_budget

    path = find_root("params.yaml") / "params.yaml"
    refuse_links(path)
    if name is None:
        chosen, names = read_budgets(path)
        for known in names:
            typer.echo(f"{'*' if known == chosen else ' '} {known}")
        return
    before = switch_budget(path, name)
    typer.echo(f"budget: {name}" + (f" (was {before})" if before != name else " (as before)"))


@app.command()
def plan(
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="By default the chosen one.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure", help="Time steps on this device, for about a minute."
        ),
    ] = True,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a row a training to this file.")
    ] = None,
) -> None:
    """Say what a budget takes before it is run: updates, operations, memory, disk, hours.

    Nothing is fetched or trained. See docs/plan.md for how each figure is come by.
    """
    from augkd.errors import replacing
    from augkd.study.cost.plan import make_plan, show
    from augkd.study.params import load_study

    study = load_study(budget)
    if csv_file is None:
        typer.echo(show(make_plan(study, measure)))
        return
    with replacing(csv_file) as partial:
        partial.touch()  # a place that cannot be written to is found before the minute is spent
        made = make_plan(study, measure)
        made.trainings.to_csv(partial, index=False)
    typer.echo(show(made))


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A cohort of params.yaml, or with -t a teacher.")],
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="By default the chosen one.")
    ] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", "-t", help="Train the teacher of this name.")
    ] = False,
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
    data = [dep for dep in stage.deps if dep.startswith("runs/")]
    if missing := [dep for dep in data if not (study.root / dep).exists()]:
        raise UserError(
            f"{missing[0]}: missing, and the training of {name} rests on it: run "
            f"'dvc repro {stage.name}', which makes it first"
        )
    make(study, name)
    if joined().main:
        typer.echo(study.folder(kind, name).relative_to(study.root))
    leave()


@app.command()
def spread(
    workers: Annotated[int, typer.Option("--workers", "-n", min=0, help="On this machine.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler that has workers.")
    ] = None,
) -> None:
    """Run the pipeline of the chosen budget on several workers.

    It does what 'dvc repro' does. See docs/many_gpus.md.
    """
    from augkd.study.params import load_study
    from augkd.study.pipeline.side_by_side import spread as run

    study = load_study(check_methods=False)
    run(
        study.root,
        workers=workers,
        scheduler=scheduler,
        processes=study.budget.processes,
        say=typer.echo,
    )


@dataclass(frozen=True)
class _Enlarger:
    """Enlarges (3, h, w) uint8; the file is for what there is to say about it."""

    scale: int
    run: Callable[[Tensor, Path], Tensor]

    def __call__(self, image: Tensor, file: Path) -> Tensor:
        return self.run(image, file)


def _enlarger(
    weights: Path | None,
    network: str | None,
    role: str | None,
    method: str | None,
    scale: int | None,
    tile: int | None,
    self_ensemble: bool,
    device: str,
) -> _Enlarger:
    """What --weights or --method asks for."""
    if (weights is None) == (method is None):
        raise UserError("give either --weights FILE or --method bicubic")
    if scale is not None:
        _check_scale(scale)
    if weights is None:
        return _bicubic_enlarger(method, network, scale, tile, self_ensemble)
    from augkd.models.upscale import (
        OWN_STATISTICS_HALO,
        WORKING_SET,
        fitting_tile,
        reach,
        working_set,
    )
    from augkd.models.upscale import upscale as enlarge

    place = _device(device)
    model = _load(weights, network, role, scale).to(place).eval()
    exact = reach(model)
    kind = type(model).__name__
    if exact is None and tile:
        _note(f"{kind} sees the whole image: tiles see statistics of their own, scores may differ")

    def run(image: Tensor, file: Path) -> Tensor:
        height, width = image.shape[1:]
        side, halo = tile or None, None if exact else OWN_STATISTICS_HALO
        if tile is None and exact is not None:
            side = fitting_tile(model, height, width)
        size = working_set(model, height, width)
        if side is None and size > WORKING_SET:
            _note(
                f"{file.name}: {kind} takes it whole, about {size / 2**30:.0f} GiB; --tile 256 less"
            )
        try:
            return enlarge(model, image, side, halo, self_ensemble)
        except RuntimeError as error:  # CUDA's own error is one of these, the CPU's is no other
            if "memory" not in str(error):
                raise
            raise UserError(f"{file}: out of memory on {place}: give a smaller --tile") from None

    return _Enlarger(model.scale, run)


def _bicubic_enlarger(
    method: str | None, network: str | None, scale: int | None, tile: int | None, ensemble: bool
) -> _Enlarger:
    from augkd.degrade import bicubic

    if method != "bicubic":
        raise UserError(f"method '{method}' is unknown: choose bicubic, or give --weights")
    if network or tile or ensemble:
        raise UserError("--method bicubic takes no --network, --tile or --self-ensemble")
    if scale is None:
        raise UserError("--method bicubic needs --scale: 2, 3 or 4")
    return _Enlarger(scale, lambda image, file: bicubic(image, scale, up=True))


def _load(weights: Path, name: str | None, role: str | None, scale: int | None) -> SRNetwork:
    from augkd.models import create_model, load_checkpoint, load_network

    if name is None:
        if role is not None:
            raise UserError("--role needs --network: edsr, rcan or swinir")
        model = load_network(weights)
        if scale not in (None, model.scale):
            raise UserError(f"{weights}: enlarges x{model.scale}, not x{scale}: give its scale")
        return model
    if scale is None or role is None:
        raise UserError("--network needs --role (teacher or student) and --scale (2, 3 or 4)")
    model = create_model(name, role=role, scale=scale)
    load_checkpoint(weights, model)
    return model


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: is not on this machine: choose auto or cpu") from None
    return device


def _check_scale(scale: int) -> None:
    if scale not in (2, 3, 4):
        raise UserError(f"--scale {scale}: is not supported: choose 2, 3 or 4")


def _note(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"augkd: {text}", file=sys.stderr)


def _print_table(rows: list[tuple[str, float, float]]) -> None:
    """Aligned columns; the last row is the mean."""
    wide = max(len("image"), *(len(name) for name, _, _ in rows))
    typer.echo(f"{'image':{wide}}  PSNR-Y (dB)  SSIM-Y")
    for name, psnr, ssim in rows:
        typer.echo(f"{name:{wide}}  {psnr:11.2f}  {ssim:6.4f}")
