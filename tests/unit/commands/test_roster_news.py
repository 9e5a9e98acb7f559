"""What `status` says of roster and class, in two lines at most."""

import pytest

from nblauncher.commands.teaching.roster_news import Differences


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (Differences(), []),
        (Differences(not_set_up=["dora"]), ["Roster: dora is not set up: `nblauncher reload`"]),
        (
            Differences(not_set_up=["dora", "emil"], not_in_roster=["bob"], changed={"ada": ["seat", "name"]}),
            [
                "Roster: dora, emil are not set up: `nblauncher reload`; "
                "bob is not in the roster: `nblauncher remove --only bob`",
                "Roster: changed since the last `reload`: ada (seat, name)",
            ],
        ),
        (Differences(problem="line 3: \x1b[2J"), ["Roster: line 3: \\x1b[2J"]),
    ],
)
def test_the_lines(found, lines):
    assert found.lines("reload") == lines


def test_a_whole_new_roster_is_still_one_line():
    names = [f"student{number}" for number in range(200)]
    (line,) = Differences(not_set_up=names, not_in_roster=names).lines("setup")
    assert "and 190 more are not set up" in line and "remove --only NAME,..." in line and len(line) < 500
