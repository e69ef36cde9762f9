"""Carry our weights into fastMRI's modules, name by name: the oracle of test_unet, test_unrolled and the benchmark."""

from torch import Tensor, nn


def norm_unet_state(encoder: nn.Module, decoder: nn.Module) -> dict[str, Tensor]:
    """The state of a ``fastmri.models.varnet.NormUnet`` with the weights (not copies) of our encoder and decoder."""
    down, up = dict(encoder.named_parameters()), dict(decoder.named_parameters())
    pools = sum(name.startswith("ups.") for name in up)
    state: dict[str, Tensor] = {}
    for level in range(pools + 1):
        name = "unet.conv" if level == pools else f"unet.down_sample_layers.{level}"
        state |= conv_block(name, down, level)
    for level in range(pools):
        state[f"unet.up_transpose_conv.{level}.layers.0.weight"] = up[f"ups.{level}.weight"]
        state |= conv_block(f"unet.up_conv.{level}" + (".0" if level == pools - 1 else ""), up, level)
    state[f"unet.up_conv.{pools - 1}.1.weight"] = up["last.weight"]
    state[f"unet.up_conv.{pools - 1}.1.bias"] = up["last.bias"]
    return state


def conv_block(name: str, parameters: dict[str, nn.Parameter], level: int) -> dict[str, Tensor]:
    """The two convolutions of one level under fastMRI's names."""
    return {
        f"{name}.layers.0.weight": parameters[f"levels.{level}.first.weight"],
        f"{name}.layers.4.weight": parameters[f"levels.{level}.second.weight"],
    }
