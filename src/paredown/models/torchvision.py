"""torchvision's networks with the data set's channels and classes: any classifier by its name, and some with a stem for
small images."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Predicate
from torch import nn

from paredown.core.constraints import Count, Rule
from paredown.core.errors import UserError
from paredown.core.keys import identity
from paredown.models.by_name import alternatives, built, refuse_decided

Stem = Literal["imagenet", "cifar"]
SHUFFLENET_WIDTHS = {0.5: "x0_5", 1.0: "x1_0", 1.5: "x1_5", 2.0: "x2_0"}
Width = Annotated[float, Predicate(SHUFFLENET_WIDTHS.__contains__), Rule("one of 0.5, 1.0, 1.5, 2.0")]

OURS = ("weights", "progress", "num_classes", "image_size", "weights_backbone")  # arguments that are not for the user
LISTED = "see torchvision.models.list_models(module=torchvision.models)"
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}  # classifiers that train with the last


@identity("torchvision")
def classifier(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    num_classes: Count = 1000,
    in_channels: Count = 3,
    image_size: tuple[Count, Count] = (224, 224),
) -> nn.Module:
    """Build torchvision's image classifier `name` with `arguments` of its function, with random weights. Other
    channels than three get a new first convolution. Raise UserError for a name or an argument that it does not have."""
    from torchvision import models

    require_classifier(name)
    refuse_decided(arguments := arguments or {}, OURS)
    given = {"aux_logits": False, "init_weights": True, **arguments} if name in AUXILIARY else dict(arguments)
    if name.startswith("vit_"):
        given |= {"image_size": _square(name, image_size)}

    def build() -> nn.Module:
        model: nn.Module = models.get_model_builder(name)(weights=None, num_classes=num_classes, **given)
        return model if in_channels == 3 else with_channels(model, in_channels)

    return built(name, arguments, build, (in_channels, *image_size))


def require_classifier(name: str) -> None:
    """Raise UserError, with the nearest, unless torchvision has an image classifier `name`."""
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return
    more = alternatives(name, known)
    if name in models.list_models():
        task = inspect.getmodule(models.get_model_builder(name)).__name__.split(".")[2]  # type: ignore[union-attr]
        raise UserError(f"model.name={name} is torchvision's for {task}, no image classifier: {more}{LISTED}")
    raise UserError(f"torchvision has no network {name!r}: {more}it has {len(known)} classifiers, {LISTED}")


def with_channels(model: nn.Module, in_channels: int) -> nn.Module:
    """Replace the first convolution of `model` by one for images of `in_channels`, with its settings."""
    name, conv = next((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    settings = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    new = nn.Conv2d(in_channels, conv.out_channels, **settings, bias=conv.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, new)
    return model


def _square(name: str, image_size: tuple[int, int]) -> int:
    if image_size[0] != image_size[1]:
        raise UserError(f"model.name={name} takes square images, these are {image_size[0]}x{image_size[1]}")
    return image_size[0]


@identity("torchvision/resnet18")
def resnet18(num_classes: Count = 1000, in_channels: Count = 3, stem: Stem = "imagenet") -> nn.Module:
    """Build ResNet-18 (He et al. 2016). `stem="cifar"`: first convolution 3x3 with stride 1, no max-pool."""
    return _resnet("resnet18", num_classes, in_channels, stem)


@identity("torchvision/resnet50")
def resnet50(num_classes: Count = 1000, in_channels: Count = 3, stem: Stem = "imagenet") -> nn.Module:
    """Build ResNet-50 with strides on the 3x3 convolutions. `stem="cifar"` as in `resnet18`."""
    return _resnet("resnet50", num_classes, in_channels, stem)


@identity("torchvision/mobilenet_v2")
def mobilenet_v2(num_classes: Count = 1000, in_channels: Count = 3, stem: Stem = "imagenet") -> nn.Module:
    """Build MobileNetV2 (Sandler et al. 2018). `stem="cifar"`: first stride 1."""
    return _with_first_conv("mobilenet_v2", "features.0.0", num_classes, in_channels, stem)


@identity("torchvision/efficientnet_b0")
def efficientnet_b0(num_classes: Count = 1000, in_channels: Count = 3, stem: Stem = "imagenet") -> nn.Module:
    """Build EfficientNet-B0 (Tan and Le 2019). `stem="cifar"`: first stride 1."""
    return _with_first_conv("efficientnet_b0", "features.0.0", num_classes, in_channels, stem)


@identity("torchvision/shufflenet_v2")
def shufflenet_v2(
    num_classes: Count = 1000, in_channels: Count = 3, stem: Stem = "imagenet", width: Width = 1.0
) -> nn.Module:
    """Build ShuffleNetV2 (Ma et al. 2018), `width` 0.5, 1, 1.5 or 2. `stem="cifar"`: first stride 1, no max-pool."""
    name = f"shufflenet_v2_{SHUFFLENET_WIDTHS[width]}"
    model = _with_first_conv(name, "conv1.0", num_classes, in_channels, stem)
    if stem == "cifar":
        model.set_submodule("maxpool", nn.Identity())
    return model


def _resnet(name: str, num_classes: int, in_channels: int, stem: Stem) -> nn.Module:
    model = _with_first_conv(name, "conv1", num_classes, in_channels, stem, small_kernel=True)
    if stem == "cifar":
        model.set_submodule("maxpool", nn.Identity())
    return model


def _with_first_conv(
    name: str, first: str, num_classes: int, in_channels: int, stem: Stem, *, small_kernel: bool = False
) -> nn.Module:
    from torchvision import models

    model: nn.Module = getattr(models, name)(weights=None, num_classes=num_classes)
    conv = model.get_submodule(first)
    assert isinstance(conv, nn.Conv2d)
    if stem == "cifar":
        conv.stride = (1, 1)
    if in_channels != conv.in_channels or (stem == "cifar" and small_kernel):
        kernel = 3 if stem == "cifar" else conv.kernel_size[0]
        model.set_submodule(first, _first_conv(conv, in_channels, kernel))
    return model


def _first_conv(like: nn.Conv2d, in_channels: int, kernel: int) -> nn.Conv2d:
    stride = (like.stride[0], like.stride[1])
    conv = nn.Conv2d(in_channels, like.out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
