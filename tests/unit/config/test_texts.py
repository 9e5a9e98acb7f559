"""web.texts: the teacher's texts, and every problem of a hostile or broken file at once."""

from __future__ import annotations

import pytest

from nblauncher.config import texts
from nblauncher.errors import InputError


def test_names_and_texts_in_any_script():
    data = 'sign_in: "Se connecter"\nhint: |\n  une\n  deux\nfa: "می‌خواهم 👩‍🏫"\n'.encode()
    assert texts.parse(data, "fr.yaml") == {"sign_in": "Se connecter", "hint": "une\ndeux", "fa": "می‌خواهم 👩‍🏫"}


@pytest.mark.parametrize("data", [b"", b"# nothing yet\n"])
def test_an_empty_file_has_no_texts(data):
    assert texts.parse(data, "fr.yaml") == {}


def test_json_is_good_as_well():
    assert texts.parse(b'{"sign_in": "S\\u00e9 <b>"}', "fr.json") == {"sign_in": "Sé <b>"}


def test_every_problem_is_named_with_its_line():
    data = b'a: x\na: y\nb: 7\nc: [x]\nd: "bell \\a"\ne: ""\nf: "' + b"x" * 4001 + b'"\n'
    with pytest.raises(InputError) as caught:
        texts.parse(data, "fr.yaml")
    assert caught.value.problems == (
        "fr.yaml line 2: a: is there twice",
        "fr.yaml line 3: b: not a text; put it in quotes",
        "fr.yaml line 4: c: not a text; put it in quotes",
        "fr.yaml line 5: d: has control characters",
        "fr.yaml line 6: e: empty; leave it out for the English text",
        "fr.yaml line 7: f: longer than 4000 characters",
    )


@pytest.mark.parametrize(
    "data",
    [
        b"- a\n",
        b"just words",
        b"\xff\xfe",
        b"a: [",
        b"a:\t- x",
        b"[" * 60_000,
        b"a: !!python/object/apply:os.system ['true']",
        b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
        b"a: x\x00",
    ],
)
def test_what_is_not_a_list_of_texts_is_refused_in_words(data):
    with pytest.raises(InputError, match=r"fr\.yaml"):
        texts.parse(data, "fr.yaml")
