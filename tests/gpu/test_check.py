"""The check finds on a CUDA device what it finds on the CPU."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from sae_core.check import Check, check_sae
from sae_core.config import Site
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny

pytestmark = pytest.mark.gpu

TEXTS = [row["text"] for row in tiny.tiny_documents()]


@pytest.mark.parametrize("site", [tiny.SITE, Site("mlp_proj", 1), None], ids=str)
def test_a_device_changes_nothing(
    cuda: torch.device, tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE, site: Site | None
) -> None:
    def result(device: torch.device | str) -> Check:
        sae = copy.deepcopy(tiny_sae).to(device)
        sae.cfg = replace(sae.cfg, site=site)
        lm = SplicedLM(copy.deepcopy(tiny_model).to(device), tiny_tokenizer, {})
        return check_sae(lm, sae, text=TEXTS, tokens=600)

    here, there = result("cpu"), result(cuda)
    assert there.verdict == here.verdict
    assert there.convention == here.convention
    assert there.l0 == pytest.approx(here.l0, rel=1e-3)
    assert there.fvu == pytest.approx(here.fvu, rel=1e-3)
    assert {tried.convention for tried in there.tried} == {tried.convention for tried in here.tried}
