"""Fetching, against a loopback server of small archives that misbehaves in every known way."""

import copy
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from augkd.errors import UserError
from augkd.study.acquire import fetch
from augkd.study.acquire.fetch import Fetcher
from augkd.study.acquire.registry import Registry, RemoteFile
from tests.loopback import Loopback, Served, loopback
from tests.miniature_archives import make_archives, registry, write_archive

BODY = bytes(range(256)) * 700  # 179,200 bytes: several reads
SHA256 = hashlib.sha256(BODY).hexdigest()
NAME = "a.zip"
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: Patch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in {"ATTEMPTS": 3, "PAUSE": 0.01, "TIMEOUT": 0.3}.items():
        monkeypatch.setattr(fetch, name, value)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as home:
        yield home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def listed(*urls: str, **changes: object) -> RemoteFile:
    """A file of the registry with its SHA-256."""
    known = {"urls": urls, "sha256": SHA256, "hash_from": "a test"}
    return RemoteFile.model_validate(known | changes)


def get(file: RemoteFile, folder: Path, mirror: Path | None = None) -> Path:
    made = Registry(files={NAME: file}, datasets={}, checkpoints={})
    return Fetcher(folder, mirror, made).file(NAME)


def lying(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def refusal(file: RemoteFile, folder: Path, mirror: Path | None = None) -> str:
    """The one line that says why a file could not be had; the name is not taken."""
    with pytest.raises(UserError) as caught:
        get(file, folder, mirror)
    assert "\n" not in str(caught.value)
    assert not (folder / NAME).exists()
    return str(caught.value)


def test_a_file_is_verified_and_asked_for_again_if_wrong(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY)
    for asked, left in ((1, {NAME}), (1, {NAME}), (2, {NAME, f"{NAME}.rejected"})):
        if asked == 2:
            (folder / NAME).write_bytes(b"wrong")
        assert get(listed(server.url(NAME)), folder).read_bytes() == BODY
        assert len(server.asked) == asked
        assert lying(folder) == left
    assert (folder / f"{NAME}.rejected").read_bytes() == b"wrong"


OTHER = bytes(len(BODY))
CUT = [70_000, None]
CHANGED = {"body": [OTHER, BODY], "etag": ['"old"', '"new"']}
RESUMED = [  # what the server does, whether the hash is published; Range, If-Range, answer
    ({"cut": [70_000, 50_000, None]}, True, ["200", "70000- 206", "120000- 206"]),
    ({"cut": CUT}, False, ["200", '70000- "1" 206']),
    ({"cut": CUT, "ranges": False}, True, ["200", "70000- 200"]),
    ({"cut": CUT, **CHANGED}, False, ["200", '70000- "old" 200']),  # not spliced
    ({"cut": CUT, "etag": None}, False, ["200", "200"]),
    ({"cut": CUT, "etag": 'W/"1"'}, False, ["200", "200"]),  # a weak one is none
    ({"stall": [65_536, len(BODY)]}, True, ["200", "65536- 206"]),
    ({"status": [503, 429]}, True, ["503", "429", "200"]),  # errors that pass
    # more attempts than three, since the file grows
    ({"cut": [*[10_000] * 5, None]}, True, ["200", *(f"{n}0000- 206" for n in range(1, 6))]),
]


@pytest.mark.parametrize(("does", "published", "asked"), RESUMED)
def test_what_a_broken_transfer_asks_again(
    server: Loopback, folder: Path, does: dict[str, Any], published: bool, asked: list[str]
) -> None:
    server.files[NAME] = Served(**{"body": BODY, **copy.deepcopy(does)})
    start = time.monotonic()
    file = listed(server.url(NAME)) if published else RemoteFile(urls=(server.url(NAME),))
    assert get(file, folder).read_bytes() == BODY
    found = [" ".join(str(part) for part in request[1:] if part) for request in server.asked]
    assert [request.removeprefix("bytes=") for request in found] == asked
    assert time.monotonic() - start < 2.5  # not the three seconds that a stalled server would take


def test_a_later_call_or_another_address_goes_on(
    server: Loopback, folder: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    server.files[NAME] = Served(BODY, cut=CUT.copy())
    unlisted = RemoteFile(urls=(server.url(NAME),))
    assert "fails (" in refusal(unlisted, folder)
    assert (folder / f"{NAME}.partial").read_bytes() == BODY[:70_000]
    assert get(unlisted, folder).read_bytes() == BODY
    assert lying(folder) == {NAME, f"{NAME}.sha256"}
    server.files["first"] = Served(BODY, cut=50_000)
    server.files["other"] = Served(BODY, etag='"2"')
    file = listed(server.url("first"), server.url("other"))
    assert get(file, folder / "new").read_bytes() == BODY
    wanted = [(NAME, None), (NAME, "bytes=70000-"), ("first", None), ("other", "bytes=50000-")]
    assert [asked[:2] for asked in server.asked] == wanted


@pytest.mark.parametrize(
    ("left", "asked"), [(BODY, [416]), (BODY + b"more", [416, 200]), (OTHER[:9], [206, 200])]
)
def test_earlier_calls_left(server: Loopback, folder: Path, left: bytes, asked: list[int]) -> None:
    """What is whole is not fetched again; what turns out wrong is, once, and from its start."""
    server.files[NAME] = Served(BODY)
    folder.mkdir()
    (folder / f"{NAME}.partial").write_bytes(left)
    assert get(listed(server.url(NAME)), folder).read_bytes() == BODY
    assert [request[3] for request in server.asked] == asked
    assert lying(folder) == ({NAME, f"{NAME}.rejected"} if 200 in asked else {NAME})


REFUSED = [  # what the server does, the words
    ({"ranges": False, "cut": 70_000}, "fails .*70000 bytes read.*3 times in a row"),
    ({"stall": 0}, r"fails .*timed out.*3 times in a row"),
    ({"status": [503] * 9}, "503 Server Error"),
    (  # a page in place of the file
        {"headers": {"Content-Type": "text/html; charset=utf-8"}},
        "a web page instead of the file.*get it from https://example.org/page",
    ),
]


@pytest.mark.parametrize(("does", "words"), REFUSED)
def test_it_is_given_up(server: Loopback, folder: Path, does: dict[str, Any], words: str) -> None:
    server.files[NAME] = Served(**{"body": BODY, **copy.deepcopy(does)})
    text = refusal(listed(server.url(NAME), by_hand="https://example.org/page"), folder)
    assert re.search(words, text), text
    assert not (folder / f"{NAME}.rejected").exists()


def test_nobody_listens_or_a_folder_cannot_be_made(folder: Path) -> None:
    file = listed("http://127.0.0.1:9/a.zip")
    assert "Connection refused" in refusal(file, folder)
    (folder / "file").touch()
    with pytest.raises(FileExistsError):
        get(file, folder / "file")


def test_the_next_address_is_asked(server: Loopback, folder: Path, capsys: Capture) -> None:
    bad = BODY[:-1] + b"?"
    server.files["bad"], server.files["good"] = Served(bad), Served(BODY)
    file = listed(*map(server.url, ("gone", "bad", "good")))
    assert get(file, folder).read_bytes() == BODY
    assert [asked[0] for asked in server.asked] == ["gone", "bad", "good"]  # and each once
    assert "answers 404" in capsys.readouterr().out
    assert (folder / f"{NAME}.rejected").read_bytes() == bad
    shutil.rmtree(folder)
    text = refusal(listed(server.url("bad")), folder)
    assert f"has the SHA256 {hashlib.sha256(bad).hexdigest()}, expected {SHA256}" in text
    assert lying(folder) == {f"{NAME}.rejected"}


WEAKER = [  # a right one, a wrong one, the words
    ({"md5": hashlib.md5(BODY).hexdigest()}, {"md5": "0" * 32}, "has the MD5"),
    ({"sha256_begins": SHA256[:8]}, {"sha256_begins": "0" * 8}, r"expected 0{8} \(from a test"),
]


@pytest.mark.parametrize(("good", "bad", "words"), WEAKER)
def test_the_weaker_hashes_are_checked_where_they_are_all_there_is(
    server: Loopback, folder: Path, good: dict[str, str], bad: dict[str, str], words: str
) -> None:
    server.files[NAME] = Served(BODY)
    get(listed(server.url(NAME), sha256=None, **good), folder)
    recorded = (folder / f"{NAME}.sha256").is_file()
    assert recorded == ("sha256_begins" in good)  # eight digits alone are not enough
    shutil.rmtree(folder)
    assert re.search(words, refusal(listed(server.url(NAME), sha256=None, **bad), folder))


def test_a_file_without_a_length_and_one_said_to_be_encoded(server: Loopback, folder: Path) -> None:
    server.files["chunked"] = Served(BODY, chunked=True)
    server.files["encoded"] = Served(BODY, headers={"Content-Encoding": "gzip"})  # of a .tar.gz
    for name in server.files:
        assert get(listed(server.url(name)), folder / name).read_bytes() == BODY


@pytest.mark.parametrize("links", [True, False])
def test_a_mirror_comes_first(
    server: Loopback, folder: Path, tmp_path: Path, monkeypatch: Patch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / NAME).write_bytes(BODY)
    path = get(listed(server.url(NAME)), folder, tmp_path)
    assert path.read_bytes() == BODY
    assert path.samefile(tmp_path / NAME) == links
    assert server.asked == []


def test_a_wrong_mirror_is_not_used(server: Loopback, folder: Path, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"wrong")
    server.files[NAME] = Served(BODY)
    assert get(listed(server.url(NAME)), folder, tmp_path).read_bytes() == BODY
    assert (tmp_path / NAME).read_bytes() == b"wrong"  # the mirror is left alone
    shutil.rmtree(folder)
    text = refusal(listed(by_hand="a page"), folder, tmp_path)
    assert f"{tmp_path / NAME} has the SHA256 {hashlib.sha256(b'wrong').hexdigest()}" in text
    assert "data.mirror" in refusal(listed(by_hand="a page"), folder, tmp_path / "none")


def test_what_must_be_got_by_hand(folder: Path) -> None:
    file = listed(by_hand="https://example.org/page")
    said = f"get it from https://example.org/page and put it into {folder}, or where data.mirror"
    assert refusal(file, folder) == f"{NAME}: cannot be fetched: {said} says"
    (folder / NAME).write_bytes(BODY)  # as it says
    assert get(file, folder) == folder / NAME


def test_an_unlisted_file_is_trusted_once(server: Loopback, folder: Path, capsys: Capture) -> None:
    server.files[NAME] = Served([BODY, OTHER])
    lock, unlisted = folder / f"{NAME}.sha256", RemoteFile(urls=(server.url(NAME),))
    for said in (True, False):
        get(unlisted, folder)
        assert lock.read_text() == f"{SHA256}  {NAME}\n"
        assert ("trusted this once" in capsys.readouterr().out) == said
    (folder / NAME).unlink()
    text = refusal(unlisted, folder)
    assert f"has the SHA256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}" in text
    assert str(lock) in text


def test_several_at_once_fetch_it_once(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY, stall=[70_000, len(BODY)])
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(get, listed(server.url(NAME)), folder) for _ in range(4)]
    assert {future.result().read_bytes() for future in found} == {BODY}
    assert len(server.asked) == 2  # the first, and the rest after its stall


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    make_archives(folder, side=48)
    return folder


def test_a_dataset_falls_back_on_another(server: Loopback, folder: Path, archives: Path) -> None:
    fetcher = Fetcher(folder, None, registry(archives, server.base))
    server.files["Flickr2K.zip"] = Served((archives / "Flickr2K.zip").read_bytes())
    for _ in range(2):  # then the second source is at hand, and the dead address not asked again
        assert fetcher.dataset("Flickr2K") == [folder / "Flickr2K.zip"]
        assert [asked[0] for asked in server.asked] == ["Flickr2K.tar", "Flickr2K.zip"]


def test_parts_and_a_dataset_nobody_has(server: Loopback, folder: Path, archives: Path) -> None:
    made = registry(archives, server.base)
    found = Fetcher(folder, archives, made).dataset("DF2K")
    assert [path.name for path in found][::4] == ["DIV2K_train_HR.zip", "Flickr2K.tar"]
    assert server.asked == []
    with pytest.raises(UserError, match=r"Flickr2K: .*Flickr2K\.tar.*; or Flickr2K\.zip"):
        Fetcher(folder / "other", None, made).dataset("Flickr2K")
    with pytest.raises(UserError, match="dataset 'Set6' is unknown: choose one of DIV2K"):
        Fetcher(folder, None, made).dataset("Set6")


def test_a_checkpoint_leaves_its_archive(server: Loopback, folder: Path, tmp_path: Path) -> None:
    member = "models_ECCV2018RCAN/RCAN_BIX3.pt"
    write_archive(tmp_path / "models_ECCV2018RCAN.zip", {member: b"weights"})
    made = registry(tmp_path, server.base)
    fetcher = Fetcher(folder, tmp_path, made)
    path = fetcher.checkpoint("rcan_x3")
    assert path == folder / "RCAN_BIX3.pt"
    assert path.read_bytes() == b"weights"
    with pytest.raises(UserError, match=r"has no 'models_ECCV2018RCAN/RCAN_BIX2\.pt'"):
        fetcher.checkpoint("rcan_x2")
    server.files["rcan_x2.pt"] = Served(b"the other file")
    path = Fetcher(folder / "new", None, made).checkpoint("rcan_x2")  # its archive is gone
    assert path.read_bytes() == b"the other file"
