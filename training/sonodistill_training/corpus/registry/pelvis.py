"""Pelvis data sets: ovarian tumours (MMOTU), micro-ultrasound and transperineal ultrasound of the prostate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.core import DataSet, cc_by_nc_sa, unknown_licence
from sonodistill_training.corpus.registry.labels import VolumeMask
from sonodistill_training.corpus.registry.readers import Files, Known, Masks, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MMOTU_SPLITS = {"train_cls": "train", "val_cls": "test"}
_TUMOURS = {
    "0": "chocolate cyst",
    "1": "serous cystadenoma",
    "2": "teratoma",
    "3": "theca cell tumor",
    "4": "simple cyst",
    "5": "normal ovary",
    "6": "mucinous cystadenoma",
    "7": "high grade serous",
}


def _classes(path: Path) -> list[dict[str, str]]:
    """A row a line of "138.JPG  3": image and class."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) != 2:
            raise DatasetError(f"has a line {line!r} that is no image and class", path=path, remedy="copy it again")
        rows.append({"image": words[0], "class": words[1]})
    return rows


def _mmotu(folder: str, labels: Mapping[str, str]) -> tuple[Files, Known]:
    """The layout that both parts have."""
    return (
        Files(
            rf"{folder}/images/(?P<number>\d+)\.jpg",
            group="{number}",
            label="{class}",
            labels=labels,
            split=lambda fields: _MMOTU_SPLITS.get(fields["table.stem"].lower(), ""),
            mask=Masks(f"{folder}/annotations/{{number}}_binary*.png"),
            table=Table(f"{folder}/*_cls.txt", key="{image}", match="{name}", rows=_classes),
        ),
        Known(rf"{folder}/(?:annotations/\d+\.png|[^/]+\.txt)|[^/]*readme[^/]*"),
    )


MMOTU_2D = DataSet(
    key="mmotu_2d",
    name="Multi-Modality Ovarian Tumor Ultrasound, OTU_2d",
    anatomy="ovary",
    modality="B-mode stills (JPEG), with text, callipers and colour Doppler boxes in some",
    size="1,469 images",
    licence=unknown_licence("the repository states none for the data; ask its authors before passing it on"),
    url="https://github.com/cv516Buaa/MMOTU_DS2Net",
    doi="10.48550/arXiv.2207.06799",
    citation="Zhao Q. et al. A Multi-Modality Ovarian Tumor Ultrasound Image Dataset for Unsupervised Cross-Domain "
    "Semantic Segmentation. arXiv:2207.06799, 2022.",
    access="Google Drive, without registration",
    layout="OTU_2d/images/N.JPG, OTU_2d/annotations/N.PNG (by class) and N_binary.PNG, OTU_2d/{train,val}_cls.txt; "
    "from several public loaders of it, not verified on the data",
    grouping="image: patients are not published, so two images of one may be parted",
    published={"items": 1469, "masks": 1469, "split:train": 1000, "split:test": 469},
    table1="MMOTU-2D",
    notes="Masks are the binary ones (_binary_binary in some copies). The list called val is the paper's test set.",
    structure="tumour",
    adapter=_mmotu("OTU_2d", _TUMOURS),
)

MMOTU_3D = DataSet(
    key="mmotu_3d",
    name="Multi-Modality Ovarian Tumor Ultrasound, OTU_CEUS (folder OTU_3d)",
    anatomy="ovary",
    modality="contrast-enhanced stills (JPEG)",
    size="170 images",
    licence=MMOTU_2D.licence,
    url=MMOTU_2D.url,
    doi=MMOTU_2D.doi,
    citation=MMOTU_2D.citation,
    access=MMOTU_2D.access,
    layout="OTU_3d/images/N.JPG, OTU_3d/annotations/N.PNG and N_binary.PNG, OTU_3d/{train,val}_cls.txt; from two "
    "public loaders of it, not verified on the data",
    grouping=MMOTU_2D.grouping,
    published={"items": 170, "masks": 170, "split:train": 70, "split:test": 100},
    table1="MMOTU-3D",
    notes="Called 3D in the table and by its folder; its authors describe 170 stills with contrast agent, no "
    "volumes. Labels are the published class numbers: loaders disagree on their names here.",
    structure="tumour",
    adapter=_mmotu("OTU_3d", {}),
)

MICROSEG = DataSet(
    key="microseg",
    name="Micro-Ultrasound Prostate Segmentation Dataset",
    anatomy="prostate",
    modality="transrectal micro-ultrasound (29 MHz, ExactVu) sweeps as volumes (NIfTI)",
    size="75 sweeps of as many patients",
    licence=unknown_licence("see the Zenodo record before passing it on"),
    url="https://zenodo.org/records/10475293",
    doi="10.5281/zenodo.10475293",
    citation="Jiang H. et al. MicroSegNet: A deep learning approach for prostate segmentation on micro-ultrasound "
    "images. Computerized Medical Imaging and Graphics 112:102326, 2024.",
    access="download without registration",
    layout="{train,test}/micro_ultrasound_scans/microUS_SPLIT_NN.nii.gz, "
    ".../expert_annotations/expert_annotation_SPLIT_NN"
    ".nii.gz, folders of other annotators; from the authors' code and several public loaders, not verified on the data",
    grouping="patient (one sweep each)",
    published={"items": 75, "masks": 75, "split:train": 55, "split:test": 20},
    table1="MicroSeg",
    notes="Masks are the expert's. Slices may lie upside down: a public loader turns them by 180 degrees.",
    structure="prostate",
    adapter=(
        Files(
            r"(?P<split>train|test)/micro_ultrasound_scans/microUS_(?P<case>(?:train|test)_\d+)\.nii\.gz",
            group="{case}",
            split="{split}",
            axis=0,
            mask=Masks("{split}/expert_annotations/expert_annotation_{case}.nii.gz", make=VolumeMask),
        ),
        Known(r"(?:train|test)/(?!expert_)[^/]*annotations?/.*\.nii\.gz|[^/]*readme[^/]*"),
    ),
)


@dataclass(frozen=True, slots=True)
class StructureVolumes:
    """A label volume of four dimensions, a structure each: (structures, slices, H, W). Code is the structure's number.

    Attributes:
        path: the file.
        codes: number of structures that are read; of two on one pixel the higher wins.
    """

    path: Path
    codes: int
    frames: frozenset[int] | None = None

    def load(self, shape: tuple[int, int], frame: int = 0) -> NDArray[np.uint8]:
        """(H, W) uint8: 0 background, 1 to ``codes``.

        Errors: DatasetError for a damaged file, one of another shape, or a slice that is not there.
        """
        import numpy as np
        import SimpleITK as sitk

        try:
            volume = sitk.GetArrayFromImage(sitk.ReadImage(str(self.path)))
        except RuntimeError as error:
            raise DatasetError("the label volume cannot be read", path=self.path, remedy="copy it again") from error
        if volume.ndim != 4:
            raise DatasetError(
                f"has {volume.ndim} dimensions, not structures x slices x rows x columns", path=self.path
            )
        if not 0 <= frame < volume.shape[1] or volume.shape[2:] != shape:
            raise DatasetError(
                f"of slice {frame} and {shape[1]} x {shape[0]} pixels there is none in {volume.shape}", path=self.path
            )
        mask = np.zeros(shape, np.uint8)
        for code in range(1, min(self.codes, len(volume)) + 1):
            mask[volume[code - 1, frame] > 0] = code
        return mask


MU_REGPRO = DataSet(
    key="mu_regpro",
    name="µ-RegPro: MR to ultrasound registration for the prostate",
    anatomy="prostate",
    modality="transperineal volumes put together from rotated frames, 0.8 mm voxels, 81 x 118 x 88 (NIfTI)",
    size="73 public volumes of as many patients (65 training, 8 validation)",
    licence=cc_by_nc_sa("the challenge's policies; for research only"),
    url="https://zenodo.org/records/8004388",
    doi="10.5281/zenodo.8004388",
    citation="Baum Z. et al. MR to Ultrasound Registration for Prostate Challenge - Dataset. Zenodo, 2023.",
    access="download without registration; train.zip and val.zip",
    layout="{train,val}/{us_images,us_labels,mr_images,mr_labels}/caseNNNNNN.nii.gz, labels of four dimensions; from "
    "the organisers' loader (muregpro/Baseline-Networks) and two others, not verified on the data",
    grouping="patient",
    published={"items": 73, "masks": 73, "split:train": 65, "split:validation": 8},
    table1="mu-RegPro",
    notes="Mask codes 1 to 6 are the published structures in their order, glands and landmarks. The MR half is no "
    "item.",
    adapter=(
        Files(
            r"(?P<folder_>train|val)/us_images/(?P<case>case\d+)\.nii\.gz",
            group="{case}",
            split=lambda fields: "train" if fields["folder_"].lower() == "train" else "validation",
            axis=0,
            mask=Masks("{folder_}/us_labels/{case}.nii.gz", make=lambda paths: StructureVolumes(paths[0], codes=6)),
        ),
        Known(r"(?:train|val)/mr_(?:images|labels)/[^/]+\.nii\.gz|[^/]*readme[^/]*"),
    ),
)

DATA_SETS = (MMOTU_2D, MMOTU_3D, MICROSEG, MU_REGPRO)
