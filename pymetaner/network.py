"""What pymetaner asks of a Hugging Face token-classification network: hidden states, head, frozen part, safe copies."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

from pymetaner.checks import instance
from pymetaner.errors import SettingError, UnsupportedModelError
from pymetaner.settings import Settings

__all__ = [
    "adapted_groups",
    "adapted_modules",
    "adapted_parameters",
    "check_network",
    "check_settings",
    "check_trainable",
    "encoder_of",
    "fingerprint_of",
    "forward",
    "frozen_tensors",
    "head_of",
    "layers_of",
    "longest_window",
    "places_of_weights",
    "standing_tensors",
    "version_of",
    "weight_sharing_copy",
    "weights_version",
]


def encoder_of(network: PreTrainedModel) -> nn.Module:
    """The encoder: the network without its head."""
    encoder: nn.Module = network.base_model
    return encoder


def head_of(network: PreTrainedModel) -> list[nn.Module]:
    """The modules that turn the encoder's last hidden state into logits, in order."""
    return [child for child in network.children() if child is not network.base_model]


def forward(network: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, T, C) and last hidden state (B, T, d) of padded pieces (B, T)."""
    hidden: Tensor = network.base_model(input_ids=input_ids, attention_mask=attention_mask)[0]
    logits = hidden
    for module in head_of(network):
        logits = module(logits)
    return logits, hidden


def check_network(network: PreTrainedModel) -> None:
    """Raise UnsupportedModelError unless `forward` computes what the network itself computes."""
    probe = torch.arange(4, device=network.device).view(1, 4)
    ones, fill = torch.ones_like(probe), int(getattr(network.config, "pad_token_id", None) or 0)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            logits, _ = forward(network, probe, ones)
            expected = network(input_ids=probe, attention_mask=ones).logits
            same = torch.allclose(logits, expected, atol=1e-4, equal_nan=True)
            padded, _ = forward(network, torch.cat([probe, ones * fill], 1), torch.cat([ones, ones * 0], 1))
            apart = float((padded[:, :4] - logits).abs().nan_to_num().max() / (1 + logits.abs().nan_to_num().max()))
        layers_of(network)
    except UnsupportedModelError:
        raise
    except Exception as error:  # whatever a network that asks for other things raises
        raise UnsupportedModelError(_unsupported(network, str(error))) from error
    finally:
        network.train(was_training)
    if not same:
        raise UnsupportedModelError(
            _unsupported(network, "its head is not a chain of modules on the last hidden state")
        )
    if apart > (0.01 if network.dtype in (torch.float32, torch.float64) else 0.1):
        raise UnsupportedModelError(
            _unsupported(network, f"padding changes its logits, by {apart:.2f}, so they would depend on the batch")
        )


def _unsupported(network: PreTrainedModel, why: str) -> str:
    return (
        f"{type(network).__name__} cannot be adapted ({why}): expected an encoder with a stack of layers and a token "
        "head on its last hidden state, such as BERT, XLM-R, DistilBERT, DeBERTa or ModernBERT"
    )


def layers_of(network: PreTrainedModel) -> nn.ModuleList:
    """The encoder's stack of layers."""
    count = network.config.num_hidden_layers
    for module in encoder_of(network).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UnsupportedModelError(_unsupported(network, f"it has no list of {count} layers"))


def longest_window(network: PreTrainedModel) -> int:
    """The most pieces, special tokens included, that the encoder can read at once."""
    longest = getattr(network.config, "max_position_embeddings", None) or sys.maxsize
    if longest < 1:  # XLNet's -1: no limit
        longest = sys.maxsize
    for name, module in encoder_of(network).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # The positions of RoBERTa and its kin start behind the padding id.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            longest = min(longest, module.num_embeddings - unused)
    return int(longest)


def check_settings(network: PreTrainedModel, settings: Settings) -> None:
    """Checks that settings go with a network.

    Raises:
        SettingError: if they are no `Settings`, or ask for more pieces or layers than the encoder has.
    """
    instance("settings", settings, Settings, how="Settings(window=...), or replace(model.settings, window=...)")
    longest = longest_window(network)
    if settings.window > longest:
        raise SettingError(
            f"window={settings.window}: this encoder reads {longest} pieces at most; give Settings(window=...)"
        )
    adapted_groups(network, settings.freeze_layers)


def adapted_groups(network: PreTrainedModel, freeze_layers: int) -> list[dict[str, nn.Module]]:
    """The modules whose parameters are trained and adapted, by name: a group for each layer, the last for the head.

    The embeddings (and what else the encoder has outside its layers) and the first `freeze_layers` layers stand still.

    Raises:
        SettingError: if there are fewer layers than that.
    """
    layers = layers_of(network)
    if not 0 <= freeze_layers <= len(layers):
        raise SettingError(f"freeze_layers={freeze_layers}: expected 0 to {len(layers)}, the layers of this encoder")
    names = {id(module): name for name, module in network.named_modules()}
    tops = [[layer] for layer in layers[freeze_layers:]] + [head_of(network)]
    return [
        {
            names[id(module)]: module
            for top in group
            for module in top.modules()
            if any(True for _ in module.parameters(recurse=False))
        }
        for group in tops
    ]


def adapted_modules(network: PreTrainedModel, freeze_layers: int) -> dict[str, nn.Module]:
    """The modules of all `adapted_groups`, by name."""
    return {name: module for group in adapted_groups(network, freeze_layers) for name, module in group.items()}


def adapted_parameters(network: PreTrainedModel, freeze_layers: int) -> dict[str, nn.Parameter]:
    """The parameters of the adapted modules, each once, by their (first) name in the network."""
    named = [
        (f"{name}.{key}", parameter)
        for name, module in adapted_modules(network, freeze_layers).items()
        for key, parameter in module.named_parameters(recurse=False)
    ]
    first = {id(parameter): name for name, parameter in reversed(named)}
    return {name: parameter for name, parameter in named if first[id(parameter)] == name}


def standing_tensors(network: PreTrainedModel, freeze_layers: int) -> dict[str, Tensor]:
    """All other tensors, by name."""
    moving = set(map(id, adapted_parameters(network, freeze_layers).values()))
    return {name: t for name, t in network.state_dict(keep_vars=True).items() if id(t) not in moving}


def places_of_weights(modules: Iterable[nn.Module]) -> Counter[int]:
    """In how many places of some modules each parameter stands, by its id."""
    return Counter(id(p) for module in modules for _, p in module.named_parameters(remove_duplicate=False))


def check_trainable(network: PreTrainedModel, freeze_layers: int) -> None:
    """Checks that the adapted weights can learn while the others stand still.

    Raises:
        SettingError: if they are float16, in which most squares of gradients, that Adam divides by, are 0.
        UnsupportedModelError: if a frozen layer has one of them too.
    """
    moving = [*layers_of(network)[freeze_layers:], *head_of(network)]
    within, everywhere = places_of_weights(moving), places_of_weights([network])
    for name, weight in adapted_parameters(network, freeze_layers).items():
        if weight.dtype == torch.float16:
            raise SettingError(
                "float16 weights cannot be trained, nor fine-tuned on all of a memory: expected float32; give "
                "model.to(torch.float32) and convert what has learned, or adapt on a number of supports (k=2)"
            )
        if everywhere[id(weight)] > within[id(weight)]:
            raise UnsupportedModelError(
                f"{name!r} is a weight of a frozen layer too, which training would move: give the layers weights of "
                "their own, or freeze none of them (freeze_layers)"
            )


def weight_sharing_copy(
    network: PreTrainedModel, own: Iterable[nn.Module] = (), *, trainable: bool = False
) -> PreTrainedModel:
    """A network in evaluation mode, a module tree of its own over the very same weights, none asking for gradients.

    Hooks and modes of the copy never touch the original, so any number of threads may each work on a copy while the
    weights exist once.

    Args:
        network: the network.
        own: modules of it whose weights the copy gets for itself.
        trainable: the copy has the network's own parameters, which ask for gradients if they do there.
    """
    owned = {id(p) for module in own for p in module.parameters(recurse=False)}
    memo: dict[int, object] = {id(b): b for b in network.buffers()}
    memo |= {
        id(p): p if trainable else nn.Parameter(p.detach(), requires_grad=False)
        for p in network.parameters()
        if id(p) not in owned
    }
    copied: PreTrainedModel = copy.deepcopy(network, memo)
    copied.eval()
    return copied


def version_of(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """Changes whenever one of some tensors does; what is written through ``.data`` goes unnoticed, as for autograd.

    Raises:
        UnsupportedModelError: if one was made in inference mode, where PyTorch counts no changes.
    """
    for name, tensor in tensors.items():
        if tensor.is_inference():
            raise UnsupportedModelError(
                f"the weight {name!r} was made inside torch.inference_mode(), so that its changes cannot be noticed, "
                "nor can it be adapted: use torch.no_grad() there; outside of both, "
                "model.network = copy.deepcopy(model.network) makes it an ordinary one"
            )
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())


def weights_version(network: PreTrainedModel) -> object:
    """The `version_of` all weights."""
    return version_of(network.state_dict(keep_vars=True))


def _count_fused_step(optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
    """Raises the version of what a fused optimiser has moved, which PyTorch (2.13) itself leaves as it was.

    Without it everything computed from the weights before would pass for up to date.
    """
    for group in optimizer.param_groups:
        if group.get("fused"):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    torch.autograd.graph.increment_version(parameter)


register_optimizer_step_post_hook(_count_fused_step)


def frozen_tensors(network: PreTrainedModel, count: int) -> dict[str, Tensor]:
    """The encoder's tensors, by name, without those of the layers from `count` on."""
    later = {id(tensor) for layer in layers_of(network)[count:] for tensor in layer.state_dict(keep_vars=True).values()}
    return {
        name: tensor
        for name, tensor in encoder_of(network).state_dict(keep_vars=True).items()
        if id(tensor) not in later
    }


def fingerprint_of(tensors: Mapping[str, Tensor], *extra: object) -> str:
    """A hash of some weights (as float32) and of whatever else decides what comes out of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(str(tuple(tensor.shape)).encode())
        values = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
        digest.update((values + 0).numpy().data)  # -0 becomes 0: packing does not keep the sign of a zero
    digest.update(repr(extra).encode())
    return digest.hexdigest()[:32]
