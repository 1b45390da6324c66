"""The teachers that come with the study: trained once, for hours, at budget ``teachers``.

    python -m augkd.study.ship

puts those that are trained into data/teachers, in half precision, each with a card in its header:
the recipe, the run, and what the file scores. README.md there lists the cards.
"""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd
from torch import Tensor, nn

from augkd.data.store import ImageStore
from augkd.degrade.bicubic import Edges, bicubic
from augkd.errors import replacing
from augkd.models import load_network, save_checkpoint
from augkd.models.checkpoint import read_header
from augkd.study.gate import mean_psnr
from augkd.study.params import Study, load_study
from augkd.study.report.style import signed
from augkd.study.runs import source_of

HEAD = """# The teachers of the study

Trained by this pipeline on the photographs of `augkd/study/photographs.csv`, none of which is a
test image, by budget `teachers` of `params.yaml`, each at the revision that stands beside it; `make
teachers` trains their like. Weights are in half precision. PSNR-Y (dB) is the mean over the eight
test photographs, in a single pass, and beside it what it is over bicubic enlargement. That is
little for `real_x4`: of what random blur, noise and JPEG take away, most cannot be brought back.

"""


class Bicubic(nn.Module):
    """Bicubic enlargement as a network."""

    def __init__(self, scale: int, edges: Edges) -> None:
        super().__init__()
        self.scale, self.edges = scale, edges

    def forward(self, lr: Tensor) -> Tensor:
        return bicubic(lr, self.scale, self.edges, up=True)


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
        entry = study.teacher(file.stem)
        below = mean_psnr(Bicubic(entry.scale, study.params.data.edges), store, store.keys, entry)
        over = signed(card["photographs"] - below, 2)
        row |= {"PSNR-Y": f"{card['photographs']:.2f}", "over bicubic": over}
        row |= {"steps": steps + start, "made by": made, "bytes": str(file.stat().st_size)}
        rows.append(row | {"SHA-256": source_of(file)["sha256"]})
    table = pd.DataFrame(rows)
    with replacing(folder / "README.md") as partial:
        lines = table.to_markdown(index=False, disable_numparse=True)
        partial.write_text(f"{HEAD}{lines}\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    print(ship(load_study("teachers")).iloc[:, :5].to_string(index=False))
