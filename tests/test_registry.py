"""The registry: complete, consistent with the paper's tables, and read with clear errors."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from augkd.errors import UserError
from augkd.study.acquire.archives import find_images
from augkd.study.acquire.registry import FILE, Registry, expected_scores, load_registry
from augkd.study.paper import all_tables
from augkd.study.prepare import degrade
from tests import data_listing
from tests.data_listing import PAGE
from tests.miniature_archives import (
    NAMES,
    contents,
    make_archives,
    photograph,
    registry,
    write_archive,
    write_registry,
)

REAL = load_registry()


def test_every_dataset_of_the_papers_tables_is_listed() -> None:
    named = set(all_tables()["dataset"]) - {""}
    assert len(named) == 7
    assert named <= {name for name, entry in REAL.datasets.items() if entry.role == "test"}
    assert {"DIV2K", "DF2K"} <= REAL.datasets.keys()


def test_df2k_is_as_large_as_table_9_says() -> None:
    parts = [REAL.dataset(part).images for part in REAL.dataset("DF2K").parts]
    assert sum(parts) == REAL.dataset("DF2K").images == 3450


def test_every_backbone_has_a_teacher_at_every_scale_with_its_scores() -> None:
    for network in ("edsr", "rcan", "swinir"):
        for scale in (2, 3, 4):
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


def test_hashes_agree_with_the_names_that_carry_them() -> None:
    carrying = 0
    for name, file in REAL.files.items():
        if match := re.search(r"-([0-9a-f]{8})\.(pt|pth)$", name):
            carrying += 1
            assert (file.sha256 or file.sha256_begins or "").startswith(match[1])
    assert carrying == 4


def test_no_hash_stands_for_two_files() -> None:
    for kind in ("md5", "sha256"):
        hashes = [value for file in REAL.files.values() if (value := getattr(file, kind))]
        assert len(hashes) == len(set(hashes)) > 5


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert data_listing.update(REAL) == text, "run python -m tests.data_listing"


def test_the_page_shows_every_entry_and_what_is_unknown() -> None:
    text = PAGE.read_text(encoding="utf-8")
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
    assert {f for e in entries for s in e.sources for f in s.files} == REAL.files.keys()
    for dataset in REAL.datasets.values():
        assert bool(dataset.sources) != bool(dataset.parts)
        assert all(source.hr or source.lr for source in dataset.sources)
        assert all(REAL.datasets[part].sources for part in dataset.parts)


BAD = [
    ({"files": {"a.zip": {"md5": "xyz"}}}, "files.a.zip.md5"),
    ({"files": {"a.zip": {"bytes": 0}}}, "files.a.zip.bytes"),
    ({"datasets": {"A": {"colour": 1}}}, "datasets.A.colour"),
    ({"datasets": {"A": {"role": "holiday"}}}, "datasets.A.role"),
    ({"datasets": {"A": {"sources": [{"files": ["z.zip"]}]}}}, "A: its file z.zip is not under"),
    ({"datasets": {"A": {"sources": [{"files": ["a.zip"], "hr": "a.png"}]}}}, "sources.0.hr"),
    ({"datasets": {"A": {"sources": [{"files": ["a.zip"], "lr": {5: "{name}.png"}}]}}}, ".lr.5"),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_a_wrong_registry_is_one_clear_line(
    tmp_path: Path, changes: dict[str, dict[str, dict[str, object]]], words: str
) -> None:
    values: dict[str, dict[str, dict[str, object]]] = {
        "files": {"a.zip": {"urls": ["http://x/a.zip"]}},
        "datasets": {
            "A": {
                "role": "train",
                "about": "",
                "images": 1,
                "licence": "",
                "citation": "",
                "page": "http://x",
                "sources": [{"files": ["a.zip"], "hr": "a/{name}.png"}],
            }
        },
        "checkpoints": {},
    }
    path = tmp_path / "registry.yaml"
    path.write_text(yaml.safe_dump(values))
    load_registry.__wrapped__(path)  # right as it is
    for section, entries in changes.items():
        for name, keys in entries.items():
            values[section][name] = {**values[section].get(name, {}), **keys}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_registry.__wrapped__(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "registry.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "No such file"), ("a: [", "not readable as YAML"), ("- a", "the file: ")],
)
def test_no_registry_and_no_yaml(tmp_path: Path, text: str | None, words: str) -> None:
    if text:
        (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"bad\.yaml: .*{words}"):
        load_registry.__wrapped__(tmp_path / "bad.yaml")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    make_archives(folder, side=48)
    return folder


@pytest.fixture(scope="module")
def made(archives: Path) -> Registry:
    return registry(archives)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_found_in_the_published_layouts(
    archives: Path, made: Registry, name: str
) -> None:
    source = made.dataset(name).sources[0]
    with find_images(name, archives, made) as pairs:
        assert [pair.name for pair in pairs] == NAMES[name]
        for pair in pairs:
            pixels = torch.from_numpy(photograph(pair.name, 48)).permute(2, 0, 1)
            hr, lr = pair.read()
            assert (hr is None) == (source.hr is None)
            assert hr is None or torch.equal(hr, pixels)
            assert lr.keys() == source.lr.keys()
            for scale, small in lr.items():
                assert torch.equal(small, degrade(pixels, scale, "replicate"))


def test_the_parts_of_df2k_keep_their_names(archives: Path, made: Registry) -> None:
    with find_images("DF2K", archives, made) as pairs:
        found = [(pair.dataset, pair.name) for pair in pairs]
    wanted = [(part, name) for part in ("DIV2K", "Flickr2K") for name in NAMES[part]]
    assert found == wanted


def test_the_other_source_of_flickr2k_has_no_lr(
    archives: Path, made: Registry, tmp_path: Path
) -> None:
    (tmp_path / "Flickr2K.zip").symlink_to(archives / "Flickr2K.zip")
    with find_images("Flickr2K", tmp_path, made) as pairs:
        hr, lr = pairs[0].read()
        assert hr is not None
        assert np.array_equal(hr.permute(1, 2, 0).numpy(), photograph(pairs[0].name, 48))
        assert lr == {}


def test_a_rehearsal_reads_its_own_registry(archives: Path, made: Registry, tmp_path: Path) -> None:
    write_registry(tmp_path / "miniature.yaml", made)
    assert load_registry(tmp_path / "miniature.yaml") == made
    assert load_registry() == load_registry(FILE) == REAL


def test_what_is_not_fetched_or_not_complete_is_told(made: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no Flickr2K\.tar or Flickr2K\.zip: fetch it"):
        find_images("Flickr2K", tmp_path, made).__enter__()

    def read() -> None:
        with find_images("Set5", tmp_path, made) as pairs:
            for pair in pairs:
                pair.read()

    def lines(members: dict[str, bytes]) -> str:
        write_archive(tmp_path / "benchmark.tar", members)
        with pytest.raises(UserError) as caught:
            read()
        return str(caught.value)

    whole = contents("Set5", made.dataset("Set5").sources[0], 48)
    hr, lr = "benchmark/Set5/HR/baby.png", "benchmark/Set5/LR_bicubic/X3/babyx3.png"
    assert "1 LR images at x3 in benchmark.tar, expected the same 2" in lines(
        {k: v for k, v in whole.items() if k != lr}
    )
    assert "1 HR images in" in lines({k: v for k, v in whole.items() if k != hr})
    renamed = {k.replace(lr, lr.replace("baby", "bird")): v for k, v in whole.items()}
    assert "2 LR images at x3" in lines(renamed)
    assert f"benchmark.tar: {lr}: is larger than 1/3 of" in lines({**whole, lr: whole[hr]})
    assert f"benchmark.tar: {hr}: not a readable image" in lines({**whole, hr: b"no image"})
