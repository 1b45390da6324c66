"""Archives that lie: nothing leaves the folder, nothing swells, damage is one line."""

import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augkd.errors import UserError
from augkd.study.acquire import archives
from augkd.study.acquire.archives import open_archive
from tests.miniature_archives import write_archive

CONTENT = {"set/HR/a.png": bytes(range(256)) * 40, "set/b.txt": b"b", "c": b""}
KINDS = ["a.zip", "a.tar", "a.tar.gz"]
PARTS = st.lists(
    st.sampled_from(["..", ".", "", "a", "b.png", "C:", "~", "\\", "..\\x", "\x00", " "])
    | st.text(max_size=5),
    min_size=1,
    max_size=5,
)


def tar_of(path: Path, *infos: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return path


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info


def zip_of(path: Path, *infos: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info in infos:
            archive.writestr(info, b"content")
    return path


def names(path: Path) -> list[str]:
    with open_archive(path) as members:
        return list(members)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        names(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_where_they_lie(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / kind, tmp_path / "new" / "file"
    write_archive(path, CONTENT)
    with open_archive(path) as members:
        assert list(members) == list(CONTENT)
        for name in reversed(CONTENT):
            assert members[name].unpack(out).read_bytes() == CONTENT[name]
    unpacked = {f"{kind}.unpacked"} if kind.endswith("gz") else set()
    assert {path.name for path in tmp_path.iterdir()} == {kind, "new"} | unpacked


def test_a_tar_gz_is_unpacked_anew_only_if_it_is_another(tmp_path: Path) -> None:
    path, tar = tmp_path / "a.tar.gz", tmp_path / "a.tar.gz.unpacked"
    write_archive(path, CONTENT)
    assert names(path) == list(CONTENT)
    made = tar.stat()
    assert names(path) == list(CONTENT)
    assert tar.stat().st_ctime_ns == made.st_ctime_ns
    write_archive(path, {"set/b.txt": b"another"})
    assert names(path) == ["set/b.txt"]


@settings(max_examples=200, deadline=None)
@given(PARTS, st.booleans())
def test_no_name_leaves_its_folder(parts: list[str], zipped: bool) -> None:
    raw = "/".join(parts)
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "archive"
        try:
            if zipped:
                zip_of(path, zipfile.ZipInfo(raw))
            else:
                tar_of(path, tar_info(raw, size=7))
        except (ValueError, IndexError):
            return  # a name that cannot be written
        try:
            (name,) = names(path)
        except UserError:
            return
    folder = Path("/folder")
    assert not (set(name) & set("\\\x00\n"))
    assert ".." not in name.split("/")
    assert (folder / name).resolve().is_relative_to(folder)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\\..\\x", "C:/x", "a\nb"])
def test_names_that_are_ways_out_are_refused(tmp_path: Path, name: str) -> None:
    made = tar_of(tmp_path / "a.tar", tar_info("good"), tar_info(name))
    assert "would leave its folder" in refusal(made)
    assert "would leave" in refusal(zip_of(tmp_path / "a.zip", zipfile.ZipInfo(name)))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    text = refusal(tar_of(tmp_path / "a.tar", tar_info("good"), tar_info("bad", kind)))
    assert "'bad' is a link or a device" in text


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is a link" in refusal(zip_of(tmp_path / "link.zip", link))


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / kind
    write_archive(path, {f"{n}": bytes(3_000_000) for n in range(2)})
    names(path)  # six megabytes are no bomb
    monkeypatch.setattr(archives, "SLACK", 1_000_000)
    if kind == "a.tar":
        names(path)  # nor is what is as large packed
        data = bytearray(path.read_bytes())
        info = tar_info("0", size=1 << 40)  # a header that promises more than there is
        data[:512] = info.tobuf(tarfile.GNU_FORMAT)
        path.write_bytes(data)
    elif kind == "a.tar.gz":
        unpacked = tmp_path / f"{kind}.unpacked"
        unpacked.unlink()
        write_archive(path, {f"{n}": bytes(3_000_000) for n in range(4)})
    assert "over 100 times" in refusal(path)
    if kind == "a.tar.gz":
        assert unpacked.stat().st_size < 5_000_000  # it was not unpacked to the end


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    write_archive(path, {"a": bytes(range(256)) * 40, "b": bytes(range(255, -1, -1)) * 40})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_damage_inside_is_found(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    write_archive(path, {"a": bytes(range(256)) * 40})
    data = bytearray(path.read_bytes())
    data[150] ^= 0xFF
    path.write_bytes(data)
    words = f"^{re.escape(str(path))}: cannot be unpacked"
    with pytest.raises(UserError, match=words), open_archive(path) as members:
        members["a"].unpack(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_text("<html>not found</html>"), "damaged"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "a.zip")
    assert words in refusal(tmp_path / "a.zip")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    write_archive(tmp_path / "inner.zip", {"x": b"x"})
    path = tmp_path / "a.tar"
    write_archive(path, {"inner.zip": (tmp_path / "inner.zip").read_bytes()})
    assert zipfile.is_zipfile(path)  # so the library would read the wrong one
    assert names(path) == ["inner.zip"]
