"""The teachers that come with the study: trained once, for hours, at budget ``teachers``.

    python -m augkd.study.ship

puts those that are trained into data/teachers, in half precision, each with a card in its header:
the recipe, the run, and what the file scores. README.md there lists the cards.
"""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from augkd.data.store import ImageStore
from augkd.errors import replacing
from augkd.models import load_network, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.study.gate import mean_psnr
from augkd.study.params import Study, load_study
from augkd.study.runs import source_of

HEAD = """# The teachers of the study

Trained by this pipeline on the photographs of `augkd/study/photographs.csv`, none of which is a
test image, by budget `teachers` of `params.yaml`, each at the revision that stands beside it; `make
teachers` trains their like. Weights are in half precision. PSNR-Y (dB) is the mean over the eight
test photographs, in a single pass.

"""


def ship(study: Study) -> pd.DataFrame:
    """Writes every trained teacher as it is to be shipped, and the list of all that are there."""
    folder = study.root / "data" / "teachers"
    store = ImageStore(study.folder("prepare") / "test")
    for name, entry in study.params.teachers.items():
        trained = study.folder("teach", name)
        if not (trained / "run.json").is_file():
            continue
        network = load_network(trained / "teacher.safetensors").half().float()
        score = round(mean_psnr(network, store, store.keys, entry), 3)
        run, recipe = json.loads((trained / "run.json").read_text()), asdict(study.schedule(entry))
        card: dict[str, Any] = {"images": len(store.keys), "photographs": score, "recipe": recipe}
        card |= {"start": entry.start, "degradation": entry.degradation, "run": run}
        save_checkpoint(folder / f"{name}.safetensors", network.half(), {"card": card})
    rows = []
    for file in sorted(folder.glob("*.safetensors")):
        header = read_header(file)
        card, recipe = header["card"], header["card"]["recipe"]
        sizes = ", ".join(f"{key} {value}" for key, value in header["sizes"].items())
        steps = f"{recipe['steps']} of {recipe['batch']} patches of {recipe['patch']}"
        start = f", from {card['start']}" if card["start"] else ""
        made = f"{card['run']['revision'][:12]}, {card['run']['device']}"
        row = {"teacher": file.stem, "network": f"{header['network']} ×{header['scale']}: {sizes}"}
        row |= {"PSNR-Y": f"{card['photographs']:.2f}", "steps": steps + start, "made by": made}
        rows.append(row | {"bytes": file.stat().st_size, "SHA-256": source_of(file)["sha256"]})
    table = pd.DataFrame(rows)
    with replacing(folder / "README.md") as partial:
        partial.write_text(
            HEAD + table.to_markdown(index=False, disable_numparse=True) + "\n", encoding="utf-8"
        )
    return table


if __name__ == "__main__":
    print(ship(load_study("teachers")).iloc[:, :4].to_string(index=False))
