"""Fetching, against a loopback server of small archives that misbehaves in every known way."""

import copy
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
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
    return RemoteFile.model_validate(
        {"urls": urls, "sha256": SHA256, "hash_from": "a test", **changes}
    )


def unlisted(*urls: str) -> RemoteFile:
    """A file whose hash nobody has published."""
    return RemoteFile(urls=urls)


def get(file: RemoteFile, folder: Path, mirror: Path | None = None) -> Path:
    made = Registry(files={NAME: file}, datasets={}, checkpoints={})
    return Fetcher(folder, mirror, made).file(NAME)


def lying(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def refusal(file: RemoteFile, folder: Path, mirror: Path | None = None) -> str:
    """The one line that says why a file could not be had; the name is not taken."""
    with pytest.raises(UserError) as caught:
        get(file, folder, mirror)
    text = str(caught.value)
    assert "\n" not in text
    assert not (folder / NAME).exists()
    return text


def test_a_file_is_verified_named_and_not_asked_for_again(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY)
    for _ in range(2):
        path = get(listed(server.url(NAME)), folder)
        assert path.read_bytes() == BODY
    assert len(server.asked) == 1
    assert lying(folder) == {NAME}


OTHER = bytes(len(BODY))
WHOLE = (None, None, 200)
REST = ("bytes=70000-", None, 206)
RESUMED = {  # what the server does, whether the file's hash is published, what it is asked
    "a listed file is continued where it broke": (
        {"cut": [70_000, 50_000, None]},
        True,
        [WHOLE, REST, ("bytes=120000-", None, 206)],
    ),
    "an unlisted one only if it is the same": (
        {"cut": [70_000, None]},
        False,
        [WHOLE, ("bytes=70000-", '"1"', 206)],
    ),
    "a server without ranges starts again": (
        {"ranges": False, "cut": [70_000, None]},
        True,
        [WHOLE, ("bytes=70000-", None, 200)],
    ),
    "a file that changed on the server is not spliced": (
        {"bodies": [OTHER, BODY], "etags": ['"old"', '"new"'], "cut": [70_000, None]},
        False,
        [WHOLE, ("bytes=70000-", '"old"', 200)],
    ),
    "without a validator an unlisted file starts again": (
        {"etag": None, "cut": [70_000, None]},
        False,
        [WHOLE, WHOLE],
    ),
    "a weak ETag is none": ({"etag": 'W/"1"', "cut": [70_000, None]}, False, [WHOLE, WHOLE]),
    "a server that stalls is left and asked again": (
        {"stall": [65_536, len(BODY)]},
        True,
        [WHOLE, ("bytes=65536-", None, 206)],
    ),
    "passing errors pass": (
        {"status": [503, 429]},
        True,
        [(None, None, 503), (None, None, 429), WHOLE],
    ),
}


@pytest.mark.parametrize(("does", "published", "asked"), RESUMED.values(), ids=RESUMED)
def test_what_a_broken_transfer_asks_again(
    server: Loopback,
    folder: Path,
    does: dict[str, Any],
    published: bool,
    asked: list[tuple[str | None, str | None, int]],
) -> None:
    server.files[NAME] = Served(**{"body": BODY, **copy.deepcopy(does)})
    start = time.monotonic()
    file = (listed if published else unlisted)(server.url(NAME))
    assert get(file, folder).read_bytes() == BODY
    assert [request[1:] for request in server.asked] == asked
    assert time.monotonic() - start < 2.5  # not the three seconds that a stalled server would take


def test_a_later_call_continues_an_earlier_one(
    server: Loopback, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[NAME] = Served(BODY, cut=[100_000, None])
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    assert "breaks off" in refusal(unlisted(server.url(NAME)), folder)
    assert (folder / f"{NAME}.partial").read_bytes() == BODY[:100_000]
    assert get(unlisted(server.url(NAME)), folder).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-"]
    assert lying(folder) == {NAME, f"{NAME}.sha256"}


def test_attempts_are_counted_only_while_the_file_does_not_grow(
    server: Loopback, folder: Path
) -> None:
    server.files[NAME] = Served(BODY, cut=[*[10_000] * 12, None])
    assert get(listed(server.url(NAME)), folder).read_bytes() == BODY
    assert len(server.asked) == 13  # more than three attempts


def test_the_second_address_continues_a_listed_file(
    server: Loopback, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    server.files["first"] = Served(BODY, cut=[70_000])
    server.files["second"] = Served(BODY, etag='"2"')
    file = listed(server.url("first"), server.url("second"))
    assert get(file, folder).read_bytes() == BODY
    assert [asked[:2] for asked in server.asked] == [("first", None), ("second", "bytes=70000-")]


def test_what_an_earlier_call_left(server: Loopback, folder: Path) -> None:
    """A whole file is not fetched again; a wrong one is set aside, the next starts anew."""
    server.files[NAME] = Served(BODY)
    folder.mkdir()
    (folder / f"{NAME}.partial").write_bytes(BODY)
    assert get(listed(server.url(NAME)), folder).read_bytes() == BODY
    (folder / NAME).unlink()
    (folder / f"{NAME}.partial").write_bytes(BODY + b"more")
    assert f"set aside as {NAME}.rejected" in refusal(listed(server.url(NAME)), folder)
    assert get(listed(server.url(NAME)), folder).read_bytes() == BODY
    assert [asked[3] for asked in server.asked] == [416, 416, 200]


REFUSED = [  # what the server does, the words
    ({"ranges": False, "cut": [70_000]}, "breaks off .*70000 bytes read.*3 times in a row"),
    ({"stall": [0]}, r"breaks off .*timed out.*3 times in a row"),
    ({"status": [503] * 9}, "503 Server Error"),
    (  # a page in place of the file
        {"headers": {"Content-Type": "text/html; charset=utf-8"}},
        "a web page instead of the file.*get it from https://example.org/page",
    ),
]


@pytest.mark.parametrize(("does", "words"), REFUSED)
def test_a_server_that_does_not_serve_the_file_is_given_up(
    server: Loopback, folder: Path, does: dict[str, Any], words: str
) -> None:
    server.files[NAME] = Served(**{"body": BODY, **copy.deepcopy(does)})
    text = refusal(listed(server.url(NAME), by_hand="https://example.org/page"), folder)
    assert re.search(words, text), text
    assert not (folder / f"{NAME}.rejected").exists()


def test_nobody_listens(folder: Path) -> None:
    text = refusal(listed("http://127.0.0.1:9/a.zip"), folder)
    assert "Connection refused" in text
    assert str(folder) in text  # where to put a copy
    assert "data.mirror" in text


def test_a_missing_file_is_had_from_the_next_address(
    server: Loopback, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["there"] = Served(BODY)
    file = listed(server.url("gone"), server.url("there"))
    assert get(file, folder).read_bytes() == BODY
    assert [asked[0] for asked in server.asked] == ["gone", "there"]  # 404 is not asked twice
    assert "answers 404" in capsys.readouterr().out


def test_a_corrupted_file_is_kept_aside_and_the_next_address_asked(
    server: Loopback, folder: Path
) -> None:
    bad = BODY[:-1] + b"?"
    server.files["bad"], server.files["good"] = Served(bad), Served(BODY)
    assert get(listed(server.url("bad"), server.url("good")), folder).read_bytes() == BODY
    assert (folder / f"{NAME}.rejected").read_bytes() == bad
    shutil.rmtree(folder)
    text = refusal(listed(server.url("bad")), folder)
    assert f"SHA256 {hashlib.sha256(bad).hexdigest()}" in text
    assert SHA256 in text
    assert lying(folder) == {f"{NAME}.rejected"}


def test_the_md5_is_checked_where_it_is_all_there_is(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY)
    md5 = hashlib.md5(BODY).hexdigest()
    assert get(listed(server.url(NAME), md5=md5, sha256=None), folder).is_file()
    shutil.rmtree(folder)
    assert "has the MD5" in refusal(listed(server.url(NAME), md5="0" * 32, sha256=None), folder)


def test_a_file_without_a_length_and_one_said_to_be_encoded(server: Loopback, folder: Path) -> None:
    server.files["chunked"] = Served(BODY, chunked=True)
    server.files["encoded"] = Served(BODY, headers={"Content-Encoding": "gzip"})  # of a .tar.gz
    for name in server.files:
        assert get(listed(server.url(name)), folder / name).read_bytes() == BODY


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        get(listed("http://127.0.0.1:9/a.zip"), tmp_path / "file")


def test_the_mirror_comes_first_and_is_linked(
    server: Loopback, folder: Path, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / NAME).write_bytes(BODY)
    path = get(listed(server.url(NAME)), folder, mirror)
    assert path.samefile(mirror / NAME)
    assert server.asked == []


def test_the_mirror_is_copied_from_another_file_system(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / NAME).write_bytes(BODY)
    path = get(listed(by_hand="nowhere"), folder, tmp_path)
    assert path.read_bytes() == BODY
    assert not path.samefile(tmp_path / NAME)


def test_a_wrong_file_in_the_mirror_is_not_used(
    server: Loopback, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(b"wrong")
    server.files[NAME] = Served(BODY)
    assert get(listed(server.url(NAME)), folder, tmp_path).read_bytes() == BODY
    assert (tmp_path / NAME).read_bytes() == b"wrong"  # the mirror is left alone
    shutil.rmtree(folder)
    text = refusal(listed(by_hand="a page"), folder, tmp_path)
    assert f"{tmp_path / NAME} has the SHA256 {hashlib.sha256(b'wrong').hexdigest()}" in text


def test_a_mirror_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    assert "data.mirror" in refusal(listed(by_hand="a page"), folder, tmp_path / "none")


def test_what_must_be_got_by_hand(folder: Path) -> None:
    file = listed(by_hand="https://example.org/page")
    text = refusal(file, folder)
    assert text == (
        f"{NAME}: cannot be fetched: get it from https://example.org/page and put it into "
        f"{folder}, or into the folder that data.mirror names"
    )
    (folder / NAME).write_bytes(BODY)  # as it says
    assert get(file, folder) == folder / NAME


def test_a_wrong_file_in_place_is_set_aside(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY)
    folder.mkdir()
    (folder / NAME).write_bytes(b"wrong")
    assert get(listed(server.url(NAME)), folder).read_bytes() == BODY
    assert (folder / f"{NAME}.rejected").read_bytes() == b"wrong"


def test_an_unlisted_file_is_trusted_once(
    server: Loopback, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[NAME] = Served(BODY)
    get(unlisted(server.url(NAME)), folder)
    lock = folder / f"{NAME}.sha256"
    assert lock.read_text() == f"{SHA256}  {NAME}\n"
    assert "trusted this once" in capsys.readouterr().out
    get(unlisted(server.url(NAME)), folder)
    assert capsys.readouterr().out == ""
    (folder / NAME).unlink()
    server.files[NAME] = Served(BODY[::-1])
    text = refusal(unlisted(server.url(NAME)), folder)
    assert str(lock) in text
    assert hashlib.sha256(BODY[::-1]).hexdigest() in text


def test_the_start_of_a_hash_is_checked(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY)
    begins = SHA256[:8]
    get(listed(server.url(NAME), sha256_begins=begins, sha256=None), folder)
    assert (folder / f"{NAME}.sha256").is_file()  # eight digits alone are not enough
    shutil.rmtree(folder)
    text = refusal(listed(server.url(NAME), sha256_begins="00000000", sha256=None), folder)
    assert "expected 00000000 (from a test)" in text


def test_several_at_once_fetch_it_once(server: Loopback, folder: Path) -> None:
    server.files[NAME] = Served(BODY, stall=[70_000, len(BODY)])
    threads = [
        threading.Thread(target=get, args=(listed(server.url(NAME)), folder)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / NAME).read_bytes() == BODY
    assert len(server.asked) == 2  # the first, and the rest after its stall


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    make_archives(folder, side=48)
    return folder


def test_a_dataset_falls_back_on_its_other_source(
    server: Loopback, folder: Path, archives: Path
) -> None:
    fetcher = Fetcher(folder, None, registry(archives, server.base))
    server.files["Flickr2K.zip"] = Served((archives / "Flickr2K.zip").read_bytes())
    assert fetcher.dataset("Flickr2K") == [folder / "Flickr2K.zip"]
    assert [asked[0] for asked in server.asked] == ["Flickr2K.tar", "Flickr2K.zip"]
    # now the second source is at hand, and the dead address is not asked again
    assert fetcher.dataset("Flickr2K") == [folder / "Flickr2K.zip"]
    assert len(server.asked) == 2


def test_a_dataset_of_parts_and_one_that_nobody_has(
    server: Loopback, folder: Path, archives: Path
) -> None:
    made = registry(archives, server.base)
    found = Fetcher(folder, archives, made).dataset("DF2K")
    assert [path.name for path in found][::4] == ["DIV2K_train_HR.zip", "Flickr2K.tar"]
    assert server.asked == []
    with pytest.raises(UserError, match=r"Flickr2K: .*Flickr2K\.tar.*; or Flickr2K\.zip"):
        Fetcher(folder / "other", None, made).dataset("Flickr2K")
    with pytest.raises(UserError, match="'Set6' is not in the registry"):
        Fetcher(folder, None, made).dataset("Set6")


def test_a_checkpoint_comes_out_of_its_archive(
    server: Loopback, folder: Path, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    member = "models_ECCV2018RCAN/RCAN_BIX3.pt"
    write_archive(mirror / "models_ECCV2018RCAN.zip", {member: b"weights"})
    made = registry(mirror, server.base)
    fetcher = Fetcher(folder, mirror, made)
    path = fetcher.checkpoint("rcan_x3")
    assert path == folder / "RCAN_BIX3.pt"
    assert path.read_bytes() == b"weights"
    with pytest.raises(UserError, match=r"has no 'models_ECCV2018RCAN/RCAN_BIX2\.pt'"):
        fetcher.checkpoint("rcan_x2")
    server.files["rcan_x2.pt"] = Served(b"the other file")
    path = Fetcher(folder / "new", None, made).checkpoint("rcan_x2")  # its archive is gone
    assert path.read_bytes() == b"the other file"
