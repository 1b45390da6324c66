"""Archives that lie: nothing leaves the folder, nothing swells, damage is one line."""

import io
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
from augkd.study.acquire.archives import Archive, safe_name
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


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Archive(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_and_unpacked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    write_archive(path, CONTENT)
    with Archive(path) as archive:
        assert list(archive.members) == list(CONTENT)
        assert archive.in_place == (kind != "a.tar.gz")
        assert {name: archive.read(name) for name in CONTENT} == CONTENT
        out = archive.unpack("set/b.txt", tmp_path / "new" / "b")
        assert out.read_bytes() == b"b"
        archive.extract(tmp_path / "all", CONTENT)
        with pytest.raises(UserError, match="has no 'set/none'"):
            archive.unpack("set/none", tmp_path / "none")
    assert {name: (tmp_path / "all" / name).read_bytes() for name in CONTENT} == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {kind, "new", "all"}


def test_a_folder_is_made_anew_only_of_another_archive(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.tar.gz", tmp_path / "out"
    write_archive(path, CONTENT)
    with Archive(path) as archive:
        archive.extract(folder, ["set/b.txt"])
        assert not (folder / "c").exists()
        made = (folder / "set" / "b.txt").stat().st_ino
        archive.extract(folder, ["set/b.txt"])
        assert (folder / "set" / "b.txt").stat().st_ino == made
    write_archive(path, {"set/b.txt": b"another"})
    with Archive(path) as archive:
        archive.extract(folder, ["set/b.txt"])
    assert (folder / "set" / "b.txt").read_bytes() == b"another"


@settings(max_examples=300, deadline=None)
@given(PARTS)
def test_no_name_leaves_its_folder(parts: list[str]) -> None:
    name = safe_name("/".join(parts))
    if name is None:
        return
    folder = Path("/folder")
    assert not (set(name) & set("\\\x00\n"))
    assert ".." not in name.split("/")
    assert (folder / name).resolve().is_relative_to(folder)
    assert name == safe_name(name)


@settings(max_examples=60, deadline=None)
@given(PARTS, st.booleans())
def test_no_archive_writes_outside_its_folder(parts: list[str], zipped: bool) -> None:
    raw = "/".join(parts)
    with TemporaryDirectory() as temporary:
        home = Path(temporary)
        path = home / "archive"
        try:
            if zipped:
                zip_of(path, zipfile.ZipInfo(raw))
            else:
                tar_of(path, tar_info(raw, size=7))
        except (ValueError, IndexError):
            return  # a name that cannot be written
        try:
            with Archive(path) as archive:
                archive.extract(home / "deep" / "out", archive.members)
        except UserError:
            pass
        assert {file.name for file in home.iterdir()} <= {"archive", "deep"}
        if (home / "deep").exists():
            assert {file.name for file in (home / "deep").iterdir()} <= {"out"}


def test_a_zip_member_without_a_name_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", zipfile.ZipInfo("x"))
    path.write_bytes(path.read_bytes().replace(b"x", b"\0"))
    assert "would leave" in refusal(path)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\\..\\x", "C:/x", "a\nb", ""])
def test_names_that_are_ways_out_are_refused(tmp_path: Path, name: str) -> None:
    good = tar_info("good")
    text = refusal(tar_of(tmp_path / "a.tar", good, tar_info(name)))
    assert "would leave its folder" in text
    if name:
        assert "would leave" in refusal(zip_of(tmp_path / "a.zip", zipfile.ZipInfo(name)))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    text = refusal(tar_of(tmp_path / "a.tar", tar_info("good"), tar_info("bad", kind)))
    assert "a link, a device or an encrypted file, 'bad'" in text


def test_links_and_secrets_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "a link" in refusal(zip_of(tmp_path / "link.zip", link))
    data = bytearray(zip_of(tmp_path / "secret.zip", zipfile.ZipInfo("x")).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    (tmp_path / "secret.zip").write_bytes(data)
    assert "encrypted" in refusal(tmp_path / "secret.zip")


def test_members_that_come_twice_or_contradict_are_refused(tmp_path: Path) -> None:
    assert "'a' twice" in refusal(tar_of(tmp_path / "a.tar", tar_info("a"), tar_info("./a")))
    contradiction = tar_of(tmp_path / "b.tar", tar_info("a/b"), tar_info("a"))
    assert "both as a file and as a folder" in refusal(contradiction)


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / kind
    write_archive(path, {f"{n}": bytes(3_000_000) for n in range(2)})
    Archive(path).close()  # six megabytes are no bomb
    monkeypatch.setattr(archives, "SLACK", 1_000_000)
    if kind == "a.tar":
        Archive(path).close()  # nor is what is as large packed
        data = bytearray(path.read_bytes())
        info = tar_info("0", size=1 << 40)  # a header that promises more than there is
        data[:512] = info.tobuf(tarfile.GNU_FORMAT)
        path.write_bytes(data)
        assert "unpacks to 1099511627776 bytes or more" in refusal(path)
        return
    assert "over 100 times its own size" in refusal(path)
    monkeypatch.setattr(archives, "SLACK", 1 << 30)
    monkeypatch.setattr(archives, "MEMBERS", 1)
    assert "more than 1 members" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    write_archive(path, {"a": bytes(range(256)) * 40, "b": bytes(range(255, -1, -1)) * 40})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    assert "damaged" in refusal(path)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_damage_inside_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    write_archive(path, {"a": bytes(range(256)) * 40})
    path.write_bytes(flip(path.read_bytes(), 150))
    with pytest.raises(UserError, match="damaged archive"), Archive(path) as archive:
        archive.extract(tmp_path / "out", ["a"])
    assert {file.name for file in tmp_path.iterdir()} == {kind}


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
    inner = (tmp_path / "inner.zip").read_bytes()
    path = tmp_path / "a.tar"
    write_archive(path, {"inner.zip": inner})
    assert zipfile.is_zipfile(path)  # so the library would read the wrong one
    with Archive(path) as archive:
        assert list(archive.members) == ["inner.zip"]
