"""Networks by name: the papers' U-Net and every architecture of segmentation_models_pytorch."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from semiweak.networks.base import SegmentationNetwork
from semiweak.networks.build import build_network
from semiweak.networks.unet import UNet

QUICK = ["Unet", "DeepLabV3Plus", "PAN", "Segformer"]
REST = ["UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "UPerNet", "DPT"]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]


def build(architecture, **arguments):
    if architecture == "DPT":
        arguments = {"encoder": "tu-vit_tiny_patch16_224"} | arguments
    arguments = {"in_channels": 1, "out_channels": 3, "encoder": "resnet18"} | arguments
    torch.manual_seed(0)
    return build_network(f"smp.{architecture}", **arguments)


def test_unet_is_the_papers_unet():
    network = build_network(
        "UNet",
        in_channels=2,
        out_channels=3,
        spatial_dims=3,
        widths=[4, 8],
        norm="group",
        dropout=0.25,
    )
    assert isinstance(network, UNet)
    assert network(torch.zeros(1, 2, 3, 4, 5)).shape == (1, 3, 3, 4, 5)
    assert network.feature_channels == 4
    assert network.dropout.p == 0.25
    assert any(isinstance(m, nn.GroupNorm) for m in network.modules())


def test_the_defaults_of_the_name_are_those_of_the_class():
    by_name, by_class = build_network(in_channels=1, out_channels=2), UNet(1, 2)
    assert str(by_name) == str(by_class)


def test_every_architecture_of_smp_is_tested_here():
    import segmentation_models_pytorch as smp

    names = {a.__name__ for a in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    assert names == {*QUICK, *REST}


@pytest.mark.parametrize("architecture", ALL)
def test_any_size_and_any_number_of_channels(architecture):
    network = build(architecture, in_channels=2).eval()
    assert isinstance(network, SegmentationNetwork)
    with torch.no_grad():
        for size in ((1, 1), (19, 50), (131, 37)):
            x = torch.randn(1, 2, *size)
            assert network(x).shape == (1, 3, *size)
            assert network.features(x).shape == (1, network.feature_channels, *size)
            features, output = network.features_and_output(x)
            assert torch.equal(features, network.features(x))
            assert torch.equal(output, network(x))


@pytest.mark.parametrize("architecture", ALL)
def test_the_numbers_are_smps_own(architecture):
    import segmentation_models_pytorch as smp

    network = build(architecture, in_channels=2)
    encoder = {"encoder_name": "resnet18"}
    if architecture == "DPT":
        encoder = {"encoder_name": "tu-vit_tiny_patch16_224", "dynamic_img_size": True}
    native = getattr(smp, architecture)(encoder_weights=None, in_channels=2, classes=3, **encoder)
    native.to(memory_format=torch.channels_last)
    native.load_state_dict(
        {k.removeprefix("model."): v for k, v in network.model.state_dict().items()}
        | {f"segmentation_head.{k}": v for k, v in network.head.state_dict().items()}
    )
    x = torch.randn(1, 2, 128, 160)
    network.eval()
    native.eval()
    with torch.no_grad():
        assert torch.equal(network(x), native(x))
        heads = [m for m in network.head.modules() if isinstance(m, nn.Conv2d)]
        if len(heads) == 1 and heads[0].kernel_size == (1, 1):
            # A 1x1 convolution may as well come after the upsampling: the same logits must follow.
            torch.testing.assert_close(
                heads[0](network.features(x)), native(x), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("architecture", ALL)
def test_every_parameter_gets_a_gradient_or_is_frozen(architecture):
    network = build(architecture)
    network(torch.randn(2, 1, 40, 40)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {
        n.removeprefix("model.encoder.")
        for n, p in network.named_parameters()
        if not p.requires_grad
    }
    if architecture == "PSPNet":
        assert {n.split(".")[0] for n in frozen} == {"layer3", "layer4"}
    elif architecture == "DPT":
        assert {n.rsplit(".", 1)[0] for n in frozen} == {"model.norm", "model.head"}
    else:
        assert not frozen


@pytest.mark.parametrize("architecture", ALL)
def test_bfloat16_autocast(architecture):
    network = build(architecture).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(1, 1, 30, 40))
    assert logits.shape == (1, 3, 30, 40)
    assert logits.isfinite().all()


@pytest.mark.parametrize("encoder", ["mit_b0", "tu-resnet18", "tu-swin_tiny_patch4_window7_224"])
def test_transformers_and_timm_encoders(encoder):
    network = build("Unet", encoder=encoder, in_channels=4).eval()
    assert network.training is False
    with torch.no_grad():
        assert network(torch.randn(1, 4, 33, 47)).shape == (1, 3, 33, 47)


def test_a_new_network_is_in_training_mode_with_fresh_statistics():
    network = build("Unet", encoder="tu-resnet18")
    assert all(m.training for m in network.modules())
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(int(m.num_batches_tracked) == 0 for m in norms)


def test_copies_share_nothing():
    network = build("Unet").eval()
    twin = copy.deepcopy(network)
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = network(x)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(twin(x), expected)


def test_smp_is_imported_only_when_asked_for():
    code = (
        "import sys\n"
        "from semiweak.networks.build import build_network\n"
        "build_network(in_channels=1, out_channels=2, widths=[2])\n"
        "assert not {'segmentation_models_pytorch', 'timm', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "resunet"}, "network='resunet' is not known; it is 'unet' .* 'smp.FPN'"),
        ({"network": "fpn"}, "network='fpn' is not known; it is 'unet' .* 'smp.FPN'"),
        ({"network": "smp.nothing"}, "'smp.nothing' is not known"),
        ({"network": "smp.FPN", "spatial_dims": 3}, "'smp.FPN' works on 2D images only"),
        ({"network": "smp.FPN", "norm": "group"}, "widths, norm and dropout belong to"),
        ({"network": "smp.FPN", "widths": [4, 8]}, "widths, norm and dropout belong to"),
        ({"network": "smp.FPN", "dropout": 0.1}, "widths, norm and dropout belong to"),
        ({"network": "smp.FPN", "in_channels": 0}, "in_channels=0, but"),
        ({"network": "smp.FPN", "encoder": "resnet35"}, "near to it are .*'resnet34'"),
        ({"network": "smp.FPN", "encoder": "tu-convnext_tinny"}, "near .*'tu-convnext_tiny'"),
        ({"network": "smp.FPN", "encoder": "tu-resnet18.nothing"}, "cannot be built with"),
        ({"network": "smp.FPN", "encoder_weights": "none"}, "Available options are.*imagenet"),
        ({"network": "smp.DeepLabV3", "encoder": "vgg11"}, "smp.DeepLabV3' cannot be built with"),
        ({"network": "smp.DPT"}, "such as 'tu-vit_small_patch16_224'"),
        ({"network": "unet", "encoder": "resnet18"}, "did you mean network='smp.Unet'"),
        ({"network": "unet", "encoder_weights": "imagenet"}, "did you mean network='smp.Unet'"),
        ({"network": "unet", "norm": "layer"}, "norm='layer', but"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(**({"in_channels": 1, "out_channels": 2} | arguments))


def test_an_encoder_of_one_image_size_is_told():
    with pytest.raises(ValueError, match=r"does not work with smp\.Unet on images of any"):
        build("Unet", encoder="tu-hiera_tiny_224")


def test_wrong_images_are_told():
    network = build("Unet")
    for call in (network, network.features, network.features_and_output):
        with pytest.raises(ValueError, match="built for in_channels=1, but the images have 3"):
            call(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("encoder", "asked", "given"),
    [
        ("resnet18", None, None),
        ("resnet18", "imagenet", "imagenet"),
        ("tu-resnet18", None, None),
        ("tu-resnet18", "imagenet", True),
    ],
)
def test_pretrained_weights_are_asked_for_in_smps_words(monkeypatch, encoder, asked, given):
    from semiweak.networks import smp as adapter

    def record(**arguments):
        assert arguments["encoder_weights"] is given or arguments["encoder_weights"] == given
        assert arguments["encoder_name"] == encoder
        raise ValueError("recorded")

    record.__name__ = "FPN"
    monkeypatch.setitem(adapter.ARCHITECTURES, "fpn", record)
    with pytest.raises(ValueError, match="recorded"):
        build("FPN", encoder=encoder, encoder_weights=asked)
