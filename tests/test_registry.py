"""The registry: complete, consistent with the paper's tables, and read with clear errors."""

import re
from pathlib import Path

import pytest
import torch

from augkd.errors import UserError
from augkd.study.acquire.archives import Pair, find_images
from augkd.study.acquire.registry import FILE, Registry, expected_scores, load_registry
from augkd.study.paper import all_tables
from augkd.study.prepare import degrade
from tests import data_listing
from tests import miniature_archives as mini
from tests.data_listing import PAGE

REAL = load_registry()


def test_every_dataset_of_the_papers_tables_is_listed() -> None:
    named = set(all_tables()["dataset"]) - {""}
    assert len(named) == 7
    assert named <= {name for name, entry in REAL.datasets.items() if entry.role == "test"}
    assert {"DIV2K", "DF2K"} <= REAL.datasets.keys()
    parts = [REAL.dataset(part).images for part in REAL.dataset("DF2K").parts]
    assert sum(parts) == REAL.dataset("DF2K").images == 3450  # of Table 9


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("network", ["edsr", "rcan", "swinir"])
def test_every_backbone_has_a_teacher_with_its_scores(network: str, scale: int) -> None:
    entry = REAL.checkpoint(f"{network}_x{scale}")
    assert (entry.role, entry.network, entry.scale) == ("teacher", network, scale)
    psnr = expected_scores(entry).query("metric == 'psnr_y'")
    assert set(psnr["dataset"]) == {"Set5", "Set14", "B100", "Urban100"}
    assert psnr["value"].between(25, 39).all()


def test_expected_scores_are_those_of_the_public_files() -> None:
    scores = expected_scores(REAL.checkpoint("edsr_x2")).set_index(["dataset", "metric"])["value"]
    assert scores["Set5", "psnr_y"] == 38.19  # not the 38.11 of the paper, nor EDSR+'s 38.20
    assert expected_scores(REAL.checkpoint("vgg19")).empty
    assert expected_scores(REAL.checkpoint("swinir_real_x4")).empty


def test_hashes_agree_with_the_names_that_carry_them_and_stand_for_one_file() -> None:
    carried = {name: re.search(r"-([0-9a-f]{8})\.(pt|pth)$", name) for name in REAL.files}
    found = {name: match[1] for name, match in carried.items() if match}
    assert len(found) == 4
    for name, begins in found.items():
        assert (REAL.files[name].sha256 or REAL.files[name].sha256_begins or "")[:8] == begins
    for kind in ("md5", "sha256"):
        hashes = [value for file in REAL.files.values() if (value := getattr(file, kind))]
        assert len(hashes) == len(set(hashes)) > 5


def test_the_page_is_up_to_date_and_shows_every_entry_and_what_is_unknown() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert data_listing.update(REAL) == text, "run python -m tests.data_listing"
    for name in (*REAL.datasets, *REAL.checkpoints):
        assert f"| [{name}](" in text
    for name, file in REAL.files.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert (file.sha256 or file.md5 or "the hash of the first fetch") in row
        assert bool(file.by_hand) == ("by hand: " in row)


def test_what_the_registry_itself_must_hold() -> None:
    for file in REAL.files.values():
        assert file.urls or file.by_hand
        assert bool(file.sha256 or file.md5 or file.sha256_begins) == bool(file.hash_from)
        assert file.sha256 or not file.bytes
    entries = [*REAL.datasets.values(), *REAL.checkpoints.values()]
    used = {file for entry in entries for source in entry.sources for file in source.files}
    for dataset in REAL.datasets.values():
        assert all(source.hr or source.lr for source in dataset.sources)
        assert bool(dataset.sources) != bool(dataset.parts)
        assert all(REAL.datasets[part].sources for part in dataset.parts)
    assert used == REAL.files.keys()


SMALL = """
files: {a.zip: {urls: [http://x/a.zip]}}
datasets:
  A: {role: train, about: "", images: 1, licence: "", citation: "", page: http://x,
    sources: [{files: [a.zip], hr: "a/{name}.png"}]}
checkpoints: {}
"""
BAD = [  # in place of what stands there what, and the words
    ("urls", "md5: xyz, urls", "files.a.zip.md5"),
    ("urls", "bytes: 0, urls", "files.a.zip.bytes"),
    ("role", "colour: 1, role", "datasets.A.colour"),
    ("train", "holiday", "datasets.A.role"),
    ("[a.zip]", "[z.zip]", "A: its file z.zip is not under"),
    ("a/{name}.png", "a.png", "sources.0.hr"),
    ("hr: ", 'lr: {5: "{name}.png"}, hr: ', ".lr.5"),
    (SMALL, "a: [", "not YAML at line 2"),
    (SMALL, "- a", "the file: "),
]


@pytest.mark.parametrize(("there", "instead", "words"), BAD)
def test_a_mistake_is_one_clear_line(tmp_path: Path, there: str, instead: str, words: str) -> None:
    path = tmp_path / "registry.yaml"
    with pytest.raises(UserError, match="No such file"):
        load_registry.__wrapped__(path)
    path.write_text(SMALL)
    load_registry.__wrapped__(path)  # right as it is
    path.write_text(SMALL.replace(there, instead))
    with pytest.raises(UserError) as caught:
        load_registry.__wrapped__(path)
    assert re.fullmatch(rf".*registry\.yaml: .*{re.escape(words)}.*", str(caught.value))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    mini.make_archives(folder, side=48)
    (folder / "other").mkdir()
    (folder / "other" / "Flickr2K.zip").symlink_to(folder / "Flickr2K.zip")
    return folder


@pytest.fixture(scope="module")
def made(archives: Path) -> Registry:
    return mini.registry(archives)


LAYOUTS = [(name, "", 0, [name]) for name in mini.NAMES]  # dataset, folder, source, parts
LAYOUTS += [("Flickr2K", "other", 1, ["Flickr2K"]), ("DF2K", "", 0, ["DIV2K", "Flickr2K"])]


@pytest.mark.parametrize(("name", "folder", "which", "parts"), LAYOUTS)
def test_images_are_found_in_the_published_layouts(
    archives: Path, made: Registry, name: str, folder: str, which: int, parts: list[str]
) -> None:
    with find_images(name, archives / folder, made) as pairs:
        found = [(pair.dataset, pair.name) for pair in pairs]
        assert found == [(part, image) for part in parts for image in mini.NAMES[part]]
        for pair in pairs:
            source = made.dataset(pair.dataset).sources[which]
            pixels = torch.from_numpy(mini.photograph(pair.name, 48)).permute(2, 0, 1)
            hr, lr = pair.read()
            assert (hr is None) == (source.hr is None)
            assert hr is None or torch.equal(hr, pixels)
            assert lr.keys() == source.lr.keys()  # none of Flickr2K's other source
            for scale, small in lr.items():
                assert torch.equal(small, degrade(pixels, scale, "replicate"))


def test_a_rehearsal_reads_its_own_registry(made: Registry, tmp_path: Path) -> None:
    mini.write_registry(tmp_path / "miniature.yaml", made)
    assert load_registry(tmp_path / "miniature.yaml") == made
    assert load_registry() == load_registry(FILE) == REAL


def test_what_is_not_fetched_or_not_complete_is_told(made: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no Flickr2K\.tar or Flickr2K\.zip: fetch it"):
        find_images("Flickr2K", tmp_path, made).__enter__()

    def lines(members: dict[str, bytes]) -> str:
        mini.write_archive(tmp_path / "benchmark.tar", members)
        with pytest.raises(UserError) as caught, find_images("Set5", tmp_path, made) as pairs:
            list(map(Pair.read, pairs))
        return str(caught.value)

    whole = mini.contents("Set5", made.dataset("Set5").sources[0], 48)
    hr, lr = "benchmark/Set5/HR/baby.png", "benchmark/Set5/LR_bicubic/X3/babyx3.png"
    without = {left: {k: v for k, v in whole.items() if k != left} for left in (lr, hr)}
    assert "1 images at x3 in benchmark.tar, expected the same 2" in lines(without[lr])
    assert "1 images at x1" in lines(without[hr])
    renamed = {k.replace(lr, lr.replace("baby", "bird")): v for k, v in whole.items()}
    assert "2 images at x3" in lines(renamed)
    assert f"benchmark.tar: {lr}: is not 1/3 of" in lines({**whole, lr: whole[hr]})
    assert f"benchmark.tar: {hr}: not a readable image" in lines({**whole, hr: b"no image"})
