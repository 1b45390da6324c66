"""The registry as the tables of docs/data.md, written there by ``python -m tests.data_listing``."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from augkd.study.acquire.registry import Registry, RemoteFile, expected_scores, load_registry

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BEGIN, END = "<!-- from the registry: begin -->", "<!-- from the registry: end -->"


def tables(registry: Registry) -> str:
    """Datasets, checkpoints and files, as Markdown."""
    datasets = ["dataset", "role", "images", "what for", "files", "licence", "citation"]
    checkpoints = ["checkpoint", "role", "file", "PSNR-Y", "licence", "citation"]
    files = (_file(name, file) for name, file in registry.files.items())
    return f"""### Datasets

{_table(datasets, _datasets(registry))}

### Checkpoints

PSNR-Y in dB of a single pass, as published.

{_table(checkpoints, _checkpoints(registry))}

### Files

{_table(["file", "bytes", "verified by", "from"], files)}"""


def _datasets(registry: Registry) -> Iterator[Iterable[str]]:
    for name, entry in registry.datasets.items():
        about = f"{entry.about}; {entry.note}" if entry.note else entry.about
        files = " or ".join(" + ".join(source.files) for source in entry.sources)
        link, own = f"[{name}]({entry.page})", files or " + ".join(entry.parts)
        yield link, entry.role, f"{entry.images:,}", about, own, entry.licence, entry.citation


def _checkpoints(registry: Registry) -> Iterator[Iterable[str]]:
    for name, entry in registry.checkpoints.items():
        psnr = expected_scores(entry).query("metric == 'psnr_y'")
        scores = ", ".join(f"{r.dataset} {r.value:.{r.decimals}f}" for r in psnr.itertuples())
        files = " or ".join(
            s.files[0] + (f" ({s.member})" if s.member else "") for s in entry.sources
        )
        citation = entry.citation + (f". Note: {entry.note}" if entry.note else "")
        link = f"[{name}]({entry.page})"
        yield link, entry.role, files, scores or "none", entry.licence, citation


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def _file(name: str, file: RemoteFile) -> Iterable[str]:
    about = f"about {file.about_bytes:,}" if file.about_bytes else "not published"
    kinds = {"SHA-256": file.sha256, "MD5": file.md5, "start of SHA-256": file.sha256_begins}
    found = [f"{kind} `{value}`" for kind, value in kinds.items() if value]
    if not (file.sha256 or file.md5):
        found.append("the hash of the first fetch")
    verified = ", ".join(found) + (f"; from {file.hash_from}" if file.hash_from else "")
    hosts = [f"[{url.split('/')[2]}]({url})" for url in file.urls]
    hosts += [f"by hand: {file.by_hand}"] if file.by_hand else []
    return name, f"{file.bytes:,}" if file.bytes else about, verified, ", ".join(hosts)


def update(registry: Registry) -> str:
    """The text of the page with the tables between its two marks made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(registry)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(update(load_registry()), encoding="utf-8")
