"""The convolutional network that turns image observations into the vectors which the stock model embeds."""

import math

import torch
from torch import nn

# (channels, kernel, stride): the network of the paper's Atari experiments (section 4.1, taken from DQN) ...
_LARGE_IMAGE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
# ... which leaves nothing of an image smaller than this
_SMALLEST_LARGE_IMAGE = 36
_SMALL_IMAGE_LAYERS = ((16, 3, 1), (32, 3, 2))


class ImageEncoder(nn.Sequential):
    """Images to feature vectors; the stock `embed_state` then maps these to tokens.

    Args:
        image_shape: `[channels, height, width]` of one observation.
    """

    def __init__(self, image_shape: list[int]) -> None:
        layers: list[nn.Module] = []
        channels = image_shape[0]
        for out_channels, kernel, stride in _layers_for(image_shape):
            layers += [nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU()]
            channels = out_channels
        super().__init__(*layers, nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Bytes from 0 to 255 `(batch, time, channels, height, width)` to features `(batch, time, features)`."""
        weight = self[0].weight
        pixels = images.flatten(0, 1).to(weight.dtype) / 255
        return super().forward(pixels).unflatten(0, images.shape[:2])


def image_features(image_shape: list[int]) -> int:
    """How many features the encoder gives for images `[channels, height, width]`: the model's `state_dim`."""
    sides = image_shape[1:]
    for _, kernel, stride in _layers_for(image_shape):
        sides = [(side - kernel) // stride + 1 for side in sides]
    return _layers_for(image_shape)[-1][0] * math.prod(sides)


def _layers_for(image_shape: list[int]) -> tuple[tuple[int, int, int], ...]:
    smallest = min(image_shape[1:])
    if smallest < 5:
        raise ValueError(
            f"image_shape {list(image_shape)} is [channels, height, width] with a side below 5 pixels: "
            "flatten such observations to vectors."
        )
    return _LARGE_IMAGE_LAYERS if smallest >= _SMALLEST_LARGE_IMAGE else _SMALL_IMAGE_LAYERS
