"""One real language model, opened once for all tests of this folder."""

import pytest
from support import smollm2
from support.gguf_files import needed

from calib import open_model


@pytest.fixture(scope="session")
def smollm2_file():
    needed()
    try:
        return smollm2.fetched()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(smollm2_file):
    return open_model(smollm2_file)
