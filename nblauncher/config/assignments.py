"""Which folder of the material a deadline or `--assignment` means, or nearly means. Pure.

A name is compared with what the material holds and what was handed out. Every usual form is accepted: `tutorial/ps1` as
in the homes, `material/ps1` as on the teacher's side, `./ps1/`, `ps1\\part`, and an "Übung 1" whose accents are encoded
differently than on the disk.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nblauncher.errors import HostError
from nblauncher.model import EMPTY_FOLDER, LEFT_OUT, Exclusion, Material
from nblauncher.printable import printable
from nblauncher.system import files

_ROMAN = re.compile(r"[ivx]{1,4}")
_ALIKE = 0.8
_SHORTEST = 3


@dataclass(frozen=True, slots=True)
class Known:
    """What the material holds now, or held when it was handed out: paths below it."""

    folders: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    """What the material holds and is never handed out, and why."""

    def __or__(self, other: Known) -> Known:
        return Known(self.folders | other.folders, self.files | other.files, {**self.refused, **other.refused})


@dataclass(frozen=True, slots=True)
class Meaning:
    """`folder` is as the material spells it. `objection` says why the name can never work; else `is_there` counts."""

    folder: str
    is_there: bool
    objection: str = ""


def known(paths: Iterable[str], exclusions: Iterable[Exclusion] = ()) -> Known:
    """From the files that are handed out, and those that are left out."""
    plain = frozenset(paths)
    folders = {above for path in plain for above in _above(path)}
    refused = {}
    for exclusion in exclusions:
        if exclusion.reason == EMPTY_FOLDER:
            folders |= {exclusion.path, *_above(exclusion.path)}
        elif exclusion.path not in plain:
            refused[exclusion.path] = exclusion.reason
    return Known(frozenset(folders), plain, refused)


def plain(text: str) -> str:
    """Normalized: `./ps1/` is ps1, and accents are encoded in one way (NFC)."""
    return "/".join(part for part in unicodedata.normalize("NFC", text.strip()).split("/") if part not in ("", "."))


def objection(text: str, material: Material) -> str:
    """Why this cannot be a folder of any material, in words; '' when it can."""
    if any(_forms(text, material)):
        return ""
    return f'"{printable(text[:60])}" is not a plain folder name below the material (no .. or . at a beginning)'


def meaning(text: str, material: Material, known: Known) -> Meaning:
    """The folder that is meant."""
    forms = list(dict.fromkeys(_forms(text, material)))
    for form in forms:
        same = sorted(folder for folder in known.folders if _nfc(folder) == _nfc(form))
        if len(same) == 1:
            return Meaning(same[0], True)
        if same:
            return Meaning(
                form, True, f"there are {len(same)} folders of this name, which differ in how accents are encoded"
            )
    if plain(text) in map(plain, _names_of_all(material)):
        return Meaning("", False, "this is the material folder itself, and not a folder in it")
    if not forms or text.startswith(("/", "~")):
        return Meaning("", False, f'"{printable(text[:60])}" is not a folder of the material')
    for form in forms:
        if words := _wrong_with(form, known):
            return Meaning(form, False, words)
    near = next((near for form in reversed(forms) if (near := nearest(form, known.folders))), "")
    words = f"there is no such folder in the material; did you mean {printable(near)}?" if near else ""
    return Meaning(forms[-1], False, words)


def nearest(folder: str, folders: Iterable[str]) -> str:
    """The folder that was probably meant, '' for none: PS1 is a misspelling of ps1, lab10 is not one of lab1."""
    wanted = _tokens(folder)
    by_tokens = {known_folder: _tokens(known_folder) for known_folder in sorted(folders)}
    for candidates in (
        [known_folder for known_folder, tokens in by_tokens.items() if tokens == wanted],
        [known_folder for known_folder in by_tokens if _tokens(known_folder.rpartition("/")[2]) == wanted],
        [known_folder for known_folder, tokens in by_tokens.items() if _is_misspelt(wanted, tokens)],
    ):
        if candidates:
            return candidates[0]
    return ""


def _forms(text: str, material: Material) -> Iterator[str]:
    """The possible meanings of the text, most literal first; only paths that can be below the material."""
    for form in (text, text.replace("\\", "/")):
        for rest in (form, *_below(form, material), *_below(form.lstrip("/"), material), form.lstrip("/")):
            if not rest.startswith(("/", "~")) and _is_path(plain(rest)):
                yield plain(rest)


def _below(text: str, material: Material) -> Iterator[str]:
    """The text without the name of the material folder, as in the homes and as on the teacher's side."""
    for prefix in (f"~/{material.target}", *_names_of_all(material)):
        before, rest = plain(text)[: len(plain(prefix))], plain(text)[len(plain(prefix)) :]
        is_same_kind = text.startswith("/") == prefix.startswith("/")
        if is_same_kind and before.casefold() == plain(prefix).casefold() and rest.startswith("/"):
            yield rest[1:]


def _names_of_all(material: Material) -> tuple[str, ...]:
    return str(material.source), material.target, material.source.name


def _is_path(path: str) -> bool:
    try:
        parts = files.parts_of(path, max_depth=64)
    except HostError:
        return False
    return bool(parts) and path.isprintable() and not any(part.startswith(".") for part in parts)


def _wrong_with(form: str, known: Known) -> str:
    """Why a folder of this name can never appear."""
    for path in (*_above(form), form):
        if path in known.files:
            above = path.rpartition("/")[0]
            hint = f"; did you mean {printable(above)}?" if above else ""
            return f"{printable(path)} is a file of the material, and not a folder{hint}"
        if path in known.refused:
            return f"{printable(path)} is never handed out: {known.refused[path]}"
    if left_out := LEFT_OUT.intersection(form.split("/")):
        return f"{min(left_out)} is never handed out"
    return ""


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _tokens(path: str) -> tuple[str, ...]:
    """Words and numbers, without case, accents and separators; `01` is 1."""
    decomposed = unicodedata.normalize("NFKD", path).casefold()
    text = "".join(character for character in decomposed if not unicodedata.combining(character))
    found: list[str] = []
    for token in re.findall(r"/|\d+|[^\W\d_]+", text):
        if token.isdecimal():
            found.append(str(int(token)))
        elif found and found[-1].isalpha() and token.isalpha() and not _ROMAN.fullmatch(token):
            found[-1] += token
        else:
            found.append(token)
    return tuple(found)


def _is_misspelt(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether numbers and folders are equal and words similar. A different last letter counts: exam-a and exam-b."""
    if len(one) != len(other) or [token for token in one if not _is_word(token)] != [
        token for token in other if not _is_word(token)
    ]:
        return False
    first, second = (" ".join(filter(_is_word, tokens)) for tokens in (one, other))
    if min(len(first), len(second)) < _SHORTEST or (len(first) == len(second) and first[:-1] == second[:-1]):
        return False
    from difflib import SequenceMatcher

    return SequenceMatcher(None, first, second).ratio() >= _ALIKE


def _is_word(token: str) -> bool:
    return token.isalpha() and not _ROMAN.fullmatch(token)
