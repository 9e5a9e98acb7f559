"""A class that moves: `export` on one host, `import` on another."""
