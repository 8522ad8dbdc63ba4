"""torchvision's networks with the data set's channels and classes and, if asked, a stem for small images."""

from __future__ import annotations

from typing import Literal

from torch import nn

from paredown.models.arguments import require_choice, require_count

Stem = Literal["imagenet", "cifar"]
SHUFFLENET_WIDTHS = {0.5: "x0_5", 1.0: "x1_0", 1.5: "x1_5", 2.0: "x2_0"}


def resnet18(num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-18 (He et al. 2016). `stem="cifar"`: first convolution 3x3 with stride 1, no max-pool."""
    return _resnet("resnet18", num_classes, in_channels, stem)


def resnet50(num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-50 with strides on the 3x3 convolutions. `stem="cifar"` as in `resnet18`."""
    return _resnet("resnet50", num_classes, in_channels, stem)


def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet") -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018). `stem="cifar"`: first stride 1."""
    return _with_first_conv("mobilenet_v2", "features.0.0", num_classes, in_channels, stem)


def efficientnet_b0(num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet") -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019). `stem="cifar"`: first stride 1."""
    return _with_first_conv("efficientnet_b0", "features.0.0", num_classes, in_channels, stem)


def shufflenet_v2(
    num_classes: int = 1000, in_channels: int = 3, stem: Stem = "imagenet", width: float = 1.0
) -> nn.Module:
    """ShuffleNetV2 (Ma et al. 2018), `width` 0.5, 1, 1.5, 2. `stem="cifar"`: first stride 1, no max-pool."""
    require_choice("width", width, SHUFFLENET_WIDTHS)
    name = f"shufflenet_v2_{SHUFFLENET_WIDTHS[width]}"
    network = _with_first_conv(name, "conv1.0", num_classes, in_channels, stem)
    if stem == "cifar":
        network.set_submodule("maxpool", nn.Identity())
    return network


def _resnet(name: str, num_classes: int, in_channels: int, stem: Stem) -> nn.Module:
    network = _with_first_conv(name, "conv1", num_classes, in_channels, stem, small_kernel=True)
    if stem == "cifar":
        network.set_submodule("maxpool", nn.Identity())
    return network


def _with_first_conv(
    name: str, first: str, num_classes: int, in_channels: int, stem: Stem, *, small_kernel: bool = False
) -> nn.Module:
    from torchvision import models

    require_count("num_classes", num_classes)
    require_count("in_channels", in_channels)
    require_choice("stem", stem, ("imagenet", "cifar"))
    network: nn.Module = getattr(models, name)(weights=None, num_classes=num_classes)
    conv = network.get_submodule(first)
    assert isinstance(conv, nn.Conv2d)
    if stem == "cifar":
        conv.stride = (1, 1)
    if in_channels != conv.in_channels or (stem == "cifar" and small_kernel):
        kernel = 3 if stem == "cifar" else conv.kernel_size[0]
        network.set_submodule(first, _first_conv(conv, in_channels, kernel))
    return network


def _first_conv(like: nn.Conv2d, in_channels: int, kernel: int) -> nn.Conv2d:
    stride = (like.stride[0], like.stride[1])
    conv = nn.Conv2d(in_channels, like.out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
