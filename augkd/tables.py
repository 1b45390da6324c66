"""The pages of the paper's tables: rows of ours beside the paper's, and what is not run."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from augkd import notes
from augkd.config import Study
from augkd.paper import load_table
from augkd.report import (
    PAPER_SETS,
    Row,
    gains,
    mean_gains,
    ranks,
    same_images,
    tidy,
    trained_scores,
    values,
)
from augkd.style import METHOD_NAMES, UNTAUGHT, paper_table

NETWORKS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
LABELS = {
    "Δ": "ours",
    "interval": "95 % interval",
    "difference": "ours − paper",
    "photographs": "package photographs",
}
EIGHT = "mean of 8"
RANKED = "Bold: best, underlined: second, by the mean alone."


class TablePage:
    """What the page of a table shows; all of it goes into runs/BUDGET/pages/NAME/table.csv.

    Args:
        study: whose budget is shown.
        name: of the page, e.g. "table_02".
        rows: students, in the order of the page.
        rank_by: the level of the rows' labels within which the best are marked; "" for all.
        called: titles of references that are not simply a method's name.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        rows: Sequence[Row],
        rank_by: str = "",
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.study, self.name, self.rows, self.rank_by = study, name, list(rows), rank_by
        self.called = METHOD_NAMES | dict(called or {})
        self.cohorts = list(dict.fromkeys(row.cohort for row in rows))
        self.scores = trained_scores(study, *self.cohorts)
        self.path = study.folder("pages", name) / "table.csv"
        self._shown: list[pd.DataFrame] = []

    def mean_gains(self, metric: str, *references: str, images_of: str = "") -> Styler:
        """Gains over methods of each row's cohort, or over "cohort/method", mean over sets.

        ``images_of``: a method that may have been scored on some images alone; over those.
        """
        titles = {f"gain over {self.called[name]}": name for name in references}
        scores = same_images(self.scores, images_of) if images_of else self.scores
        frame = mean_gains(scores, self.rows, metric, titles)
        shown = frame
        wide = len(references) > 2 or frame.index.nlevels > 2 or metric == "ssim_y"
        if wide:  # leaves no room for it; table.csv has it
            shown = frame.drop(columns="difference", level="part", errors="ignore")
        return self._show(frame, f"mean_gains_{metric}", metric, shown=shown, dataset="mean")

    def gains(self, metric: str, reference: str) -> Styler:
        """Gains over one of them, set by set."""
        frame = gains(self.scores, self.rows, metric, reference)
        if frame.empty:  # no set was scored
            return self.mean_gains(metric, reference)
        over = f"gain over {self.called[reference]}"
        return self._show(frame, f"gains_{metric}", metric, reference=over)

    def values(self, metric: str, rows: Sequence[Row] = ()) -> Styler:
        """Mean scores, set by set: of ``rows``, or of the page's with those that frame them."""
        rows = rows or framed(self.rows)
        frame = values(self.scores, rows, metric)
        students = [row.method not in UNTAUGHT for row in rows]
        marks = ranks(frame, students, metric, self.rank_by)
        caption = RANKED if any(students) else ""
        return self._show(frame, f"values_{metric}", metric, caption=caption, marks=marks)

    def notes(self) -> Markdown:
        """What a reader must know of this budget, each thing in a sentence."""
        lines = notes.of_page(self.study, self.rows, self.scores)
        return Markdown("\n".join(f"- {line}" for line in lines))  # type: ignore[no-untyped-call]

    def save(self) -> None:
        """Writes what was shown so far, tidy."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(self._shown, ignore_index=True).to_csv(self.path, index=False)

    def _show(
        self,
        frame: pd.DataFrame,
        name: str,
        metric: str,
        caption: str = "",
        marks: pd.DataFrame | None = None,
        shown: pd.DataFrame | None = None,
        **constants: str,
    ) -> Styler:
        self._shown.append(tidy(frame, table=name, metric=metric, **constants))
        frame = frame if shown is None else shown
        return paper_table(frame, f"{self.name}_{name}", metric, caption, LABELS, marks)


def framed(rows: Sequence[Row]) -> list[Row]:
    """The rows of each cohort between those of bicubic enlargement and of its teacher.

    Teachers of the paper's three networks are found in its Table 12.
    """
    result = []
    for cohort in dict.fromkeys(row.cohort for row in rows):
        own = [row for row in rows if row.cohort == cohort]
        first, last = ({**own[0].labels, "method": METHOD_NAMES[m]} for m in UNTAUGHT[:2])
        network, _, scale = cohort.partition("_x")
        table = 12 if scale.isdigit() and network in NETWORKS else 0
        keys = {"network": network, "scale": int(scale)} if table else {}
        teacher = Row(cohort, "teacher", last, table, keys)
        result += [Row(cohort, "bicubic", first), *own, teacher]
    return result


def backbone_rows(
    study: Study, network: str, table: int, extra: Mapping[str, str] | None = None
) -> list[Row]:
    """The rows of Tables 2, 3 and 10: every method at every scale, in the paper's order.

    Args:
        extra: methods that the table lacks, each with the one that it follows.
    """
    rows = []
    printed, more = load_table(table), dict(extra or {})
    for scale in (2, 3, 4):
        cohort = f"{network}_x{scale}"
        methods = list(printed.loc[printed["scale"] == scale, "method"].unique())
        for method, before in more.items():
            methods.insert(methods.index(before) + 1, method)
        for method in methods:
            labels = {"scale": f"×{scale}", "method": method_name(study, cohort, method)}
            keys = {"scale": scale, "method": method}
            rows.append(Row(cohort, method, labels, 0 if method in more else table, keys))
    return rows


def method_rows(study: Study, cohort: str, methods: Sequence[str], table: int) -> list[Row]:
    """Rows of methods of one cohort; the paper's are found by their method alone."""
    printed = set(load_table(table)["method"])
    return [
        Row(
            cohort,
            method,
            {"method": method_name(study, cohort, method)},
            table if method in printed else 0,
            {"method": method},
        )
        for method in methods
    ]


def method_name(study: Study, cohort: str, method: str) -> str:
    """What a method is called in a cohort: CSD is a variant where it has no VGG19."""
    if method == "csd" and study.cohort(cohort).methods.get(method, {}).get("vgg"):
        return "CSD"
    return METHOD_NAMES[method]


def heterogeneous_rows() -> list[Row]:
    """Table 4: RCAN students by their teacher. The paper's own-architecture rows are Table 3's."""
    labels = {"teacher": "none", "method": METHOD_NAMES["scratch"]}
    rows = [Row("rcan_x4", "scratch", labels, 4, {"method": "scratch"})]
    for teacher, name in NETWORKS.items():
        own = teacher == "rcan"
        cohort = "rcan_x4" if own else f"rcan_x4_from_{teacher}"
        for method in ("kd", "augkd"):
            labels = {"teacher": name, "method": METHOD_NAMES[method]}
            keys = {"method": method, **({"scale": 4} if own else {"teacher": teacher})}
            table = 3 if own else 4 if method == "augkd" else 0
            rows.append(Row(cohort, method, labels, table, keys))
    return rows


def heterogeneous_teachers() -> list[Row]:
    """Table 4's three teachers, the paper's from Table 12."""
    return [
        Row(
            "rcan_x4" if network == "rcan" else f"rcan_x4_from_{network}",
            "teacher",
            {"teacher": name, "method": "the teacher itself"},
            12,
            {"network": network, "scale": 4},
        )
        for network, name in NETWORKS.items()
    ]


def real_world_rows(study: Study, ends: bool = False) -> list[Row]:
    """Table 5's students; with ``ends`` bicubic enlargement and the teacher before them."""
    methods = [*UNTAUGHT[: 2 * ends], "scratch", "kd", "augkd"]
    return method_rows(study, "real_x4", methods, 5)


def real_test_note(study: Study) -> str:
    """What Table 5's students are tested on, as Markdown."""
    datasets = study.budget.images.datasets
    if datasets and datasets.real:
        absent = [name for name in PAPER_SETS[4:] if name not in datasets.real]
        lacking = f" This budget does without {', '.join(absent)}." if absent else ""
        return (
            f"**The test images** are those of {', '.join(datasets.real)}, enlarged as they are. "
            "PSNR and SSIM are against photographs at a longer focal length, where the set has "
            f"any: OST300 has none.{lacking}"
        )
    return (
        "**The test images are not the paper's.** RealSR, DRealSR and OST300 are not at hand. In "
        "their place stand the packages' test photographs, degraded by BSRGAN's random blur, "
        "noise, reduction and JPEG with a fixed seed, the kind of degradation that the students "
        "were trained on. Since their HR is known, PSNR and SSIM can be had too."
    )


def expansion_rows(study: Study, counts: Mapping[str, int]) -> list[Row]:
    """Table 9: students of fewer and of more images, with how many, and of how many steps.

    Args:
        counts: how many training images were prepared, by dataset.
    """
    rows = []
    printed = load_table(9)
    for cohort, training_set in (("unexpanded_x4", "div2k"), ("expanded_x4", "df2k")):
        own = study.cohort(cohort)
        theirs = printed[printed["training_set"] == training_set]
        size = theirs.set_index("metric")["value"]
        datasets, limit = study.training_set(own)
        at_hand = sum(counts[name] for name in datasets or counts)
        images = min(limit or at_hand, at_hand)
        labels = {
            "images (paper)": f"{images} ({size['training_images']:,.0f})",
            "steps (paper)": f"{study.schedule(own).steps:,} ({size['training_steps']:,.0f})",
        }
        for method in ("scratch", "kd", "augkd"):
            rows.append(
                Row(
                    cohort,
                    method,
                    {**labels, "method": METHOD_NAMES[method]},
                    9 if method in set(theirs["method"]) else 0,
                    {"training_set": training_set, "method": method},
                )
            )
    return rows


def evaluated_teachers() -> list[Row]:
    """Table 12: each teacher by one pass and by eight. The paper does not say which is its own."""
    rows = []
    for scale in (2, 3, 4):
        for network, name in NETWORKS.items():
            keys = {"network": network, "scale": scale}
            for method, evaluation in (("teacher", "single pass"), ("teacher_ensemble", EIGHT)):
                labels = {"scale": f"×{scale}", "network": name, "evaluation": evaluation}
                table = 12 if method == "teacher" else 0
                rows.append(Row(f"{network}_x{scale}", method, labels, table, keys))
    return rows


def published_teachers() -> pd.DataFrame:
    """The paper's teachers among published figures of the same networks: PSNR-Y in dB.

    Returns:
        Columns scale, network, evaluation, the paper's four sets, their mean, by how much the
        paper's mean (Table 12) is above it, and source.
    """
    paper = load_table(12).assign(evaluation="Table 12", source="the paper")
    with files("augkd.paper").joinpath("external.csv").open(encoding="utf-8") as file:
        external = pd.read_csv(file)
    external = external[(external["method"] == "teacher") & external["network"].isin(NETWORKS)]
    evaluations = {"single_pass": "single pass", "self_ensemble": EIGHT}
    external = external.assign(evaluation=external["evaluation"].map(evaluations))
    both = pd.concat([paper, external], ignore_index=True)
    both = both[both["metric"] == "psnr_y"].astype({"scale": int})
    keys = ["scale", "network", "evaluation", "source"]
    wide = both.pivot_table(index=keys, columns="dataset", values="value", sort=False)
    wide = wide[list(PAPER_SETS[:4])].dropna().sort_index(level=[0, 1], sort_remaining=False)
    wide["mean"] = wide.mean(axis=1)
    own = wide["mean"].xs("the paper", level="source").droplevel("evaluation")
    frame = wide.reset_index().rename_axis(columns=None)
    above = frame.join(own.rename("own"), on=["scale", "network"])["own"] - frame["mean"]
    frame["paper above it"] = above.mask(frame["source"] == "the paper")
    frame["scale"] = [f"×{scale}" for scale in frame["scale"]]
    frame["network"] = frame["network"].map(NETWORKS)
    return frame[[column for column in frame if column != "source"] + ["source"]]


def million_parameters(study: Study, network: str, scale: int) -> pd.DataFrame:
    """Millions of parameters of the paper's pair and of the budget's: rows roles."""
    from augkd.models import create_model
    from augkd.models.cost import parameters

    sizes = study.budget.networks.get(network, {})
    return pd.DataFrame(
        {
            role: {
                "paper": parameters(create_model(network, role, scale)) / 1e6,
                "ours": parameters(create_model(network, scale=scale, **sizes[role])) / 1e6
                if role in sizes
                else float("nan"),
            }
            for role in ("teacher", "student")
        }
    ).T.rename_axis("network")
