"""The estimated divergence of a matrix's rounding against what is measured when it alone is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.gptq import round_to_nearest
from edgeslm_export.quantize.recipe import EMBEDDING, HEAD
from edgeslm_export.quantize.sensitivity import ErrorMeter, Sensitivity, measure_sensitivity
from edgeslm_export.sources.layer_reader import LayeredModel
from scipy.stats import spearmanr

from tests.support.export.tiny_models import decoder

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
def found(model: LayeredModel) -> Sensitivity:
    steps: list[tuple[int, int]] = []
    found = measure_sensitivity(model, IDS, FORMATS, lambda done, of, what: steps.append((done, of)))
    assert [done for done, _ in steps] == list(range(len(steps))) and {of for _, of in steps} == {len(steps)}
    assert all(weight.is_meta for weight in model.layers.parameters()), "layers are freed"
    for number in range(len(model.layers)):
        model.load_layer(number)
    return found


def _estimated(model: LayeredModel, found: Sensitivity, name: str, form: Format) -> float:
    if name in (HEAD, EMBEDDING):
        return found.losses[name][form]
    module, seen = model.model.get_submodule(name), []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
    with torch.inference_mode():
        model.model(IDS)
    handle.remove()
    error = torch.from_numpy(round_to_nearest(module.weight, form).weights()) - module.weight
    meter = ErrorMeter(seen[0], found.gradients[name].flatten(), len(error), 1)
    return meter.divergence(error.detach())


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


def test_the_estimate_is_near_what_is_measured_and_ranks_alike(
    model: LayeredModel, found: Sensitivity
) -> None:
    names = [*model.matrices(), EMBEDDING]
    cases = [(name, form) for name in names for form in FORMATS]
    estimated = np.array([_estimated(model, found, *case) for case in cases])
    measured = np.array([_measured(model, *case) for case in cases])
    ratios = dict(zip(cases, estimated / measured, strict=True))
    assert all(0.1 < ratio < 4 for ratio in ratios.values()), ratios  # values in the last layer are the 0.1
    assert 0.5 < np.median(list(ratios.values())) < 2
    assert spearmanr(estimated, measured).statistic > 0.9


def test_every_matrix_is_measured_the_embedding_too(model: LayeredModel, found: Sensitivity) -> None:
    assert found.losses.keys() == {*model.matrices(), EMBEDDING}
    assert found.losses.keys() - found.gradients.keys() == {HEAD, EMBEDDING}
    assert all(lengths.shape == IDS.shape for lengths in found.gradients.values())
    assert all(loss[Format(8, 64)] < 0.05 * loss[Format(4, 32)] for loss in found.losses.values())


def test_losses_of_rounding_are_estimated_before_calibration(model: LayeredModel, found: Sensitivity) -> None:
    cases = [(name, form) for name in found.gradients for form in FORMATS]
    rounded = np.array([found.losses[name][form] for name, form in cases])
    known = np.array([_estimated(model, found, *case) for case in cases])  # with the errors themselves
    assert spearmanr(rounded, known).statistic > 0.95
    assert 0.8 < np.median(rounded / known) < 2  # scales of the estimate are simpler


def test_layer_by_layer_finds_the_gradients_of_the_whole_model(
    model: LayeredModel, found: Sensitivity
) -> None:
    lengths: dict[str, torch.Tensor] = {}
    name = "model.layers.0.mlp.down_proj"

    def keep(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        output.register_hook(lambda gradient: lengths.update({name: gradient.square().sum(dim=-1)}))

    handle = model.model.get_submodule(name).register_forward_hook(keep)
    with torch.enable_grad():
        embedded = model.model.model.embed_tokens(IDS[:1]).detach().requires_grad_(True)
        logits = model.model(inputs_embeds=embedded).logits[0]
        below = logits.detach().softmax(dim=1).cumsum(dim=1)
        at = torch.rand(len(logits), 1, generator=torch.Generator().manual_seed(0)) * below[:, -1:]
        drawn = torch.searchsorted(below, at)[:, 0].clamp_(max=logits.shape[1] - 1)
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
    handle.remove()
    torch.testing.assert_close(lengths[name], found.gradients[name][:1], rtol=1e-3, atol=1e-5)


def test_the_same_tokens_give_the_same_losses(model: LayeredModel, found: Sensitivity) -> None:
    again = measure_sensitivity(model, IDS, FORMATS, lambda *_: None)
    assert again.losses == found.losses
    assert all(torch.equal(again.gradients[name], found.gradients[name]) for name in found.gradients)


@pytest.mark.parametrize(("rows", "columns"), [(32, 8), (2, 64)])
def test_an_error_is_measured_in_the_cheaper_of_two_ways(rows: int, columns: int) -> None:
    torch.manual_seed(3)
    inputs, gradient = torch.randn(64, columns), torch.rand(64)
    error = torch.randn(rows, columns)
    meter = ErrorMeter(inputs, gradient, rows, errors=3)
    assert (meter._products is not None) == (columns < rows)
    expected = ((inputs @ error.T).square().sum(dim=1) * gradient).sum() / (2 * rows * 64)
    assert meter.divergence(error) == pytest.approx(float(expected), rel=1e-5)
