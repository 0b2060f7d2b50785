"""docs/your_own_model.md prints what it shows, but for digits of rounding."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "your_own_model.md"


def shown(text):
    """Return a text without the digits that another machine may round otherwise."""
    text = re.sub(r"\d\.\de[-+]\d\d(?=  | apart|\n)", "#", text)
    return re.sub(r"gradient of .*", "", text)  # in the order of their differences


def test_the_session_of_a_newcomer_prints_what_the_page_shows(capsys):
    blocks = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope = {"__name__": "page"}
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), scope)
        else:
            assert shown(capsys.readouterr().out) == shown(block)
