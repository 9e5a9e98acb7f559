"""nblauncher: a spreadsheet of students becomes a running Jupyter classroom, and the work comes home."""

__version__ = "0.1.0"
