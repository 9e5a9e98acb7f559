"""What the teacher reads when nbgrader refuses a source."""

from __future__ import annotations

from nblauncher.grading.teacher_side.refusals import words

LOG = """[INFO] Updating/creating assignment 'ps1': {}
[INFO] Converting notebook /srv/class/grading/source/./ps1/problem2.ipynb
[ERROR] There was an error processing assignment: /srv/class/grading/source/./ps1
[ERROR] Traceback (most recent call last):
      File "/opt/x/converters/base.py", line 386, in convert_notebooks
        self.init_assignment()
    nbconvert.reader.ValidationError: Duplicate grade id: same

[WARNING] Removing failed assignment: /srv/class/grading/release/ps1
[ERROR] There was an error processing assignment 'ps1' for student '.'
[ERROR] Please see the the above traceback for details on the specific errors on the above failures.
"""


def test_only_the_reason_is_told_with_the_notebook_that_it_is_about():
    assert words(LOG, "") == "problem2.ipynb: Duplicate grade id: same"


def test_without_a_message_the_exception_is_told():
    error = (
        "Traceback (most recent call last):\n  File ...\nnbgrader.NbGraderException: No notebooks were matched by x\n"
    )
    assert words("[INFO] x\n", error) == "No notebooks were matched by x"
    assert words("", "") == "it does not say why"
