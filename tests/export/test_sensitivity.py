"""The estimated divergence of a matrix's rounding against what is measured when it alone is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgeslm_export.formats import Format
from edgeslm_export.gptq import round_to_nearest
from edgeslm_export.layers import LayeredModel
from edgeslm_export.recipe import EMBEDDING
from edgeslm_export.sensitivity import Losses, fisher
from scipy.stats import spearmanr

from tests.export.tiny_models import decoder

torch.set_num_threads(1)  # what is so small is only slowed down by more
FORMATS = [Format(4, 32), Format(8, 64)]
IDS = torch.randint(3, 60, (24, 64), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LayeredModel:
    """A model that says something: its random weights are larger than at the start of a training."""
    torch.manual_seed(7)
    tiny = decoder("llama", vocab_size=60, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    with torch.no_grad():
        for name, parameter in tiny.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0 if name.startswith(("lm_head", "model.embed")) else 4.0)
    folder = tmp_path_factory.mktemp("sensitivity")
    tiny.save_pretrained(folder)
    return LayeredModel(folder)


@pytest.fixture(scope="module")
def losses(model: LayeredModel) -> Losses:
    steps: list[tuple[int, int]] = []
    found = fisher(model, IDS, FORMATS, lambda done, of: steps.append((done, of)))
    assert steps == [(step, len(IDS)) for step in range(len(IDS))]
    return found


def _measured(model: LayeredModel, name: str, form: Format) -> float:
    """Divergence in nats a token with only this matrix rounded."""
    module = model.model.get_submodule(name)
    before = module.weight.clone()
    with torch.inference_mode():
        p = model.model(IDS).logits.log_softmax(dim=-1)
        module.weight.copy_(torch.from_numpy(round_to_nearest(before, form).weights()))
        q = model.model(IDS).logits.log_softmax(dim=-1)
        module.weight.copy_(before)
    return float((p.exp() * (p - q)).sum(dim=-1).mean())


def test_the_estimate_is_near_what_is_measured_and_ranks_alike(model: LayeredModel, losses: Losses) -> None:
    estimated, measured, cases = [], [], []
    for name, by_format in losses.items():
        assert by_format.keys() == set(FORMATS)
        for form, loss in by_format.items():
            cases.append((name, form))
            estimated.append(loss)
            measured.append(_measured(model, name, form))
    ratios = dict(zip(cases, np.array(estimated) / np.array(measured), strict=True))
    assert all(0.1 < ratio < 4 for ratio in ratios.values()), ratios  # values in the last layer are the 0.1
    assert 0.5 < np.median(list(ratios.values())) < 2
    assert spearmanr(estimated, measured).statistic > 0.9


def test_every_matrix_is_measured_the_embedding_too(model: LayeredModel, losses: Losses) -> None:
    assert losses.keys() == {*model.matrices(), EMBEDDING}
    assert all(loss[Format(8, 64)] < 0.05 * loss[Format(4, 32)] for loss in losses.values())


def test_the_same_tokens_give_the_same_losses(model: LayeredModel, losses: Losses) -> None:
    assert fisher(model, IDS, FORMATS, lambda *_: None) == losses
