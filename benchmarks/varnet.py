"""The peer: fastMRI's blocks (Sriram et al. 2020) in a chain, on given coil maps.

Its end-to-end network estimates the maps as well; here both sides get ours, so that only the unrolled part differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import fastmri
import torch
from fastmri.models.varnet import NormUnet, VarNetBlock
from torch import Tensor, nn

from recon.unrolled import Block, UnrolledNetwork
from tests.recon.fastmri_weights import norm_unet_state


class FastMRIChain(nn.Module):
    """fastMRI's blocks, and its SENSE combination."""

    def __init__(self, blocks: Iterable[VarNetBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    @classmethod
    def fresh(cls, blocks: int, channels: int, pools: int) -> Self:
        """Blocks as fastMRI starts them, drawn from torch's generator."""
        return cls(VarNetBlock(NormUnet(channels, pools)) for _ in range(blocks))

    @classmethod
    def like(cls, network: UnrolledNetwork) -> Self:
        """With the weights of our network's first task."""
        found = []
        for block in network.blocks:
            assert isinstance(block, Block)
            encoder, decoder, _ = block.path(0)
            theirs = VarNetBlock(NormUnet(network.config.channels, network.config.pools))
            theirs.model.load_state_dict(norm_unet_state(encoder, decoder))
            found.append(theirs)
        return cls(found)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Masked centred k-space to the image.

        Args:
            kspace: (batch, coils, rows, columns, 2).
            mask: (batch, 1, 1, columns, 1), bool.
            maps: the shape of kspace.

        Returns:
            (batch, rows, columns), complex.
        """
        current = kspace.clone()
        for block in self.blocks:
            current = block(current, kspace, mask, maps)
        combined = fastmri.complex_mul(fastmri.ifft2c(current), fastmri.complex_conj(maps)).sum(dim=1)
        return torch.view_as_complex(combined)
