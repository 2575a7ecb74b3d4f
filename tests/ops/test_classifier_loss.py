"""The loss fused with the classifier: that of logits made in one piece, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pymetaner.errors import InputError, SettingError
from pymetaner.ops import classifier_loss, classifier_token_loss, masked_token_loss_reference, use_backend


def problem(dtype, sentences=5, tokens=7, width=6, classes=4, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    hidden = torch.randn(sentences, tokens, width, generator=drawn, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(classes, width, generator=drawn, dtype=torch.float64).to(dtype).requires_grad_()
    bias = torch.randn(classes, generator=drawn, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, classes, (sentences, tokens), generator=drawn)
    labels[torch.rand(labels.shape, generator=drawn) < 0.3] = -100
    labels[1] = -100
    return hidden, weight, bias, labels, torch.rand(sentences, generator=drawn, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("at_once", [1, 300, 1 << 20])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_loss_of_logits_made_in_one_piece(monkeypatch, backend, at_once, dtype, tolerance, biased):
    monkeypatch.setitem(classifier_loss._PART, "cpu", at_once)
    hidden, weight, bias, labels, weights = problem(dtype)
    wide = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    logits = functional.linear(wide[0], wide[1], wide[2] if biased else None)
    expected = masked_token_loss_reference(logits, labels, 2.0, sentence_weights=weights.double()).sum()
    (3 * expected).backward()
    with use_backend(backend):
        loss = classifier_token_loss(hidden, weight, bias if biased else None, labels, 2.0, sentence_weights=weights)
        (3 * loss).backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    for ours, theirs in zip((hidden, weight, bias)[: 2 + biased], wide, strict=False):
        assert ours.grad.dtype == dtype
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=tolerance, atol=10 * tolerance)


def test_what_is_not_trained_gets_no_gradient_and_nothing_is_nothing():
    hidden, weight, bias, labels, _ = problem(torch.float32)
    classifier_token_loss(hidden.detach(), weight, bias.detach(), labels, 0.0).backward()
    assert weight.grad is not None and hidden.grad is None and bias.grad is None
    assert classifier_token_loss(hidden[:0], weight, bias, labels[:0], 1.0) == 0
    assert not classifier_token_loss(hidden.detach(), weight.detach(), None, labels, 1.0).requires_grad


def test_what_does_not_go_together_is_refused():
    hidden, weight, bias, labels, weights = problem(torch.float32)
    for wrong in (
        (hidden[0], weight, bias, labels),
        (hidden, weight[:, 1:], bias, labels),
        (hidden, weight, bias[1:], labels),
        (hidden, weight.double(), bias, labels),
        (hidden, weight, bias, labels[1:]),
        (hidden, weight, bias, labels + 5),
    ):
        with pytest.raises(InputError):
            classifier_token_loss(*wrong, 1.0)
    with pytest.raises(InputError, match="sentence_weights"):
        classifier_token_loss(hidden, weight, bias, labels, 1.0, sentence_weights=weights[1:])
    with pytest.raises(SettingError):
        classifier_token_loss(hidden, weight, bias, labels, -1.0)
