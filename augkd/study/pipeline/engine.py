"""A papermill engine that runs a notebook's cells in its own process.

A kernel takes three seconds to start and to stop, for each of some fifty stages, and reads its
user's settings of IPython and matplotlib. Here IPython runs the cells as it would in a kernel: what
they show is kept in the notebook, what they print reaches the terminal as it happens.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.engines import Engine
from traitlets import Type
from traitlets.config import Config


class _Tee(StringIO):
    """Keeps what is written and passes it on."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text)
        self.stream.flush()
        return super().write(text)

    def shown(self) -> str:
        """The text as a terminal leaves it: of a line that is written over, what stands last."""
        lines = self.getvalue().split("\n")
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


class _Shell(InteractiveShell):
    display_pub_class = Type(CapturingDisplayPublisher)
    raised: list[NotebookNode]

    def enable_gui(self, gui: Any = None) -> None:
        """There is none, as %matplotlib inline asks for."""

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        """Keeps it: whoever started the notebook says what is to be said of it."""
        name, value = etype.__name__, str(evalue)
        self.raised.append(new_output("error", ename=name, evalue=value, traceback=stb))


def _outputs(shown: list[Any], by_id: dict[str, NotebookNode]) -> Iterator[NotebookNode]:
    """What a cell has shown; where it has an id, a later cell may put another in its place."""
    for one in shown:
        key = (one.get("transient") or {}).get("display_id", "")
        output = new_output("display_data", data=one["data"], metadata=one["metadata"] or {})
        if one.get("update") and key in by_id:
            by_id[key].update(output)
        else:
            by_id[key] = output
            yield output


class InProcess(Engine):  # type: ignore[misc]
    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Runs cell after cell, up to one that raises: papermill then raises too."""
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        folder = os.path.abspath("build/matplotlib")  # of no settings, but a list of fonts
        os.environ["MPLCONFIGDIR"] = os.environ["MATPLOTLIBRC"] = folder
        with TemporaryDirectory() as folder:  # no settings and no history of a user's
            config = Config(HistoryManager={"enabled": False})
            shell: Any = _Shell.instance(colors="nocolor", ipython_dir=folder, config=config)
        shown, by_id = shell.display_pub.outputs, dict[str, NotebookNode]()
        # of a cell's last line
        shell.display_trap.hook = CapturingDisplayHook(shell, shown)  # type: ignore[no-untyped-call]
        for index, cell in enumerate(nb_man.nb.cells):
            if cell.cell_type != "code":
                continue
            nb_man.cell_start(cell, index)
            out, error, shell.raised = _Tee(sys.stdout), _Tee(sys.stderr), []
            with redirect_stdout(out), redirect_stderr(error):
                done = shell.run_cell(cell.source, store_history=True)
            if not gc.isenabled() and "import " in cell.source:
                gc.freeze()  # modules stay: nothing to be found among them
                gc.enable()
            cell.execution_count = done.execution_count
            streams = (("stdout", out.shown()), ("stderr", error.shown()))
            said = [new_output("stream", name=name, text=text) for name, text in streams if text]
            cell.outputs = [*said, *_outputs(shown, by_id), *shell.raised]
            shown.clear()
            if not done.success:
                nb_man.cell_exception(cell, index)
                break
            nb_man.cell_complete(cell, index)
