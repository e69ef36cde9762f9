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

from benchmarks.fastmri_weights import norm_unet_state
from recon.network.unrolled import Block, UnrolledNetwork, sense_start
from recon.physics.operators import Sense


class FastMRIChain(nn.Module):
    """fastMRI's blocks, and its SENSE combination.

    Args:
        blocks: in their order.
        sense_steps: of our SENSE start, whose k-space the first block takes over in place of the acquired one.
    """

    def __init__(self, blocks: Iterable[VarNetBlock], sense_steps: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sense_steps = sense_steps

    @classmethod
    def fresh(cls, blocks: int, channels: int, pools: int, sense_steps: int = 0) -> Self:
        """Blocks as fastMRI starts them, drawn from torch's generator."""
        return cls((VarNetBlock(NormUnet(channels, pools)) for _ in range(blocks)), sense_steps)

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
        return cls(found, network.config.sense_steps)

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Masked centred k-space to the image.

        Args:
            kspace: (batch, coils, rows, columns, 2).
            mask: (batch, 1, 1, columns, 1), bool.
            maps: the shape of kspace.

        Returns:
            (batch, rows, columns), complex.
        """
        current = self._start(kspace, mask, maps) if self.sense_steps else kspace.clone()
        for block in self.blocks:
            current = block(current, kspace, mask, maps)
        combined = fastmri.complex_mul(fastmri.ifft2c(current), fastmri.complex_conj(maps)).sum(dim=1)
        return torch.view_as_complex(combined)

    @torch.no_grad()
    def _start(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        operator = Sense(torch.view_as_complex(maps.contiguous()), mask[..., 0])
        image = sense_start(operator, torch.view_as_complex(kspace.contiguous()), self.sense_steps).x
        return self.blocks[0].sens_expand(torch.view_as_real(image)[:, None], maps)
