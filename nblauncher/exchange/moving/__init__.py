"""A class on its way to another host: the folder that `export` writes and `import` reads (docs/reference.md)."""
