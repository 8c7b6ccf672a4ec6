"""The planted models, made once, also where several processes share the tests."""

import os
import pickle
from pathlib import Path

import planted
import pytest
from filelock import FileLock
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> planted.World:
    own: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return planted.plant()
    kept = own.parent / "world.pickle"  # in the folder of all processes of this session
    with FileLock(kept.with_suffix(".lock")):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(planted.plant()))
        found: planted.World = pickle.loads(kept.read_bytes())
    # transformers finds out what a class of models can record when the first model of it is made
    AutoModelForCausalLM.from_config(found.models["before"].model.config)
    return found
