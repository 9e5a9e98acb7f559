"""nbgrader's `Execute`, with a kernel that may do anything: what it sends is bounded, what it did not run has failed.

nbgrader gives full points for a test without output (nbgrader.utils.determine_grade), so a cell that was not run to its
end always gets an error.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.notebooknode import NotebookNode, from_dict
from nbgrader.preprocessors import Execute
from nbgrader.utils import is_grade
from traitlets import Dict, Float, Integer, List, Unicode

from nblauncher.grading.judge_side.kernels import SubmissionKernelManager

_NOT_RUN = "NotRun"
_PROBE_SECONDS = 10.0
_CUT = "\n... the rest of the output was dropped: this submission printed too much ..."


class ConfinedExecute(Execute):
    """Runs all cells that can be run. `events` says what a teacher should know, `ended` why the rest was not run."""

    timeout: Any
    kernel_manager_class = SubmissionKernelManager
    until = Float(help="The moment (time.monotonic) from which on no cell is run.").tag(config=True)
    most_output = Integer(help="Bytes of output that are kept, of the whole notebook.").tag(config=True)
    language_info: Any = Dict(help="What a kernel would say.").tag(config=True)
    events: Any = List()
    ended = Unicode()
    _kept = Integer(0)
    _errors: Any = List()
    _interrupted: Any = List()
    _current = Unicode()

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        if cell.cell_type != "code" or not cell.source.strip():
            return super().preprocess_cell(cell, resources, index)
        if not self.ended and time.monotonic() > self.until:
            self._end("its time was used up")
        if self.ended:
            return self._not_run(cell), resources
        limit = min(float(self.timeout or _PROBE_SECONDS * 1e6), max(1.0, self.until - time.monotonic()))
        was, self.timeout = self.timeout, max(1, int(limit))
        self._errors, self._current = [], _name(cell, index)
        self._cannot_be_skipped(cell, index)
        try:
            return self._with_its_errors(super().preprocess_cell(cell, resources, index)[0], index), resources
        except DeadKernelError:
            self._end("its kernel ended")
        except CellTimeoutError:
            self.events.append(f"cell {_name(cell, index)}: no answer came from its kernel")
        except Exception as error:  # whatever nbclient raises for what is not Jupyter's protocol
            self.events.append(f"cell {_name(cell, index)}: its kernel sent nonsense ({type(error).__name__})")
        finally:
            self.timeout = was
        return self._not_run(cell), resources

    def preprocess(self, nb: Any, resources: Any = None, km: Any = None) -> tuple[Any, Any]:
        self.events, self.ended, self._kept, self._interrupted = [], "", 0, []
        if self.language_info and not any(cell.cell_type == "code" and cell.source.strip() for cell in nb.cells):
            # All that is left of a kernel that has nothing to run.
            nb.metadata["language_info"] = from_dict(self.language_info)
            return nb, resources
        nb.cells.append(_probe(token := secrets.token_hex(8)))
        try:
            nb, resources = super().preprocess(nb, resources, km)
        finally:
            probe = nb.cells.pop()
        if self._interrupted:
            self.events.append(f"cells were interrupted, because they took too long: {', '.join(self._interrupted)}")
        if not self.ended and not _has_failed_as_it_must(probe, token):
            how = "fail otherwise than they must" if _fails(probe) else "do not fail"
            self.events.append(f"assertions {how} in its kernel: its scores prove nothing")
        return nb, resources

    async def _async_handle_timeout(self, timeout: int, cell: Any = None) -> Any:
        """nbgrader only leaves a CellTimeoutError in the cell."""
        self._interrupted.append(f"{self._current} ({timeout} s)")
        return await super()._async_handle_timeout(timeout, cell)

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data", "error"):
            size = _size(msg["content"])
            if self._kept + size > self.most_output:
                return self._drop(msg, cell)
            self._kept += size
            if msg["msg_type"] == "error":
                content = msg["content"]
                self._errors.append(_error(str(content["ename"]), str(content["evalue"])))
        elif msg["msg_type"].startswith("comm"):
            return None
        return super().process_message(msg, cell, cell_index)

    def on_cell_executed(self, **about: Any) -> None:
        """nbgrader adds the error of a reply that has one. Another reply than `ok` is also not the end of the cell."""
        super().on_cell_executed(**about)
        cell, status = about["cell"], about["execute_reply"]["content"]["status"]
        if status != "ok" and not _fails(cell):
            cell.outputs.append(_error(_NOT_RUN, "this cell was not run to its end"))

    def _cannot_be_skipped(self, cell: Any, index: int) -> None:
        tags = cell.metadata.get("tags", [])
        if is_grade(cell) and self.skip_cells_with_tag in tags:
            cell.metadata.tags = [tag for tag in tags if tag != self.skip_cells_with_tag]
            self.events.append(f"cell {_name(cell, index)}: was marked to be skipped, and run nevertheless")

    def _with_its_errors(self, cell: Any, index: int) -> Any:
        """nbgrader looks at the first output that decides. An error comes after a result only where one is forged."""
        if self._errors and not _fails(cell):
            self.events.append(f"cell {_name(cell, index)}: its error was taken away again, and restored")
            cell.outputs.append(self._errors[0])
        if is_grade(cell) and _fails(cell) and any(output.output_type == "execute_result" for output in cell.outputs):
            self.events.append(f"cell {_name(cell, index)}: it sent a result and an error; the error counts")
            cell.outputs = [output for output in cell.outputs if output.output_type != "execute_result"]
        return cell

    def _drop(self, msg: Any, cell: Any) -> None:
        words = "it printed more than is kept; the rest was dropped"
        if words not in self.events:
            self.events.append(words)
            cell.outputs.append(NotebookNode(output_type="stream", name="stdout", text=_CUT))
        if msg["msg_type"] == "error":
            self._errors.append(_error(str(msg["content"].get("ename", ""))[:200], "dropped: too much output"))
            cell.outputs.append(self._errors[-1])

    def _end(self, why: str) -> None:
        self.ended = why

    def _not_run(self, cell: Any) -> Any:
        why = self.ended or "no answer came from its kernel"
        cell.outputs = [*cell.get("outputs", ()), _error(_NOT_RUN, f"this cell was not run to its end: {why}")]
        return cell


def _fails(cell: Any) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def _error(name: str, value: str) -> NotebookNode:
    return NotebookNode(output_type="error", ename=name, evalue=value, traceback=[f"{name}: {value}"])


def _size(content: Any) -> int:
    """Roughly the bytes that it takes in a notebook."""
    if isinstance(text := content.get("text"), str):
        return len(text)
    return len(json.dumps(content, default=str))


def _name(cell: Any, index: int) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id") or index + 1)[:100]


def _probe(token: str) -> NotebookNode:
    """A cell after all others, in which an assertion must fail."""
    source = f"assert not {token!r}, {token!r}"
    return NotebookNode(
        cell_type="code", metadata=NotebookNode(), source=source, outputs=[], execution_count=None, id=token
    )


def _has_failed_as_it_must(probe: Any, token: str) -> bool:
    errors = [output for output in probe.outputs if output.output_type == "error"]
    return any(error.ename == "AssertionError" and error.evalue == token for error in errors)
