"""What a file taken from a page says about itself."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.engine.workbench import Workbench
from app.requests import RequestError
from app.settings import Settings
from app.web.exports import about, add_about
from sae_core.bundle import Bundle
from tests import tiny


@pytest.fixture
def workbench(tiny_bundle: Bundle) -> Any:
    opened = Workbench(Settings(open_browser=False, threads=1), tiny_bundle)
    yield opened
    opened.close()


def test_a_file_names_the_version_the_model_and_the_hash_of_the_weights(
    workbench: Workbench, tiny_bundle: Bundle
) -> None:
    facts = about(workbench, "")
    assert facts["name"] == tiny.SAE_NAME
    assert facts["content_hash"] == tiny_bundle.content_hash(tiny.SAE_NAME)
    assert facts["site"] == str(tiny_bundle.sae_config(tiny.SAE_NAME).site)
    # The model's folder would say nothing elsewhere.
    assert facts["model"] == tiny_bundle.name
    assert facts["jumpscope"]


def test_weights_that_are_gone_leave_the_hash_out(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_bundle: Bundle, _name: str) -> str:
        raise ValueError("the file is gone.")

    monkeypatch.setattr(Bundle, "content_hash", refuse)
    assert about(workbench, tiny.SAE_NAME)["content_hash"] == ""


def test_an_sae_that_there_is_not(workbench: Workbench) -> None:
    with pytest.raises(RequestError):
        about(workbench, "other")
    app = FastAPI()
    add_about(app, workbench)
    client = TestClient(app)
    assert client.get("/about", params={"sae": "other"}).status_code == 404
    assert client.get("/about").json() == about(workbench, "")
