"""Carry our weights into fastMRI's modules, name by name: the oracle of test_unet and test_unrolled."""

from torch import Tensor, nn

from recon.unet import Decoder, Encoder


def norm_unet_state(encoder: Encoder, decoder: Decoder) -> dict[str, Tensor]:
    """The state of a ``fastmri.models.varnet.NormUnet`` with the weights of these two halves."""
    state = {}
    pools = len(decoder.ups)
    for level, block in enumerate(encoder.levels):
        name = "unet.conv" if level == pools else f"unet.down_sample_layers.{level}"
        state |= conv_block(name, block)
    for level, (up, block) in enumerate(zip(decoder.ups, decoder.levels, strict=True)):
        state[f"unet.up_transpose_conv.{level}.layers.0.weight"] = up.weight
        state |= conv_block(f"unet.up_conv.{level}" + (".0" if level == pools - 1 else ""), block)
    state[f"unet.up_conv.{pools - 1}.1.weight"] = decoder.last.weight
    state[f"unet.up_conv.{pools - 1}.1.bias"] = decoder.last.bias
    return state


def conv_block(name: str, block: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.layers.0.weight": block.first.weight, f"{name}.layers.4.weight": block.second.weight}
