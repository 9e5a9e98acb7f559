"""What is believed of a job's comment, which the student can write."""

from __future__ import annotations

import pytest

from nblauncher.server.node_words import NodeWords, parse

SAID = NodeWords("0123456789abcdef", 2, 40123, frozenset({"listens", "signed-in"}))


def test_what_a_server_says_is_understood():
    assert parse(SAID.to_comment()) == SAID
    assert parse(NodeWords("0123456789abcdef").to_comment()) == NodeWords("0123456789abcdef")


def test_it_fits_into_the_column_that_is_read():
    longest = NodeWords("f" * 16, 9999, 65535, frozenset({"listens", "signed-in", "idle"}))
    assert len(longest.to_comment()) < 200
    assert parse(longest.to_comment()) == longest


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "nbl:physics:0123456789abcdef",
        "nbl1 run=0123456789abcdef r=0 port=22 said=listens",
        "nbl1 run=0123456789abcdef r=0 port=1023 said=listens",
        "nbl1 run=0123456789abcdef r=0 port=65536 said=listens",
        "nbl1 run=0123456789abcdef r=0 port=99999 said=listens",
        "nbl1 run=0123456789abcdef r=0 port=20000 said=kernels",
        "nbl1 run=0123456789abcdef r=0 port=20000 said=listens url=http://10.0.0.1/",
        "nbl1 run=0123456789abcdef r=0 port=20000 said=listens\n",
        "nbl1 run=0123456789abcdef r=0\n port=20000",
        "nbl1 run=0123456789ABCDEF r=0 port=20000",
        "nbl1 run=0123456789abcdef r=0 port=２００００ said=listens",
        " nbl1 run=0123456789abcdef r=0",
    ],
)
def test_anything_else_says_nothing(comment):
    assert parse(comment) is None
