"""A class whose submissions are naturally alike, with planted copies: what similarity is measured on.

Ten small tasks in two notebooks. A student has a taste (loops, comprehensions, libraries, while) and mostly follows it,
so in a large class dozens solve a task in the same style; `«a¦b»` is a choice that every student makes alone, and
{a}, {b} ... are names of their own. A planted copy renames everything, reorders cells, and has other comments.
"""

from __future__ import annotations

import builtins
import io
import json
import keyword
import random
import re
import textwrap
import tokenize
from pathlib import Path

TEXT = """
== squares n
{a} = []
for {b} in range(1, n + 1):
    {a}.append({b} «** 2¦* {b}»)
return {a}
--
return [{b} «** 2¦* {b}» for {b} in range(1, n + 1)]
--
return list(map(lambda {b}: {b} «** 2¦* {b}», range(1, «n + 1¦1 + n»)))
--
{a}, {b} = [], 1
while {b} <= n:
    {a} «+= [{b} ** 2]¦.append({b} * {b})»
    {b} += 1
return {a}
== total values
{a} = 0
for {b} in values:
    «{a} += {b}¦{a} = {a} + {b}»
return {a}
--
return sum(«values¦{b} for {b} in values¦[{b} for {b} in values]»)
--
import functools
return functools.reduce(lambda {a}, {b}: {a} + {b}, values«, 0¦, 0.0»)
--
{a}, {b} = 0, 0
while {b} < len(values):
    {a} += values[{b}]
    {b} += 1
return {a}
== mean values
{a} = 0
for {b} in values:
    {a} += {b}
«return {a} / len(values)¦{c} = {a} / len(values)
return {c}»
--
«if not values:
    return 0
¦»return sum(values) / len(values)
--
import statistics
return statistics.mean(«values¦list(values)»)
--
{a} = {b} = 0
while «{b} < len(values)¦len(values) > {b}»:
    {a} += values[{b}]
    {b} += 1
return {a} / {b}
== count_words text
{a} = {{}}
for {b} in text«.split()¦.lower().split()»:
    «if {b} in {a}:
        {a}[{b}] += 1
    else:
        {a}[{b}] = 1¦if {b} not in {a}:
        {a}[{b}] = 0
    {a}[{b}] += 1»
return {a}
--
{a} = text.split()
return {{{b}: {a}.count({b}) for {b} in «set({a})¦{a}»}}
--
from collections import Counter
return «Counter(text.split())¦dict(Counter(text.split()))»
--
{a}, {b}, {c} = {{}}, 0, text.split()
while {b} < len({c}):
    {a}[{c}[{b}]] = {a}.get({c}[{b}], 0) + 1
    {b} += 1
return {a}
== primes n
{a} = []
for {b} in range(2, n« + 1¦+1»):
    {c} = True
    for {d} in range(2, «{b}¦int({b} ** 0.5) + 1¦{b} // 2 + 1»):
        if {b} % {d} == 0:
            {c} = False«
            break¦»
    if {c}:
        {a}.append({b})
return {a}
--
return [
    {b} for {b} in range(2, n + 1)
    if «all({b} % {d} for {d} in range(2, {b}))¦not any({b} % {d} == 0 for {d} in range(2, int({b} ** 0.5) + 1))»
]
--
{a} = [True] * (n + 1)
for {b} in range(2, «n + 1¦int(n ** 0.5) + 1»):
    if {a}[{b}]:
        for {c} in range({b} * {b}, n + 1, {b}):
            {a}[{c}] = False
return [{b} for {b} in range(2, n + 1) if {a}[{b}]]
--
{a} = []
{b} = 2
while {b} <= n:
    {c} = 2
    while {c} < {b} and {b} % {c} «!= 0¦> 0»:
        {c} += 1
    if {c} == {b}:
        {a}.append({b})
    {b} += 1
return {a}
== fibonacci n
{a} = [0, 1]
for {b} in range(«2, n¦n - 2»):
    {a}.append({a}[-1] + {a}[-2])
return {a}«[:n]¦»
--
return [0, 1][:n] if n < 3 else fibonacci(n - 1) + [fibonacci(n - 1)[-1] + fibonacci(n - 2)[-1]]
--
from itertools import islice
def {a}():
    {b}, {c} = 0, 1
    while True:
        yield {b}
        {b}, {c} = {c}, {b} + {c}
return list(islice({a}(), n))
--
{a}, {b}, {c} = [], 0, 1
while len({a}) < n:
    {a}.append({b})
    «{b}, {c} = {c}, {b} + {c}¦{d} = {b} + {c}
    {b} = {c}
    {c} = {d}»
return {a}
== read_table path
{a} = []
with open(path) as {b}:
    for {c} in {b}:
        {a}.append({c}.strip().split(','))
return {a}«[1:]¦»
--
with open(path«, 'r'¦, encoding='utf-8'¦») as {b}:
    return [{c}.strip().split(',') for {c} in {b}]
--
import csv
with open(path«, newline=''¦») as {b}:
    «return list(csv.reader({b}))¦{a} = csv.reader({b})
    return list({a})»
--
{a} = open(path)
{b} = []
{c} = {a}.readline()
while {c}:
    {b}.append({c}.rstrip().split(','))
    {c} = {a}.readline()
«{a}.close()
¦»return {b}
== median values
{a} = sorted(values)
{b} = len({a})
if {b} % 2 «== 1¦!= 0»:
    return {a}[{b} // 2]
«else:
    return ({a}[{b} // 2 - 1] + {a}[{b} // 2]) / 2¦return ({a}[{b} // 2 - 1] + {a}[{b} // 2]) / 2»
--
{a}, {b} = sorted(values), len(values) // 2
return {a}[{b}] if len({a}) % 2 else «sum({a}[{b} - 1:{b} + 1]) / 2¦({a}[{b} - 1] + {a}[{b}]) / 2»
--
import statistics
return statistics.median(values)
--
{a} = list(values)
while len({a}) > 2:
    {a}.remove(min({a}))
    {a}.remove(max({a}))
return sum({a}) / len({a})
== bisection f, low, high, tolerance=1e-9
for {a} in range(«100¦1000¦200»):
    {b} = (low + high) / 2
    if f(low) * f({b}) «< 0¦<= 0»:
        high = {b}
    else:
        low = {b}
return {b}
--
{b} = (low + high) / 2
if high - low < «1e-9¦tolerance»:
    return {b}
return bisection(f, low, {b}) if f(low) * f({b}) < 0 else bisection(f, {b}, high)
--
from scipy.optimize import brentq
return brentq(f, low, high«, xtol=1e-9¦»)
--
while «high - low > 1e-9¦abs(high - low) > tolerance»:
    {b} = «(low + high) / 2¦low + (high - low) / 2»
    if f({b}) == 0:
        return {b}
    if f(low) * f({b}) < 0:
        high = {b}
    «else:
        low = {b}¦elif f(high) * f({b}) < 0:
        low = {b}»
return (low + high) / 2
== caesar text, shift
{a} = ''
for {b} in text:
    if {b}.«isalpha()¦islower()»:
        {a} += chr((ord({b}) - 97 + shift) % 26 + 97)
    else:
        {a} += {b}
return {a}
--
return ''.join(
    chr((ord({b}) - «97¦ord('a')» + shift) % 26 + «97¦ord('a')») if {b}.isalpha() else {b} for {b} in text
)
--
import string
{a} = string.ascii_lowercase
return text.translate(str.maketrans({a}, {a}[shift:] + {a}[:shift]))
--
{a}, {b} = [], 0
while {b} < len(text):
    {c} = text[{b}]
    if 'a' <= {c} <= 'z':
        {c} = chr((ord({c}) - ord('a') + shift) % 26 + ord('a'))
    {a}.append({c})
    {b} += 1
return ''.join({a})
"""
"""`== name arguments`, then the bodies of the function, a style each."""


def _tasks() -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Arguments and styles of each task."""
    arguments, styles = {}, {}
    for task in re.split("^== ", TEXT, flags=re.M)[1:]:
        head, _, body = task.partition("\n")
        name, _, arguments[name] = head.partition(" ")
        styles[name] = tuple(style.strip("\n") for style in body.split("\n--\n"))
    return arguments, styles


ARGUMENTS, TASKS = _tasks()
NOTEBOOKS = {"problem1": tuple(TASKS)[:5], "problem2": tuple(TASKS)[5:]}
TRIES = (
    "print({name}({x}))",
    "{name}({x})",
    "assert {name}({x}) is not None",
    "for {a} in range({x}):\n    print({a}, {name}({a}))",
    "{a} = {name}({x})\nprint('the answer is', {a})",
    "try:\n    {name}(None)\nexcept TypeError as {a}:\n    print({a})",
    "%timeit {name}({x})",
)
NAMES = (
    "result",
    "numbers",
    "i",
    "value",
    "item",
    "acc",
    "temp",
    "x",
    "y",
    "data",
    "out",
    "k",
    "j",
    "word",
    "line",
    "res",
)
FIXED = ("f", "low", "high", "tolerance", "n", "values", "text", "path", "shift")
COMMENTS = (
    "# my solution",
    "# first the easy case",
    "# TODO check",
    "# see the lecture",
    "# works",
    "# as in the book",
)
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"


def make(course: Path, names: list[str], *, planted: int = 3, seed: int = 1) -> list[tuple[str, str]]:
    """Write `release/ps1` and `submitted/NAME/ps1` for all names. Returns the planted pairs: original and copy."""
    chance = random.Random(seed)
    _write(course / "release/ps1", {task: _given(task) for task in TASKS}, {})
    written = {}
    for name in names:
        written[name] = _solutions(random.Random(chance.random()))
        _write(course / f"submitted/{name}/ps1", *written[name])
    chosen = chance.sample(names, 2 * planted)
    pairs = list(zip(chosen[:planted], chosen[planted:], strict=True))
    for original, copy in pairs:
        solutions, tries = written[original]
        order = chance.sample(list(TASKS), len(TASKS))
        disguised = {task: _disguised(solutions[task], chance) for task in order}
        others = {task: _disguised(text, chance) for task, text in tries.items()}
        _write(course / f"submitted/{copy}/ps1", disguised, others, order)
    return pairs


def _given(task: str, body: str = STUB) -> str:
    return f"def {task}({ARGUMENTS[task]}):\n{textwrap.indent(body, '    ')}"


def _solutions(chance: random.Random) -> tuple[dict[str, str], dict[str, str]]:
    """The functions, and what the student tried besides."""
    taste = chance.randrange(4)
    solved, tried = {}, {}
    for task, styles in TASKS.items():
        body = styles[taste if chance.random() < 0.6 else chance.randrange(len(styles))]
        solved[task] = _given(task, f"{chance.choice(COMMENTS)}\n{_own(body, chance)}")
        if chance.random() < 0.5:
            tried[task] = _own(chance.choice(TRIES), chance, name=task, x=str(chance.randint(2, 90)))
    return solved, tried


def _own(text: str, chance: random.Random, **more: str) -> str:
    names = chance.sample(NAMES, 4)
    chosen = re.sub("«(.*?)»", lambda each: chance.choice(each[1].split("¦")), text, flags=re.S)
    return chosen.format(**dict(zip("abcd", names, strict=True)), **more)


def _disguised(text: str, chance: random.Random) -> str:
    """Other names, comments, numbers of spaces; the same program."""
    if text.startswith("%"):
        return text
    renamed: dict[str, str] = {}
    pieces = []
    fixed = {*keyword.kwlist, *dir(builtins), *TASKS, *FIXED}
    previous = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        word = token.string
        if token.type == tokenize.COMMENT:
            word = chance.choice(("# I did it like this", "# step", "#"))
        elif token.type == tokenize.NAME and word in NAMES and word not in fixed and previous != ".":
            word = renamed.setdefault(word, f"{chance.choice(('my', 'the', 'a'))}_{word[::-1]}{len(renamed)}")
        pieces.append((token.type, word))
        previous = token.string
    return tokenize.untokenize(pieces)


def _write(folder: Path, solved: dict[str, str], tried: dict[str, str], order: list[str] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tasks in NOTEBOOKS.items():
        cells = [_cell("import math\nimport numpy as np\nimport matplotlib.pyplot as plt")]
        for task in order or tasks:
            if task in tasks:
                cells += [_cell(solved[task])]
                cells += [_cell(tried[task])] if task in tried else []
                cells += [_cell(f'"""Check that {task} is right."""\nassert callable({task})\nprint({task}.__name__)')]
        about = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
        notebook = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook, indent=1))


def _cell(source: str) -> dict[str, object]:
    lines = source.splitlines(keepends=True)
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": lines}
