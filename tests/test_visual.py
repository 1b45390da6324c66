import json
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from augkd.augment import Invertible
from augkd.data.sampler import PatchSampler
from augkd.data.store import ImageStore, Prepared, write_store
from augkd.metrics import psnr_y
from augkd.study.report import pictures

SMALL, BORDER = 16, 4
SIZE = BORDER * 2 + 4 * SMALL


def _noise(row: int, column: int, strength: float) -> Tensor:
    """A square of error whose corner is that of the window (row, column) of the grid."""
    image = torch.zeros(3, SIZE, SIZE)
    top, left = BORDER + row * 4, BORDER + column * 4
    image[:, top : top + SMALL, left : left + SMALL] = strength
    return image


HR = torch.full((3, SIZE, SIZE), 0.5)
ANSWERS = {
    "bicubic": HR + _noise(2, 4, 0.4) + _noise(8, 8, 0.4),
    # at (2, 4) the students differ most of the windows that are hard; at (10, 0), which bicubic
    # gets right, still more
    "scratch": HR + _noise(2, 4, 0.3) + _noise(8, 8, 0.2) + _noise(10, 0, 0.5),
    "augkd": HR + _noise(2, 4, 0.1) + _noise(8, 8, 0.15),
    "teacher": HR,
}


def test_window_psnr_is_that_of_the_window_alone() -> None:
    image = ANSWERS["scratch"]
    found = pictures.window_psnr(image, HR, SMALL, BORDER)
    assert found.shape == (13, 13)
    window = (..., slice(BORDER + 12, BORDER + 12 + SMALL), slice(BORDER + 20, BORDER + 20 + SMALL))
    expected = psnr_y(image[window][None], HR[window][None], 0)
    assert float(found[3, 5]) == pytest.approx(float(expected))


def test_the_widest_window_is_where_it_was_put() -> None:
    found = pictures.choose(ANSWERS, HR, ["scratch", "augkd"], SMALL, BORDER)
    assert list(found.index) == ["widest", "typical"]
    assert list(found) == ["row", "column", "spread", *ANSWERS]
    widest, typical = found.to_dict("records")
    assert (widest["row"], widest["column"]) == (BORDER + 2 * 4, BORDER + 4 * 4)
    # flat errors of 0.3 and 0.1, rounded to 8 bits, on the luma's 219 levels; of two, the middle
    # half is half of the range
    assert widest["spread"] == pytest.approx(219 * 0.2 / 2, abs=0.5)
    assert widest["augkd"] > widest["scratch"] > widest["bicubic"]
    assert 0 < typical["spread"] < widest["spread"]


def test_neither_order_nor_a_failure_chooses() -> None:
    chosen = pictures.choose(ANSWERS, HR, ["scratch", "augkd"], SMALL, BORDER)
    swapped = ANSWERS | {"scratch": ANSWERS["augkd"], "augkd": ANSWERS["scratch"]}
    again = pictures.choose(swapped, HR, ["augkd", "scratch"], SMALL, BORDER)
    pd.testing.assert_frame_equal(chosen.iloc[:, :3], again.iloc[:, :3], check_exact=True)
    others = ANSWERS | {"kd": ANSWERS["augkd"], "fakd": ANSWERS["scratch"]}
    failed = others | {"csd": HR + _noise(8, 8, 0.5)}
    again = pictures.choose(failed, HR, ["scratch", "kd", "fakd", "csd", "augkd"], SMALL, BORDER)
    pd.testing.assert_series_equal(chosen.iloc[0, :2], again.iloc[0, :2])


@pytest.fixture
def example() -> pictures.Example:
    index = pd.Index(["widest", "typical"], name="window")
    places = {"row": 8, "column": 20, "spread": 1.0}
    windows = pd.DataFrame(places | dict.fromkeys(ANSWERS, 20.0), index)
    windows["augkd"] = [23.00004, 21.0]
    psnr = {method: float(method == "augkd") for method in ANSWERS}
    eight = {method: (sr * 255).clamp(0, 255).byte() for method, sr in ANSWERS.items()}
    eight["augkd"][:, 8, 20] = torch.tensor([1, 2, 3])  # the window's corner
    return pictures.Example("edsr_x4", "set", "image", (HR * 255).byte(), eight, psnr, windows)


def test_gains_are_over_images_and_windows_two_of_each(example: pictures.Example) -> None:
    windows, gains = pictures.summarise([example, example])
    assert list(gains) == ["widest windows", "typical windows", "whole centres"]
    assert list(gains.index) == ["bicubic", "augkd", "teacher"]
    assert list(gains.loc["augkd"]) == pytest.approx([3.00004, 1.0, 1.0])
    assert list(gains.loc["teacher"]) == [0.0, 0.0, 0.0]
    assert list(windows.index) == [1, 1, 2, 2]
    assert list(windows)[:6] == ["dataset", "image", "window", "row", "column", "spread"]
    assert list(windows["window"]) == ["widest", "typical"] * 2
    assert list(windows["augkd"]) == [23.0, 21.0] * 2


def test_a_telling_batch_inverts_and_turns(tmp_path: Path) -> None:
    hr = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    write_store(tmp_path / "store", [Prepared("set", "image", hr, {2: hr[:, ::2, ::2]}, "bicubic")])
    sampler = PatchSampler(ImageStore(tmp_path / "store"), scale=2, patch=8, batch=1, seed=0)
    inverted, rows, columns, transposed = pictures.telling_batch(sampler).transform.flags[0]
    assert inverted and transposed and rows != columns  # noqa: PT018


def test_a_figure_names_every_answer_and_marks_the_best(example: pictures.Example) -> None:
    notes = {("set", "image", method): f", {method}!" for method in example.answers}
    pictures.show_windows([example], "widest", notes)
    axes = plt.gca()
    texts = [text.get_text() for text in axes.texts]
    assert "set\nimage\nspread 1.00 levels" in texts
    assert "AugKD\n23.00 dB, augkd!" in texts
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert [text.split("\n")[0] for text in bold] == ["AugKD"]
    # the whole image, HR and four answers, each under its own id
    assert len({image.get_gid() for image in axes.images}) == len(axes.images) == 6
    shown = axes.images[4].get_array()
    assert shown is not None
    assert shown.shape == (pictures.SIDE, pictures.SIDE, 3)
    assert list(shown[0, 0]) == [1, 2, 3]
    plt.close()


def test_where_there_is_nothing_to_show_a_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    pictures.show_windows([], "widest")
    none, _ = pictures.summarise([])
    assert none.empty
    assert none.index.name == "rank"
    assert capsys.readouterr().out.startswith("Nothing to show")


def _enlarge(x: Tensor, added: float = 0.0) -> Tensor:
    """Commutes with every F, but for what is added to the answers at the top."""
    y = interpolate(x, scale_factor=2.0)
    y[..., :2, :] += added
    return y


def test_consistency_undoes_what_f_did() -> None:
    notebook = Path(__file__).parents[1] / "notebooks" / "figure_04.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "consistency")
    values = dict(vars(pictures), Invertible=Invertible)
    exec(source, values)
    consistency = values["consistency"]
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    table = consistency(_enlarge, _enlarge, images)
    assert list(table.index) == list(pictures.OPERATIONS)
    assert table["undone"].max() < 1e-4
    assert table["left"].drop("as it is").min() > 10
    shifted = consistency(partial(_enlarge, added=0.1), _enlarge, images)["undone"]
    assert shifted.to_numpy() == pytest.approx(255 * 0.1 / 6, rel=1e-4)


def test_operations_do_what_they_are_called() -> None:
    x = torch.rand(1, 3, 4, 4)
    expected = {
        "as it is": x,
        "colours inverted": 1 - x,
        "flipped vertically": x.flip(-2),
        "flipped horizontally": x.flip(-1),
        "rotated by 90°": x.rot90(1, (-2, -1)),
        "rotated by 180°": x.rot90(2, (-2, -1)),
        "rotated by 270°": x.rot90(3, (-2, -1)),
    }
    assert list(expected) == list(pictures.OPERATIONS)
    for name, flags in pictures.OPERATIONS.items():
        assert torch.equal(Invertible(torch.tensor([flags]).bool()).apply(x), expected[name]), name

    fifth = torch.full((1, 3, 2, 2), 0.2)
    assert pictures.levels(torch.zeros_like(fifth), fifth) == pytest.approx(51)
