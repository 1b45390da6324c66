"""The registry as the tables of docs/data.md, written there by ``python -m tests.data_listing``."""

from pathlib import Path

from augkd.study.acquire.registry import Registry, RemoteFile, expected_scores, load_registry

BEGIN, END = "<!-- from the registry: begin -->", "<!-- from the registry: end -->"


def tables(registry: Registry) -> str:
    """Datasets, checkpoints and files, as Markdown."""
    datasets = [
        [
            f"[{name}]({entry.page})",
            entry.role,
            f"{entry.images:,}",
            "; ".join(filter(None, [entry.about, entry.note])),
            " or ".join(" + ".join(source.files) for source in entry.sources)
            or " + ".join(entry.parts),
            entry.licence,
            entry.citation,
        ]
        for name, entry in registry.datasets.items()
    ]
    checkpoints = []
    for name, checkpoint in registry.checkpoints.items():
        scores = expected_scores(checkpoint)
        psnr = scores[scores["metric"] == "psnr_y"]
        checkpoints.append(
            [
                f"[{name}]({checkpoint.page})",
                checkpoint.role,
                " or ".join(
                    f"{source.file} ({source.member})" if source.member else source.file
                    for source in checkpoint.sources
                ),
                ", ".join(
                    f"{row.dataset} {row.value:.{row.decimals}f}" for row in psnr.itertuples()
                )
                or "none",
                checkpoint.licence,
                checkpoint.citation + (f". Note: {checkpoint.note}" if checkpoint.note else ""),
            ]
        )
    files = [
        [name, _size(file), _hash(file), _origin(file)] for name, file in registry.files.items()
    ]
    return "\n".join(
        [
            "### Datasets\n",
            _table(
                ["dataset", "role", "images", "what for", "files", "licence", "citation"], datasets
            ),
            "\n### Checkpoints\n",
            "PSNR-Y in dB of a single pass, as published.\n",
            _table(["checkpoint", "role", "file", "PSNR-Y", "licence", "citation"], checkpoints),
            "\n### Files\n",
            _table(["file", "bytes", "verified by", "from"], files),
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def _size(file: RemoteFile) -> str:
    if file.bytes:
        return f"{file.bytes:,}"
    return f"about {file.about_bytes:,}" if file.about_bytes else "not published"


def _hash(file: RemoteFile) -> str:
    kinds = {
        "SHA-256": file.sha256,
        "MD5": file.md5,
        "start of SHA-256": file.sha256_begins,
    }
    found = [f"{kind} `{value}`" for kind, value in kinds.items() if value]
    if not file.known_hash:
        found.append("the hash of the first fetch")
    return ", ".join(found) + (f"; from {file.hash_from}" if file.hash_from else "")


def _origin(file: RemoteFile) -> str:
    hosts = [f"[{url.split('/')[2]}]({url})" for url in file.urls]
    return ", ".join(hosts + ([f"by hand: {file.by_hand}"] if file.by_hand else []))


def update(page: Path, registry: Registry) -> str:
    """The text of ``page`` with the tables between its two marks made anew."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(registry)}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "data.md"
    page.write_text(update(page, load_registry()), encoding="utf-8")
