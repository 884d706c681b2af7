"""Vision models of torchvision, timm and transformers, in tiny configurations of the real classes."""

from __future__ import annotations

from torch import nn

from tests.zoo.convolution import head, image
from tests.zoo.registry import layers, model


@model(
    "torchvision_densenet",
    needs="torchvision",
    expected={
        "stem": (7, 1),
        "transition": (8, 1),
        **layers(4, {"bottleneck": (10, 1), "growth": (5, 1)}),
    },
)
def torchvision_densenet():
    from torchvision.models.densenet import DenseNet

    return DenseNet(growth_rate=5, block_config=(2, 2), num_init_features=7, bn_size=2, num_classes=3), image(3, 32)


@model(
    "torchvision_squeezenet",
    needs="torchvision",
    expected={
        "stem": (7, 1),
        "squeeze": (3, 1),
        "1x1": (5, 1),
        "3x3": (4, 1),
        "second squeeze": (2, 1),
        "second 1x1": (6, 1),
        "second 3x3": (8, 1),
    },
)
def torchvision_squeezenet():
    from torchvision.models.squeezenet import Fire

    fires = [Fire(7, 3, 5, 4), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(9, 2, 6, 8), nn.Dropout()]
    classify = [nn.Conv2d(14, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), *fires, *classify), image()


@model(
    "torchvision_inception",
    needs="torchvision",
    expected={
        "stem": (7, 1),
        "1x1": (2, 1),
        "3x3 reduced": (3, 1),
        "3x3": (5, 1),
        "5x5 reduced": (4, 1),
        "5x5": (6, 1),
        "after pooling": (8, 1),
    },
)
def torchvision_inception():
    from torchvision.models.googlenet import Inception

    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), Inception(7, 2, 3, 5, 4, 6, 8), *head(21)), image()


@model(
    "torchvision_mobilenet_v3",
    needs="torchvision",
    expected={
        "stream": (8, 1),
        "squeezed": (8, 1),
        "expanded": (24, 1),
        "squeezed 2": (8, 1),
        "stream 2": (16, 1),
        "expanded 2": (40, 1),
        "last convolution": (96, 1),
        "hidden": (11, 1),
    },
)
def torchvision_mobilenet_v3():
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    settings = [
        InvertedResidualConfig(8, 3, 8, 8, True, "RE", 1, 1, 1.0),
        InvertedResidualConfig(8, 5, 24, 16, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(16, 3, 40, 16, False, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(settings, last_channel=11, num_classes=3), image(3, 16)


# A unit with stride 1 sends half of its channels, taken alternately from two branches, past its convolutions: each
# branch of the unit before it falls into the half that passes and the half that does not.
@model(
    "torchvision_shufflenet_v2",
    needs="torchvision",
    expected={
        "stem": (5, 1),
        **layers(2, {"a branch's half that passes": (3, 1), "a branch's other half": (3, 1)}),
        "inside": (6, 1),
        "inside the next unit": (6, 1),
        "out of the next unit": (6, 1),
        **{f"third stage, {part}": (7, 1) for part in ("branch", "other branch", "inside")},
        **{f"fourth stage, {part}": (8, 1) for part in ("branch", "other branch", "inside")},
        "last convolution": (9, 1),
    },
)
def torchvision_shufflenet_v2():
    from torchvision.models.shufflenetv2 import ShuffleNetV2

    return ShuffleNetV2([2, 1, 1], [5, 12, 14, 16, 9], num_classes=3), image(3, 64)


@model(
    "timm_resnet",
    needs="timm",
    expected={
        "deep stem": (4, 1),
        "deep stem 2": (4, 1),
        **{f"{where}, stage {i}": (w, 1) for i, w in enumerate((8, 10, 12, 14)) for where in ("stream", "inside")},
    },
)
def timm_resnet():
    from timm.models.resnet import BasicBlock, ResNet

    options = {"stem_width": 4, "stem_type": "deep", "avg_down": True, "channels": (8, 10, 12, 14)}
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3, **options), image(3, 32)


@model(
    "transformers_resnet_bottleneck",
    needs="transformers",
    expected={
        "stem": (6, 1),
        "stream": (12, 1),
        **layers(2, {"first inside": (3, 1), "second inside": (3, 1)}),
        "stream 2": (20, 1),
        "first inside 2": (5, 1),
        "second inside 2": (5, 1),
    },
)
def transformers_resnet_bottleneck():
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=6, hidden_sizes=[12, 20], depths=[2, 1], layer_type="bottleneck", num_labels=3)
    return ResNetForImageClassification(config), image(3, 32)


CONVNEXT = {f"stream {i}": (width, 1) for i, width in enumerate((4, 6, 9, 10))}
CONVNEXT |= {f"inside {i}": (4 * width, 1) for i, width in enumerate((4, 6, 9, 10))}


@model("timm_convnext", needs="timm", expected=CONVNEXT)
def timm_convnext():
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(num_classes=3, depths=(1, 1, 1, 1), dims=(4, 6, 9, 10), kernel_sizes=3), image(3, 32)


@model("timm_convnext_v2", needs="timm", expected=CONVNEXT)
def timm_convnext_v2():
    from timm.models.convnext import ConvNeXt

    options = {"use_grn": True, "ls_init_value": None, "conv_mlp": True}
    return ConvNeXt(num_classes=3, depths=(1, 1, 1, 1), dims=(4, 6, 9, 10), kernel_sizes=3, **options), image(3, 32)


VIT = {"heads": (3, 1), "query-key dims": (4, 3), "value dims": (4, 3), "mlp": (18, 1)}


@model("timm_vit", needs="timm", expected={"stream": (12, 1), **layers(2, VIT)})
def timm_vit():
    from timm.models.vision_transformer import VisionTransformer

    options = {"img_size": 8, "patch_size": 4, "in_chans": 2, "num_classes": 3}
    return VisionTransformer(**options, embed_dim=12, depth=2, num_heads=3, mlp_ratio=1.5, init_values=0.1), image()


# Register tokens carry no position, so they can be exchanged; the scales of qk-norm are shared by the heads.
@model(
    "timm_vit_registers_qk_norm",
    needs="timm",
    expected={"stream": (12, 1), "registers": (2, 1), **VIT, "query-key dims": (4, 1)},
)
def timm_vit_registers_qk_norm():
    from timm.models.vision_transformer import VisionTransformer

    options = {"img_size": 8, "patch_size": 4, "in_chans": 2, "num_classes": 3, "reg_tokens": 2, "no_embed_class": True}
    return VisionTransformer(**options, embed_dim=12, depth=1, num_heads=3, mlp_ratio=1.5, qk_norm=True), image()


@model(
    "timm_swin",
    needs="timm",
    expected={
        "stream": (6, 1),
        **layers(2, {"heads": (2, 1), "query-key dims": (3, 2), "value dims": (3, 2), "mlp": (9, 1)}),
        "wider stream": (12, 1),
        "wider heads": (3, 1),
        "wider query-key dims": (4, 3),
        "wider value dims": (4, 3),
        "wider mlp": (18, 1),
    },
)
def timm_swin():
    from timm.models.swin_transformer import SwinTransformer

    sizes = {"img_size": 16, "patch_size": 2, "in_chans": 2, "num_classes": 3, "window_size": 2}
    return SwinTransformer(**sizes, embed_dim=6, depths=(2, 1), num_heads=(2, 3), mlp_ratio=1.5), image(2, 16)


@model(
    "timm_mixer",
    needs="timm",
    expected={"stream": (12, 1), **layers(2, {"token mixing": (6, 1), "channel mixing": (18, 1)})},
)
def timm_mixer():
    from timm.models.mlp_mixer import MlpMixer

    options = {"num_classes": 3, "img_size": 8, "in_chans": 2, "patch_size": 4, "num_blocks": 2}
    return MlpMixer(**options, embed_dim=12, mlp_ratio=(0.5, 1.5)), image()
