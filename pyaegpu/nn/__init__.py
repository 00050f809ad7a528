"""Modules over the public functions; parameter and buffer names equal torch.nn's."""

from pyaegpu.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, UpsampleConv2d
from pyaegpu.nn.max_unpool import (
    BedOfNails2d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    NearestUnpool2d,
)
from pyaegpu.nn.norm_act import BatchNormAct2d, ConvTransposeNormAct2d
from pyaegpu.nn.sampling import Corrupt, Reparameterize
from pyaegpu.nn.vae_loss import ReconstructionLoss, VAELoss

__all__ = [
    "BatchNormAct2d",
    "BedOfNails2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTransposeNormAct2d",
    "Corrupt",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "NearestUnpool2d",
    "ReconstructionLoss",
    "Reparameterize",
    "UpsampleConv2d",
    "VAELoss",
]
