"""The published checkpoints that geoelle knows by name.

A revision, size or sha256 stands here only where somebody published it, and a comment says who. Where none is known,
the first download is recorded beside the file (`geoelle.encoders.weights_cache`) and every later one is held to that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published file of weights."""

    name: str
    """Name in geoelle, e.g. `clay-v1.5`."""
    repo: str
    """Repository on the hub, `owner/name`; empty where `url` is the address."""
    filename: str
    """File in the repository, or what the download is called."""
    revision: str | None
    """Commit of the repository; None: that of the first download, which is recorded."""
    url: str
    """Address of a file that is on no hub."""
    n_bytes: int | None
    """Size of the file; None: not known exactly."""
    sha256: str | None
    """Of the file, or its first digits where only these are published; None: that of the first download, recorded."""
    licence: str
    non_commercial: bool
    inside: str = ""
    """Key of the state dict in a file that holds more; empty: the file is the state dict."""
    strip: tuple[str, ...] = ()
    """Prefixes taken off the names of tensors."""
    drop: tuple[str, ...] = ()
    """Prefixes, after that, of tensors that are left out."""
    about_mb: float = 0.0
    """Size in 10^6 bytes, rounded, as published where `n_bytes` is None; 0: not known."""

    @property
    def size_mb(self) -> float:
        """Size of the download in 10^6 bytes; 0: not known."""
        return self.about_mb if self.n_bytes is None else self.n_bytes / 1e6

    @property
    def source(self) -> str:
        """Where it is published, for people."""
        return f"{self.repo}/{self.filename}" if self.repo else self.url


_APACHE = "Apache-2.0"
_MIT = "MIT"
_DOFA = "CC-BY-4.0 (code: MIT)"
_SATMAE = "CC-BY-NC-4.0 (of the code; the record of the weights names none)"


def _prithvi(
    name: str, repo: str, filename: str, revision: str, sha256: str, n_bytes: int | None = None, about_mb: float = 0.0
) -> Checkpoint:
    return Checkpoint(
        name, f"ibm-nasa-geospatial/{repo}", filename, revision, "", n_bytes, sha256, _APACHE, False, about_mb=about_mb
    )


def _satmae(name: str, record: int, filename: str, about_mb: float) -> Checkpoint:
    # Optimizer, scaler and an argparse.Namespace lie beside `model` (util/misc.py of the repository).
    url = f"https://zenodo.org/records/{record}/files/{filename}?download=1"
    return Checkpoint(name, "", filename, None, url, None, None, _SATMAE, True, inside="model", about_mb=about_mb)


def _satclip(
    tower: str, repo: str, revision: str, sha256: str, about_mb: float, n_bytes: int | None = None
) -> Checkpoint:
    # A Lightning file: names begin with `model.`, hyper-parameters and optimizer lie beside.
    return Checkpoint(
        f"satclip-{tower}", f"microsoft/SatCLIP-{repo}", f"satclip-{tower}.ckpt", revision, "", n_bytes, sha256, _MIT,
        False, inside="state_dict", strip=("model.",), about_mb=about_mb,
    )  # fmt: skip


# fmt: off
PUBLISHED: tuple[Checkpoint, ...] = (
    # 632.8 M values and AdamW's moments of the 328 M trained; the teacher is a public DINOv2, `proj` maps to it.
    Checkpoint(
        "clay-v1.5", "made-with-clay/Clay", "v1.5/clay-v1.5.ckpt", None, "", None, None, _APACHE, False,
        inside="state_dict", strip=("model.",), drop=("teacher.", "mrl.", "proj."), about_mb=5160.0,
    ),
    # Pins of the next four: public projects that record them beside the hub's own LFS checksum. The one of 2.0-300M-TL
    # was found in three of them, that of 1.0 in three, of tiny in two, of 2.0-300M in one.
    _prithvi(
        "prithvi-eo-1.0-100m", "Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt",
        "f3a9ea7a1723621b0aeceb4de993093704d712c5",
        "7fac0c8a8693198e32a055e0c5a967f8b005f382182b63df1b29fdcd5c880731", n_bytes=453_671_052,
    ),
    _prithvi(
        "prithvi-eo-2.0-300m", "Prithvi-EO-2.0-300M", "Prithvi_EO_V2_300M.pt",
        "9eb1b1102806593963daa333bcc491b1c6f8562f",
        "faab2c8b776f0723f93431747603a7ec586a54fc45473613b4322c29752486e7", about_mb=1327.0,
    ),
    _prithvi(
        "prithvi-eo-2.0-300m-tl", "Prithvi-EO-2.0-300M-TL", "Prithvi_EO_V2_300M_TL.pt",
        "63adbd39c271da4c42f447e69b1a7c91a338cdc9",
        "3629cedfbb350faafcb0dac902ae0d3c927e25ce8d9e0024aa1276ec66956ddb", n_bytes=1_326_660_716,
    ),
    _prithvi(
        "prithvi-eo-2.0-tiny-tl", "Prithvi-EO-2.0-tiny-TL", "Prithvi_EO_V2_tiny_TL.pt",
        "335eadc2c45ad5abe7bd307223e1c48c5b60c41b",
        "d47326db9bad502b611f73e3e3f3a0e68b7b82640d67c22c795417f7209f8d70",
    ),
    _satmae("satmae-vitb", 7338613, "pretrain-vit-base-e199.pth", 1300.0),
    _satmae("satmae-vitl", 7338613, "pretrain-vit-large-e199.pth", 3900.0),
    _satmae("satmae-rgb-vitl", 7369797, "fmow_pretrain.pth", 0.0),
    # torchgeo's files hold the encoder alone. Revision and first digits: torchgeo 0.10, `models/dofa.py`.
    Checkpoint(
        "dofa-base", "torchgeo/dofa", "dofa_base_patch16_224-a0275954.pth",
        "b8db318b64a90b9e085ec04ba8851233c5893666", "", None, "a0275954", _DOFA, False, about_mb=445.0,
    ),
    Checkpoint(
        "dofa-large", "torchgeo/dofa", "dofa_large_patch16_224-0ff904d3.pth",
        "b8db318b64a90b9e085ec04ba8851233c5893666", "", None, "0ff904d3", _DOFA, False, about_mb=1350.0,
    ),
    # Encoder, decoder, the ViT that taught it, and AdamW's moments; no longer in the repository's main branch.
    Checkpoint(
        "dofa-base-full", "earthflow/DOFA", "DOFA_ViT_base_e120_full_weight.pth",
        "61ce7f11c78ff1677af3e1882fdedc02e3fbc647", "", None,
        "8bd5ba841a8f90460dea1e1dcc78b6cf7c38e55f34d715b9ca92d624828622a9", _DOFA, False,
        inside="model", drop=("teacher.",), about_mb=2210.0,
    ),
    # Pins of all six: bradleylab/ml-containers, satclip/Dockerfile, against the hub's checksums; that of ViT16-L40 is
    # also in torchgeo 0.10.
    _satclip("vit16-l10", "ViT16-L10", "829a79064fade0233c68bf01b7a3155be1b8778b",
             "c7596a5f7aacf72a7c49587a2a5a80f23cf61000a36b46e471c1422b273ca9c0", 103.0, 102_550_795),
    _satclip("vit16-l40", "ViT16-L40", "0ef2acc0b91d3c8cfdf4a0cc03207095989287ab",
             "c54c794cb8f95d4a141506656581240008570194b309c91217d86a6d4da5399f", 121.0),
    _satclip("resnet18-l10", "ResNet18-L10", "5263ff2455427581783c399808bdaa6c83857578",
             "c4af9559afb43d9c8be2781d4f70ce3f8a1087ea5a3773906c7c50ed05479ebd", 57.0),
    _satclip("resnet18-l40", "ResNet18-L40", "983a9d9d1f2f933f9a6a6225a214917fb58659d8",
             "6e2ed15146566170829bae8dd506d8274cd6fe4534c0ef407668dc3ccb04d2f1", 76.0),
    _satclip("resnet50-l10", "ResNet50-L10", "f41ed774863f2b0297e6f096eb3e3490888c03c2",
             "87ad5e8ca152e9564896f48de033e8d4278665bce049d36b3794847a430e69b1", 111.0),
    _satclip("resnet50-l40", "ResNet50-L40", "b66714c7308a55d12849d1ea43f892440d78e41a",
             "50df6453c20ce82b51ceba89811dcf1a21e7fa9d625cbc630f4cdcc4fc0de53a", 130.0),
    # sha256 of the file of commit 13173d028f03, which lies in the project's data; another project records the same one
    # for the commit named here, whose full name is known.
    Checkpoint(
        "presto", "", "default_model.pt", "11e207a668a34336ced1d8e492a1bd5849b96c4a",
        "https://raw.githubusercontent.com/nasaharvest/presto/11e207a668a34336ced1d8e492a1bd5849b96c4a/data/default_model.pt",
        3_321_716, "559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65", _MIT, False,
    ),
)
# fmt: on
