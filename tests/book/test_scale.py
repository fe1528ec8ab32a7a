"""Past one machine: what its cells print, against sums worked by hand."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

# Seconds of opening, of computing and tracing on one H200 (or eight of them), and of NDIF's jobs,
# computing and crossing: such as 1,633,790 tokens · 28 µs · 8.03 / 6.88 = 53.4 s for 8 billion.
MINUTES = {
    "Llama 3.1 8B": ["1.2", "0.3", "0.2", "118"],
    "Llama 3.1 70B": ["9.4", "2.2", "1.4", "338"],
    "Llama 3.1 405B": ["–", "18.6", "9.7", "836"],
}


@pytest.fixture(scope="module")
def page(book):
    return BeautifulSoup((book / "html/book/scale.html").read_bytes(), "html.parser")


def test_two_processes_read_what_one_does(page):
    (said,) = (out for out in page.select("div.cell_output") if "last bit" in out.get_text())
    assert said.get_text().split()[-1] == "True"


def test_the_minutes_follow_from_the_costs(page):
    (shown,) = page.select("div.cell_output table.dataframe")
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in shown.select("tbody tr")]
    found = pd.DataFrame(rows).set_index(0)
    assert {name: list(row) for name, row in found.iterrows()} == MINUTES
