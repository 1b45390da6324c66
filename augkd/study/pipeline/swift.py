"""DVC, but for the way in which it orders stages, writes dvc.lock and reads params.yaml.

    python -m augkd.study.pipeline.swift repro

Stages run side by side: see augkd/study/pipeline/abreast.py.

After each stage DVC reads the whole of dvc.lock and writes it anew, with a YAML library that keeps
comments: with sixty stages that takes two seconds, more than most pages take. Here a stage's own
lines are replaced and the others left as they are. What is written is the same to the byte, but
that values which params.yaml shares by an alias are written out.

It also parses params.yaml five times a stage, in half a second each time at its worst. Here a text
that was parsed is not parsed again.
"""

import copy
import json
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dvc.cli import main
from dvc.dvcfile import Lockfile
from dvc.repo import reproduce as dvc_reproduce
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import _yaml, dumps_yaml

from augkd.errors import UserError, replacing
from augkd.study.pipeline.abreast import reproduce, wanted_jobs

HEAD = "schema: '2.0'\nstages:\n"
_BLOCK = re.compile(r"^  (?P<name>[^\s:][^\s:]*):\n(?:   .*\n|  - .*\n)*", re.MULTILINE)


def replace_stage(text: str, name: str, lines: str) -> str | None:
    """A lock file's text with the ``lines`` of a stage in place of its own, or at the end.

    None where the text does not look as DVC writes it.
    """
    if not text.startswith(HEAD):
        return None
    blocks, end = {}, len(HEAD)
    while end < len(text):
        block = _BLOCK.match(text, end)
        if block is None:
            return None
        blocks[block["name"]] = block[0]
        end = block.end()
    blocks[name] = lines
    return HEAD + "".join(blocks.values())


def dump_stages(self: Lockfile, stages: Iterable[Any], **options: Any) -> None:
    """In place of ``Lockfile.dump_stages``, which is called where this one is at a loss."""
    listed = list(stages)
    path = Path(self.path)
    before = text = path.read_text(encoding="utf-8") if path.is_file() else HEAD
    for stage in listed:
        plain = json.loads(json.dumps(to_lockfile(stage, **options)))  # aliases become copies
        lines = dumps_yaml({"stages": plain}).partition("\n")[2]
        changed = replace_stage(text, stage.name, lines)
        if changed is None:
            _slowly(self, listed, **options)
            return
        text = changed
    if text != before or not path.is_file():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
        self.repo.scm_context.track_file(self.relpath)


def parse_once(text: str, path: str, typ: str = "safe") -> Any:
    """In place of ``dvc.utils.serialize._yaml.parse_yaml``; what it returns is the caller's own."""
    if typ != "safe":  # with comments and places, to be written again
        return _parse(text, path, typ)
    return copy.deepcopy(_parsed(text, path))


_slowly, _parse = Lockfile.dump_stages, _yaml.parse_yaml
_parsed = lru_cache(maxsize=8)(_parse)

if __name__ == "__main__":
    try:
        wanted_jobs()
    except UserError as error:
        sys.exit(f"augkd: {error}")
    Lockfile.dump_stages = dump_stages
    _yaml.parse_yaml = parse_once
    dvc_reproduce._reproduce = reproduce
    sys.exit(main(sys.argv[1:]))
